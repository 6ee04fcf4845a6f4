"""An agent that is ended again and again, the mail that is given to it, and what became of it."""

import asyncio
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiosmtplib
import grpc

from agent.outcomes.log_file import CURRENT, open_log, rotated_files
from agent.sink.dns_server import DnsServer
from agent.sink.server import Sink
from agent.sink.settings import parse_sink_settings
from agent.workers.place import find_shards, shard_dir
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.injection_service_pb2 import InjectRequest, InjectStreamRequest
from penstock.v1.injection_service_pb2_grpc import InjectionServiceStub
from penstock.v1.queue_service_pb2 import BounceQueueRequest, RebindQueueRequest
from penstock.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.acceptance.fleet import fetch
from tests.integration.dispatch_world import make_config
from tests.integration.policy_peer import PolicyPeer

#: Connections that the agent may have, each with at most one message in doubt.
CONNECTIONS = 3
#: Messages are larger than this by a body file, or else in the database.
LARGE = 16 * 1024
#: Types of records that end a message for a recipient.
FINAL = {"Delivery", "Bounce", "Expiration", "AdminBounce"}
_REPORTED = FINAL | {"TransientFailure"}

_SINK = {
    "sink": {"http_listen": ""},
    "provider": [
        {
            "name": "big",
            "listen": ["127.0.0.1:0"],
            "recipient": [
                {"pattern": "^gone", "reply": "550 5.1.1 no such user"},
                {"pattern": "^held", "reply": "450 4.2.1 later"},
                {"pattern": "^slow", "reply": "451 4.2.1 later", "probability": 0.5},
            ],
        }
    ],
}
_DOMAINS = ("big.example", "other.example", "sender.example", "held.example")
_ZONE = {
    "mx": {domain: [[10, "mx.big.example"]] for domain in _DOMAINS},
    "a": {"mx.big.example": ["127.0.0.1"]},
}
_CONFIG = """
[agent]
name = "mta-1"
data_dir = "{directory}/agent"
workers = {workers}
shutdown_timeout = "5s"
[policy]
server = "127.0.0.1:{policy}"
[listen]
smtp = "127.0.0.1:0"
grpc = "127.0.0.1:0"
http = "127.0.0.1:0"
[spool]
min_free_space = "{min_free_space}"
[dns]
nameservers = ["{dns}"]
[[source]]
name = "ip-1"
[[pool]]
name = "default"
sources = [{{ name = "ip-1" }}]
[queue]
egress_pool = "default"
retry_interval = "150ms"
max_retry_interval = "300ms"
"""


