"""
What the agent holds, whatever the stream, the time, the disk and the server's database do.

The real watch, book and disk against a server that is told what to say. At every moment: nothing
that is over is in force, nor what was taken back; in the end: exactly what the server has.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.policy.answer import Bounce, Suspension
from agent.policy.book import PolicyBook
from agent.policy.client import PolicyClient
from agent.policy.disk import GATHER_SECONDS, PolicyDisk
from agent.policy.watch import PolicyWatch
from agent.queue.names import QueueName
from penstock.v1 import policy_service_pb2 as pb
from tests.integration.watched_server import Action, Database, HandSetLoop, WatchedServer

TENANTS = ("acme", "other")
_TENANT = st.sampled_from(TENANTS)
_LASTS = st.sampled_from([0.5, 3.0, 60.0, None])
_MILLISECOND = 0.001


class _NoJitter(Random):
    def random(self) -> float:
        return 0.0


class PolicyMachine(RuleBasedStateMachine):
    """An agent, its server, and what may happen to both."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = HandSetLoop()
        self.server = WatchedServer(self.loop.time)
        self.directory = Path(tempfile.mkdtemp())
        self.backup: Database | None = None
        self.databases = 0
        self.agent_up()

    def agent_up(self) -> None:
        self.disk = PolicyDisk(self.directory / "policy.db")
        time = self.loop.time
        self.book = PolicyBook(self.disk, clock=time, random=_NoJitter(), steady=time)
        channel: Any = self.server
        client = PolicyClient(channel, self.book, agent_name="a", random=_NoJitter())
        self.watch = PolicyWatch(
            channel,
            self.book,
            client,
            agent_info=pb.AgentInfo(name="a"),
            clock=time,
            random=_NoJitter(),
        )
        self.run(self.book.open())
        self.loop.call_soon(self.watch.start)
        self.settle()

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def settle(self) -> None:
        async def turn() -> None:
            for _ in range(30):
                await asyncio.sleep(0)

        self.run(turn())

    def held(self) -> list[Suspension | Bounce]:
        return [*self.book.suspensions(), *self.book.bounces()]

    # What the server does.

    @rule(tenant=_TENANT, lasts=_LASTS, is_bounce=st.booleans())
    def begin(self, tenant: str, lasts: float | None, is_bounce: bool) -> None:
        action_id = self.server.database.next_id
        self.server.database.next_id += 1
        end = None if lasts is None else self.loop.now + lasts
        self.server.change(action_id, Action(tenant, end, is_bounce))

    @precondition(lambda self: self.server.database.actions)
    @rule(data=st.data(), lasts=_LASTS)
    def change(self, data: Any, lasts: float | None) -> None:
        action_id = data.draw(st.sampled_from(sorted(self.server.database.actions)))
        action = self.server.database.actions[action_id]
        end = None if lasts is None else self.loop.now + lasts
        self.server.change(action_id, Action(action.tenant, end, action.is_bounce))

    @precondition(lambda self: self.server.database.actions)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        self.server.change(data.draw(st.sampled_from(sorted(self.server.database.actions))), None)

    @rule()
    def back_up(self) -> None:
        self.backup = self.server.database.copy()

    @precondition(lambda self: self.backup is not None)
    @rule(breaks_streams=st.booleans())
    def put_back(self, breaks_streams: bool) -> None:
        assert self.backup is not None
        self.databases += 1
        self.server.put_in_place(self.backup.copy(), breaks_streams=breaks_streams)
        self.settle()

    @rule()
    def begin_anew(self) -> None:
        self.databases += 1
        self.backup = None
        database = Database(f"another-{self.databases}")
        self.server.put_in_place(database, breaks_streams=True)
        self.settle()

    # What the stream does.

    @precondition(lambda self: self.server.call is not None and self.server.call.is_open)
    @rule()
    def send(self) -> None:
        assert self.server.call is not None
        if self.server.call.dirty or self.server.call.parts_left:
            self.server.call.send_next()
        self.settle()

    @rule()
    def hang_up(self) -> None:
        self.server.hang_up()
        self.settle()

    @precondition(lambda self: self.server.call is not None and self.server.said)
    @rule(back=st.integers(1, 4), is_renumbered=st.booleans())
    def say_again(self, back: int, is_renumbered: bool) -> None:
        """Repeat a response: the last ones as they were, or any late, as if it were new."""
        call, said = self.server.call, self.server.said
        assert call is not None
        again = pb.WatchPolicyResponse()
        again.CopyFrom(said[-min(back, len(said))])
        of_this_stream = min(back, len(said)) <= call.number
        is_whole = again.kind == pb.WatchPolicyResponse.KIND_DELTA
        if not of_this_stream or (is_renumbered and not is_whole) or not again.nonce:
            return
        if is_renumbered:
            call.number += 1
            again.nonce = str(call.number)
            # It is late, not a part of what is being sent.
            again.token = b""
            if call.parts_left:
                return
        call.inbox.put_nowait(again)
        self.settle()

    @rule(tenant=_TENANT, lasts=st.sampled_from([60.0, None]), is_changed=st.booleans())
    def say_what_was_taken_back(self, tenant: str, lasts: float | None, is_changed: bool) -> None:
        """Of an action's life the first word comes once more, after the last."""
        action_id = self.server.database.next_id
        self.begin(tenant, lasts, is_bounce=False)
        self.agree()
        words = [
            one for one in self.server.said if any(int(r.name) == action_id for r in one.resources)
        ]
        if is_changed:
            self.server.change(action_id, Action(tenant, self.loop.now + 90))
            self.agree()
        self.server.change(action_id, None)
        self.agree()
        call = self.server.call
        if call is None or not words:
            return
        again = pb.WatchPolicyResponse(kind=pb.WatchPolicyResponse.KIND_DELTA)
        again.resources.extend(words[-1].resources)
        again.server_time.CopyFrom(words[-1].server_time)
        call.number += 1
        again.nonce = str(call.number)
        call.inbox.put_nowait(again)
        self.settle()
        assert action_id not in {one.action_id for one in self.held()}

    # What time and the agent do.

    @rule(seconds=st.sampled_from([_MILLISECOND, 0.1, 0.5, 5.0, 20.0]))
    def wait(self, seconds: float) -> None:
        self.loop.now += seconds
        self.server.expire()
        self.settle()

    @precondition(lambda self: self.server.database.actions)
    @rule(data=st.data())
    def wait_for_an_end(self, data: Any) -> None:
        ends = [one.end for one in self.server.database.actions.values() if one.end is not None]
        if not ends:
            return
        end = data.draw(st.sampled_from(sorted(ends)))
        self.loop.now = max(self.loop.now, end - _MILLISECOND)
        self.settle()
        self.check_that_nothing_over_is_in_force()
        self.loop.now = max(self.loop.now, end)
        self.check_that_nothing_over_is_in_force()
        self.server.expire()
        self.settle()

    @rule()
    def restart(self) -> None:
        self.run(self.watch.close())
        self.run(self.book.close())
        self.agent_up()

    @rule(is_written=st.booleans())
    def kill(self, is_written: bool) -> None:
        """The last changes may or may not have reached the disk."""
        if is_written:
            self.run(self._write())
        self._end_agent()
        self.agent_up()

    async def _write(self) -> None:
        for _ in range(3):
            self.loop.now += GATHER_SECONDS
            await asyncio.sleep(0)
        while self.disk._changes or self.disk._writing:  # noqa: ASYNC110 # it tells nobody
            await asyncio.sleep(0)

    def _end_agent(self) -> None:
        self.run(self.watch.close())
        if self.book._timer is not None:
            self.book._timer.cancel()
        writer = self.disk._writer
        assert writer is not None
        writer.cancel()
        self.run(asyncio.wait([writer]))
        self.disk._thread.shutdown()

    # What must hold.

    @rule()
    def agree(self) -> None:
        """Once all is said, the agent holds exactly what the server has."""
        self.server.expire()
        for _ in range(20):
            self.settle()
            call = self.server.call
            if call is None or not call.is_open:
                continue
            if call.dirty or call.parts_left:
                call.send_next()
        self.settle()
        held = {one.action_id: one for one in self.held()}
        wanted = self.server.database.actions
        assert held.keys() == wanted.keys()
        for action_id, action in wanted.items():
            assert held[action_id].tenant == action.tenant
            if action.end is None:
                assert held[action_id].expire_time == float("inf")
            else:
                assert abs(held[action_id].expire_time - action.end) < _MILLISECOND / 2

    @invariant()
    def check_that_nothing_over_is_in_force(self) -> None:
        """By the latest end that the server has told of it; ends are exact to the millisecond."""
        ends: dict[int, float] = {}
        for response in self.server.said:
            for resource in response.resources:
                body = resource.suspension if resource.HasField("suspension") else resource.bounce
                end = float("inf")
                if body.HasField("expire_time"):
                    end = body.expire_time.seconds + body.expire_time.nanos / 1e9
                ends[body.action_id] = max(end, ends.get(body.action_id, 0.0))
        for one in self.held():
            assert self.loop.now < ends[one.action_id] + _MILLISECOND / 2
        for tenant in TENANTS:
            queue = QueueName(domain="foo.example", tenant=tenant)
            for found in (self.book.suspension_of_queue(queue), self.book.bounce_of(queue)):
                assert found is None or found.expire_time > self.loop.now

    @invariant()
    def check_that_what_was_taken_back_stays_so(self) -> None:
        """What the server has not in force, and has told so, is not in force here either."""
        call = self.server.call
        if call is None or not call.is_open or call.dirty or call.parts_left:
            return
        held = {one.action_id for one in self.held()}
        assert held <= self.server.database.actions.keys()

    def teardown(self) -> None:
        self._end_agent()
        self.loop.close()
        shutil.rmtree(self.directory)


TestPolicyMachine = PolicyMachine.TestCase
# Each step turns an event loop and each restart opens a database: fewer runs than of a pure one.
TestPolicyMachine.settings = settings(
    max_examples=max(15, settings.default.max_examples // 4), stateful_step_count=25, deadline=None
)
