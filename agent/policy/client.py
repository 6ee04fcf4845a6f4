"""
Client: how the agent's queues learn how a path may be used.

Fail-static. For each path the client uses, in this order:

1. the server's answer, pushed by the watch or asked for and refreshed as it ages;
2. while the server is away, the last answer, from memory or from disk, up to `max_stale` (24 h)
   after it was last confirmed. Overrides and suspensions in it end at their own time;
3. after that, the same path with conservative limits (`conservative.py`);
4. for a path of which nothing was ever heard: `PolicyUnavailable`, and its mail waits. The path
   name, under which mail is queued and counted, is the server's to give; a guess could put the
   mail beside the queue that it should share, and so exceed a limit that is already used up.

Questions asked within a few milliseconds go to the server as one batch.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from random import Random

import grpc

from agent.errors import PolicyUnavailable
from agent.policy.answer import Bounce, MxHost, PathPolicy, Suspension
from agent.policy.book import PolicyBook
from agent.policy.cache import CachedAnswer
from agent.policy.channel import identity
from agent.policy.effective import PathKey
from agent.queue.names import QueueName
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.policy_service_pb2_grpc import PolicyServiceStub

logger = logging.getLogger(__name__)

#: Most questions in one call, as the contract has it.
MAX_BATCH = 500
#: How long questions are gathered before they are sent together.
GATHER_SECONDS = 0.005
#: Longest wait for the server's answer.
DEADLINE_SECONDS = 2.0
_MAX_CALLS = 4
_MAX_QUESTIONS = 50_000
#: How long an answer that could not be refreshed is left alone, before jitter.
_RETRY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class _Question:
    key: PathKey
    mx_hosts: tuple[MxHost, ...]


class PolicyClient:
    """Answers from memory at once, from the server when need be; a `PolicySource`."""

    def __init__(
        self,
        channel: grpc.aio.Channel,
        book: PolicyBook,
        *,
        agent_name: str,
        random: Random,
        worker: str = "",
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        """Ask over *channel* as *agent_name*; keep answers in *book*; *deadline* in seconds."""
        self._stub = PolicyServiceStub(channel)
        self._metadata = identity(agent_name, worker)
        self._book = book
        self._random = random
        self._deadline = deadline
        self._waiting: dict[_Question, asyncio.Future[str]] = {}
        self._asked: dict[_Question, asyncio.Future[str]] = {}
        self._calls: set[asyncio.Task[None]] = set()
        self._gathering: asyncio.TimerHandle | None = None
        self._closed = False
        #: Calls made and calls that failed, for metrics.
        self.calls = 0
        self.failures = 0

    def lookup(self, routing_domain: str, egress_source: str) -> PathPolicy | None:
        """Return the answer in force now, None if the path was never asked for; never waits."""
        now = self._book.now()
        entry = self._book.find(routing_domain, egress_source, now)
        if entry is None:
            return None
        if entry.is_due(now):
            self._refresh(entry)
        return self._book.policy_of(entry, now)

    async def fetch(
        self, routing_domain: str, egress_source: str, mx_hosts: tuple[MxHost, ...]
    ) -> PathPolicy:
        """
        Ask the server, within the deadline; else return what was last known.

        An answer for the same MX hosts that is not due to be refreshed is returned without
        asking. Errors: `PolicyUnavailable` for a path of which nothing is known.
        """
        key = PathKey(routing_domain=routing_domain, egress_source=egress_source)
        now = self._book.now()
        entry = self._book.find(routing_domain, egress_source, now)
        if entry is not None and entry.answer.mx_hosts == mx_hosts and not entry.is_due(now):
            return self._book.policy_of(entry, now)
        asked = self._ask(_Question(key, mx_hosts))
        await asyncio.wait([asked], timeout=self._deadline)
        entry = await self._book.recall(key)
        if entry is None:
            reason = asked.result() if asked.done() else "no answer within the deadline"
            raise PolicyUnavailable(f"{routing_domain} by {egress_source}: {reason}")
        now = self._book.now()
        if entry.is_due(now):
            self._put_off(entry)
        return self._book.policy_of(entry, now)

    def suspension_of(
        self, policy: PathPolicy, tenant: str = "", campaign: str = ""
    ) -> Suspension | None:
        """Return what holds such mail on this path now, the one that ends last."""
        return self._book.suspension_of(policy, tenant, campaign)

    def suspension_of_path(self, policy: PathPolicy) -> Suspension | None:
        """Return what holds all mail of this path now, the one that ends last."""
        return self._book.suspension_of_path(policy)

    def suspension_of_queue(self, queue: QueueName) -> Suspension | None:
        """Return what holds the mail of this queue now, whichever path it takes."""
        return self._book.suspension_of_queue(queue)

    def is_in_force(self, suspension: Suspension) -> bool:
        """Say whether *suspension* holds what it held, until the same time."""
        return self._book.is_in_force(suspension)

    def bounce_of(self, queue: QueueName) -> Bounce | None:
        """Return what bounces the mail of this queue now, the one that ends last."""
        return self._book.bounce_of(queue)

    @property
    def bounces_begun(self) -> int:
        """How many bounces came into force so far."""
        return self._book.bounces_begun

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an answer or a suspension has changed."""
        self._book.subscribe(listener)

    def refresh(self, keys: Iterable[PathKey]) -> None:
        """Ask for these again, in the background; the answers held serve meanwhile."""
        for key in keys:
            answer = self._book.peek(key)
            if answer is not None and not self._closed:
                self._ask(_Question(key, answer.mx_hosts))

    async def close(self) -> None:
        """Cancel what is under way."""
        self._closed = True
        if self._gathering is not None:
            self._gathering.cancel()
        for call in list(self._calls):
            call.cancel()
        if self._calls:
            await asyncio.wait(self._calls)
        self._finish(list(self._waiting), "the agent is stopping")

    def _refresh(self, entry: CachedAnswer) -> None:
        # Whatever comes of it, this path is not asked for again at every look.
        self._put_off(entry)
        self.refresh([entry.answer.key])

    def _put_off(self, entry: CachedAnswer) -> None:
        self._book.put_off_refresh(entry, _RETRY_SECONDS * self._random.uniform(0.5, 1.5))

    def _ask(self, question: _Question) -> asyncio.Future[str]:
        """Have *question* asked; the future tells why there is no answer, empty if there is."""
        under_way = self._waiting.get(question) or self._asked.get(question)
        if under_way is not None:
            return under_way
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[str] = loop.create_future()
        if self._closed or len(self._waiting) >= _MAX_QUESTIONS:
            answered.set_result("the agent is stopping" if self._closed else "too many questions")
            return answered
        self._waiting[question] = answered
        if self._gathering is None and len(self._calls) < _MAX_CALLS:
            self._gathering = loop.call_later(GATHER_SECONDS, self._send)
        return answered

    def _send(self) -> None:
        self._gathering = None
        while self._waiting and len(self._calls) < _MAX_CALLS and not self._closed:
            batch = list(self._waiting)[:MAX_BATCH]
            for question in batch:
                self._asked[question] = self._waiting.pop(question)
            call = asyncio.get_running_loop().create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._on_call_done)

    def _on_call_done(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        if not call.cancelled() and (error := call.exception()) is not None:
            logger.error("policy call failed", exc_info=error)
        self._send()

    async def _call(self, batch: list[_Question]) -> None:
        reason = "the call was cancelled"
        self.calls += 1
        asked_at = self._book.elapsed
        call = self._stub.BatchGetEgressPathConfigs(
            pb.BatchGetEgressPathConfigsRequest(requests=[self._request(one) for one in batch]),
            timeout=self._deadline,
            metadata=self._metadata,
        )
        try:
            response = await call
            reason = "the server left the question out"
            for question, result in zip(batch, response.results, strict=False):
                self._finish([question], self._take(question, result, asked_at))
        except grpc.aio.AioRpcError as error:
            self.failures += 1
            reason = f"{error.code().name}: {error.details()}"
            logger.info("policy server not reached", extra={"reason": reason})
        finally:
            call.cancel()
            self._finish(batch, reason)

    def _request(self, question: _Question) -> pb.GetEgressPathConfigRequest:
        held = self._book.peek(question.key)
        same = held is not None and held.mx_hosts == question.mx_hosts
        return pb.GetEgressPathConfigRequest(
            routing_domain=question.key.routing_domain,
            egress_source=question.key.egress_source,
            mx_hosts=[
                pb.MxHost(host=mx.host, preference=mx.preference) for mx in question.mx_hosts
            ],
            if_none_match=held.response.etag if held is not None and same else "",
        )

    def _take(self, question: _Question, result: pb.EgressPathResult, asked_at: float) -> str:
        """Put an answer in the book; return why there is none, empty if there is."""
        if result.WhichOneof("result") != "response":
            return result.error.message or "the server gave no reason"
        rejection = self._book.apply_answer(
            question.key, question.mx_hosts, result.response, asked_at=asked_at
        )
        if rejection is None:
            return ""
        logger.warning(
            "policy answer not usable",
            extra={"routing_domain": question.key.routing_domain, "reason": rejection.message},
        )
        return rejection.message

    def _finish(self, questions: list[_Question], reason: str) -> None:
        for question in questions:
            answered = self._asked.pop(question, None) or self._waiting.pop(question, None)
            if answered is not None:
                with contextlib.suppress(asyncio.InvalidStateError):
                    answered.set_result(reason)