@dataclass(frozen=True, slots=True)
class Mail:
    """One message and what is to become of it."""

    number: int
    recipients: tuple[str, ...]
    is_large: bool

    @property
    def sender(self) -> str:
        """Known by its number, so that a notice is too."""
        return f"from{self.number}@sender.example"

    @property
    def identity(self) -> str:
        """Its Message-ID, as the provider counts it."""
        return f"{self.number}@sender.example"

    @property
    def content(self) -> bytes:
        """The message."""
        rest = b"x" * 70 + b"\r\n"
        body = rest * (LARGE // 50 if self.is_large else 10)
        return f"Message-ID: <{self.identity}>\r\nSubject: {self.number}\r\n\r\n".encode() + body

    @property
    def expected(self) -> set[str]:
        """What the provider is to accept: each with the recipient; the notice without its id."""
        good = {
            f"{self.identity} {one}"
            for one in self.recipients
            if not one.startswith(("gone", "held"))
        }
        told = {self.sender} if any(one.startswith("gone") for one in self.recipients) else set()
        return good | told


def make_mail(number: int) -> Mail:
    """A message of one of a few kinds."""
    kinds: tuple[tuple[str, ...], ...] = (
        (f"ok{number}@big.example",),
        (f"ok{number}@big.example", f"gone{number}@big.example"),
        (f"ok{number}@big.example", f"ok{number}@other.example", f"also{number}@other.example"),
        (f"slow{number}@big.example",),
        (f"gone{number}@other.example",),
        # Never taken: ends when an operator has it bounced.
        (f"held{number}@held.example",),
    )
    return Mail(number, kinds[number % len(kinds)], is_large=number % 3 == 0)


@dataclass
class CrashWorld:
    """The agent's surroundings, which outlive it."""

    directory: Path
    sink: Sink
    policy: PolicyPeer
    runner: "asyncio.subprocess.Process"
    dice: random.Random
    sent: dict[int, Mail] = field(default_factory=dict)
    #: By number, with the moment in which the sender knew of it.
    acknowledged: dict[int, int] = field(default_factory=dict)
    #: Orders by their request id, likewise.
    ordered: dict[str, int] = field(default_factory=dict)
    moment: Callable[[], int] = time.monotonic_ns
    crashes: int = 0
    _runs: int = 0
    _moves: int = 0

    @property
    def accepted(self) -> dict[str, int]:
        """How often the provider took each (Message-ID, recipient)."""
        return dict(self.sink.providers["big"].identities.seen)

    @asynccontextmanager
    async def agent(
        self, point: str = "", nth: int = 1, *, faults: Path | None = None
    ) -> AsyncIterator["Run"]:
        """
        Run an agent, to be ended by itself at *point* or by the caller; *faults* is the file that
        has its disk fail.
        """
        self._runs += 1
        ports, output = (self.directory / f"{kind}-{self._runs}" for kind in ("ports", "output"))
        order = {
            "config": str(self.directory / "agent.toml"),
            "ports": str(ports),
            "output": str(output),
            "point": point,
            "nth": nth,
            "faults": str(faults) if faults is not None else "",
        }
        assert self.runner.stdin is not None
        assert self.runner.stdout is not None
        self.runner.stdin.write(json.dumps(order).encode() + b"\n")
        pid = json.loads(await self.runner.stdout.readline())["pid"]
        ended = asyncio.create_task(self.runner.stdout.readline())
        run = Run(pid, ports, output, ended)
        try:
            yield run
        finally:
            if not ended.done():
                run.signal(signal.SIGKILL)
            status = json.loads(await ended)["status"]
            self.crashes += status == -signal.SIGKILL

    async def feed(self, run: "Run", count: int) -> None:
        """Give *count* messages in over a few connections, until the agent is gone."""
        ports = await run.ready()
        if ports is None:
            return
        numbers = iter(range(len(self.sent), len(self.sent) + count))
        mails = [make_mail(number) for number in numbers]
        self.sent |= {mail.number: mail for mail in mails}
        left = iter(mails)
        senders = [self._send(ports["smtp"], left) for _ in range(4)]
        await asyncio.gather(*senders, self._inject(ports["grpc"], left))

    def acknowledge(self, number: int) -> None:
        """The agent has taken a message."""
        self.acknowledged[number] = self.moment()

    async def _send(self, port: int, left: Any) -> None:
        try:
            async with aiosmtplib.SMTP(hostname="127.0.0.1", port=port, timeout=20) as client:
                for mail in left:
                    await client.sendmail(mail.sender, list(mail.recipients), mail.content)
                    self.acknowledge(mail.number)
        except (aiosmtplib.SMTPException, OSError):
            # The agent is gone: what was not acknowledged is the sender's to send again.
            return

    async def _inject(self, port: int, left: Any) -> None:
        """Over one call, without waiting for each answer."""

        def requests() -> Iterator[InjectStreamRequest]:
            for mail in left:
                message = InjectRequest(
                    sender=mail.sender, recipients=mail.recipients, content=mail.content
                )
                yield InjectStreamRequest(request_id=mail.number, message=message)

        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            try:
                async for answer in InjectionServiceStub(channel).InjectStream(requests()):
                    if answer.HasField("accepted"):
                        self.acknowledge(answer.request_id)
            except grpc.aio.AioRpcError:
                return

    async def order_bounce(self, port: int) -> None:
        """Have what waits for held.example bounce, for an hour."""
        async with _queue_service(port) as stub:
            request = BounceQueueRequest(reason="test", request_id=f"bounce {self._runs}")
            request.selector.domain = "held.example"
            request.duration.FromSeconds(3600)
            await stub.BounceQueue(request, timeout=20)
        self.ordered[request.request_id] = self.moment()

    async def give_orders(self, run: "Run") -> None:
        """Have mail bounced, and moved from queue to queue, until the agent is gone."""
        ports = await run.ready()
        if ports is None:
            return
        try:
            await self.order_bounce(ports["grpc"])
            async with _queue_service(ports["grpc"]) as stub:
                while True:
                    self._moves += 1
                    request = RebindQueueRequest(tenant=f"t{self._moves}", reason="test")
                    request.selector.domain = "big.example"
                    request.always_flush = self._moves % 2 == 0
                    await stub.RebindQueue(request, timeout=20)
                    await asyncio.sleep(0.02)
        except grpc.aio.AioRpcError:
            return

    def is_done(self, ports: dict[str, int]) -> bool:
        """Whether the agent has delivered and reported all that it has."""
        url = f"http://127.0.0.1:{ports['http']}"
        status, metrics = fetch(f"{url}/status"), fetch(f"{url}/metrics")
        if status is None or metrics is None or self.missing():
            return False
        # A line for each worker, where there are several.
        outboxes = re.findall(r"^penstock_agent_outbox(?:{.*})? (\S+)$", metrics, re.MULTILINE)
        is_empty = not sum(json.loads(status)["queues"].values())
        return is_empty and bool(outboxes) and not any(map(float, outboxes))

    def missing(self) -> set[str]:
        """What the provider has yet to get of what was acknowledged."""
        accepted = self.accepted
        got = accepted.keys() | {key.rpartition(" ")[2] for key in accepted}
        wanted = set().union(*(self.sent[number].expected for number in self.acknowledged))
        return wanted - got

    def repeated(self) -> int:
        """How many transactions more than needed the provider took."""
        copies: dict[tuple[str, str], int] = {}
        told: Counter[str] = Counter()
        for key, count in self.accepted.items():
            identity, _, recipient = key.rpartition(" ")
            if recipient.endswith("@sender.example"):
                told[recipient] += count
            else:
                place = (identity, recipient.partition("@")[2])
                copies[place] = max(copies.get(place, 0), count)
        return sum(copies.values()) - len(copies) + told.total() - len(told)

    def log_lines(self) -> tuple[list[dict[str, Any]], int]:
        """The delivery logs of all processes, and how many lines of them were torn."""
        data = self.directory / "agent"
        logs = [shard_dir(data, number) / "log" for number in find_shards(data)]
        lines: list[dict[str, Any]] = []
        torn = 0
        for path in [one for log in logs for one in (*rotated_files(log), log / CURRENT)]:
            if not path.exists():
                continue
            with open_log(path) as file:
                for line in file:
                    try:
                        lines.append(json.loads(line))
                    except ValueError:
                        torn += 1
        return lines, torn

    def outcomes(self) -> Counter[str]:
        """The event ids that the policy server has taken, by how often they were sent."""
        return Counter(event_id for report in self.policy.reports for event_id in report)


@asynccontextmanager
async def _queue_service(port: int) -> AsyncIterator[QueueServiceStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield QueueServiceStub(channel)


class Run:
    """One process of the agent."""

    def __init__(self, pid: int, ports: Path, output: Path, ended: "asyncio.Task[bytes]") -> None:
        self.pid, self.ended = pid, ended
        self._ports, self._output = ports, output

    def signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    async def ready(self) -> dict[str, int] | None:
        """The ports, once it is ready; None: it has ended before."""
        async with asyncio.timeout(60):
            while not self.ended.done():
                if self._ports.exists() and (text := self._ports.read_text()).endswith("\n"):
                    return dict(json.loads(text))
                await asyncio.sleep(0.01)
        return None

    async def status(self, seconds: float) -> int | None:
        """How it ended; None: not within this time."""
        done, _ = await asyncio.wait([self.ended], timeout=seconds)
        return int(json.loads(self.ended.result())["status"]) if done else None

    def output(self) -> str:
        """What it wrote for people."""
        return self._output.read_text()


@asynccontextmanager
async def crash_world(
    directory: Path,
    seed: int,
    *,
    min_free_space: str = "1 KiB",
    workers: int = 1,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[CrashWorld]:
    """Start what surrounds an agent, which is to have *environment* besides."""
    policy = PolicyPeer()
    await policy.start()
    async with Sink(parse_sink_settings(_SINK)) as sink, DnsServer(_ZONE) as dns:
        config = make_config(sink.listening["big"][0][1], connection_limit=CONNECTIONS)
        for domain in _DOMAINS:
            policy.answers[domain] = _answer(config)
        (directory / "agent.toml").write_text(
            _CONFIG.format(
                directory=directory,
                policy=policy.port,
                dns=dns.address,
                min_free_space=min_free_space,
                workers=workers,
            )
        )
        runner = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.acceptance.crash_runner"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            env={**os.environ, **(environment or {})},
        )
        try:
            yield CrashWorld(directory, sink, policy, runner, random.Random(seed))
        finally:
            assert runner.stdin is not None
            runner.stdin.close()
            await asyncio.wait_for(runner.wait(), 10)
            await policy.stop()


def _answer(config: Any) -> pb.GetEgressPathConfigResponse:
    response = pb.GetEgressPathConfigResponse(
        config=config,
        site_name="mx.big.example",
        path_name="ip-1->mx.big.example",
        etag="e1",
        revision=1,
    )
    response.max_age.FromSeconds(600)
    return response


def problems(world: CrashWorld) -> list[str]:
    """What is wrong after everything has come to its end."""
    lines, torn = world.log_lines()
    found = []
    if torn > world.crashes:
        found.append(f"{torn} torn lines in the log after {world.crashes} crashes")
    in_log = Counter(line["event_id"] for line in lines)
    found += [
        f"{event} is {count} times in the log" for event, count in in_log.items() if count > 1
    ]
    reported = {line["event_id"] for line in lines if line["type"] in _REPORTED}
    if lost := reported ^ world.outcomes().keys():
        found.append(f"outcomes in the log or at the server alone: {sorted(lost)}")
    finals = _finals(lines)
    for number in world.acknowledged:
        mail = world.sent[number]
        for recipient in mail.recipients:
            if finals[mail.sender, recipient] != 1:
                found.append(f"{finals[mail.sender, recipient]} final outcomes for {recipient}")
    if world.repeated() > CONNECTIONS * world.crashes:
        found.append(f"{world.repeated()} repeated in {world.crashes} crashes")
    return found


def _finals(lines: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    finals: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if line["type"] in FINAL:
            to = line["recipient"]
            for recipient in [to] if isinstance(to, str) else to:
                finals[line["sender"], recipient] += 1
    return finals
