"""
The simulated world: servers on one database, agents, an operator, people who change rules, and
everything that can go wrong between them, drawn from one seed.

`World.run` lets all of it happen for a while, then ends the faults and waits until every agent
holds what the database says (`reckoning.py` compares). What must hold at every instant is looked
at as it happens, and what does not is kept in `violations`.
"""

import asyncio
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import text

from agent.delivery.record import Record
from agent.policy.answer import Bounce, Suspension
from penstock.v1 import automation_service_pb2 as actions_pb
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2_grpc import AutomationServiceStub
from policy_server.rules.site import MxHost, site_name
from policy_server.services.resume_token import decode_token
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from tests.simulation.agents import SimulatedAgent
from tests.simulation.reckoning import count_differences, find_differences
from tests.simulation.rules import DOMAINS, SOURCES, changing_layer, counted_layer
from tests.simulation.servers import SimulatedDns, SimulatedServer, utc
from tests.simulation.virtual_loop import VirtualLoop
from tests.simulation.wire import Channel, Faults, Network

_EPOCH = 1_790_000_000.0
#: How long everything may take to be as it should once the faults are over.
_QUIESCENCE = 150.0
#: By how much longer a suspension may hold than the server wants: a message may be under way for
#: as long as the agent bears silence, and clocks are set.
_LATE = 25.0
#: By how much the servers' clocks are off at most.
_CLOCKS = 1.5
_OPERATOR = "operator"
_WATCH = "/penstock.v1.PolicyService/WatchPolicy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one seed's world is."""

    seed: int
    servers: int
    agents: int
    seconds: float
    faults: Faults
    is_balanced: bool
    #: The share of agents that servers tell of new rules first; 0: all at once.
    canary_share: float
    #: What may happen, each as often as its weight says.
    weights: dict[str, int] = field(default_factory=dict)


def draw_plan(seed: int) -> Plan:
    """Draw the world of a seed."""
    random = Random(f"plan {seed}")
    is_bad = random.random() < 0.8
    faults = Faults(
        delay=random.choice((0.002, 0.05, 0.3)),
        slow_delay=random.choice((0.1, 1.0, 3.0)),
        slow_share=random.choice((0.0, 0.05, 0.2)),
        lost_requests=random.choice((0.0, 0.05, 0.3)) * is_bad,
        lost_answers=random.choice((0.0, 0.05, 0.3)) * is_bad,
        repeated=random.choice((0.0, 0.1)) * is_bad,
        cuts=random.choice((0.0, 0.01, 0.1)) * is_bad,
        silent=random.choice((0.0, 0.3)),
    )
    weights = {
        "write rules": 4,
        "edit a row": 2,
        "cancel": 6,
        "extend": 3,
        "create": 4,
        "pin": 2,
        "lose connections": 3,
        "cut off": 2,
        "restart server": 2,
        "kill server": 3,
        "kill agent": 3,
        "set clock": 1,
        "stop dns": 1,
        "back up": 1,
        "put back": 1 if random.random() < 0.4 else 0,
        "begin anew": 1 if random.random() < 0.2 else 0,
    }
    for name in weights:
        # Most seeds do without some of it, so that what is left meets more of itself.
        weights[name] *= random.random() < 0.7
    return Plan(
        seed=seed,
        servers=random.choice((1, 2, 2)),
        agents=random.choice((1, 2, 3)),
        seconds=random.choice((15.0, 40.0)),
        faults=faults,
        is_balanced=random.random() < 0.2,
        weights=weights,
        canary_share=random.choice((0.0, 0.0, 0.4)),
    )


@dataclass(slots=True, kw_only=True)
class Event:
    """One outcome that an agent reported."""

    record: Record
    made: float
    forgotten: float | None = None


class World:
    """One seed's world, in *directory*; *template* is a migrated, empty database."""

    def __init__(self, plan: Plan, directory: Path, template: Path) -> None:
        self.plan = plan
        self.log: list[str] = []
        self.violations: list[str] = []
        self.loop = VirtualLoop(Random(f"{plan.seed} threads"))
        self.network = Network(self.loop, seed=plan.seed, faults=plan.faults)
        self.network.on_sent, self.network.on_read = self._on_sent, self._on_read
        self.dns = SimulatedDns(Random(f"{plan.seed} dns"))
        self.path = directory / "penstock.db"
        self.events: dict[str, Event] = {}
        #: When the database was last another one, and the events that were in it then.
        self.epoch = 0
        self.epoch_began = 0.0
        self.epoch_events: frozenset[str] = frozenset()
        #: End of each suspension heard by an agent's stream, as the server has it.
        self.heard: dict[str, dict[int, float]] = {}
        self._directory, self._template = directory, template
        self._random = Random(f"{plan.seed} world")
        self._servers: dict[str, SimulatedServer] = {}
        self._agents: dict[str, SimulatedAgent] = {}
        self._offsets: dict[str, float] = {}
        self._tokens: dict[tuple[str, int], tuple[str, int]] = {}
        #: The database that each agent's newest stream began with.
        self._epoch_of: dict[str, int] = {}
        #: The database of which each agent had a whole snapshot.
        self._snapshot_of: dict[str, int] = {}
        self._lifted: dict[str, set[int]] = {}
        self._held: dict[str, dict[int, float]] = {}
        self._latest_end: dict[tuple[int, int], float] = {}
        self._generation = 0
        self._is_over = False
        self._backup: tuple[Path, frozenset[str]] | None = None

    # What happens.

    def run(self) -> None:
        """Let everything happen, then compare."""
        asyncio.set_event_loop(None)
        self.loop.set_exception_handler(self._on_error)
        try:
            self.loop.run_until_complete(self._run())
        finally:
            self._is_over = True
            everybody: list[Any] = [*self._servers.values(), *self._agents.values()]
            for process in everybody:
                process.kill()
            self.loop.bury()
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    async def _run(self) -> None:
        self._new_database()
        for number in range(self.plan.servers):
            self._start_server(f"server-{number}")
        for number in range(self.plan.agents):
            self._start_agent(f"agent-{number}")
        until = self.loop.time() + self.plan.seconds
        deeds = self._deeds()
        names = [name for name in deeds if self.plan.weights.get(name)]
        weights = [self.plan.weights[name] for name in names]
        pending: set[asyncio.Task[None]] = set()
        while self.loop.time() < until:
            await asyncio.sleep(3 * self._random.random())
            if names:
                (name,) = self._random.choices(names, weights)
                task = asyncio.ensure_future(deeds[name]())
                pending.add(task)
                task.add_done_callback(pending.discard)
        if pending:
            await asyncio.wait(pending)
        await self._settle()

    async def _settle(self) -> None:
        """End all faults, and wait until all is as it should be."""
        self._note("faults are over")
        self.network.heal()
        self.dns.is_down = False
        for name in [f"server-{number}" for number in range(self.plan.servers)]:
            if name not in self._servers:
                self._start_server(name)
        for name in [f"agent-{number}" for number in range(self.plan.agents)]:
            if name not in self._agents:
                self._start_agent(name)
        for agent in self._agents.values():
            agent.is_busy = False
        until = self.loop.time() + _QUIESCENCE
        differences = ["not compared"]
        while differences and self.loop.time() < until:
            await asyncio.sleep(2)
            differences = await self._differences()
        self._note(f"settled, {until - self.loop.time():.0f} s early")
        self.violations += [f"after quiescence: {one}" for one in differences]
        self.violations += [f"in the ledger: {one}" for one in await self._miscounts()]

    def _deeds(self) -> dict[str, Callable[[], Any]]:
        return {
            "write rules": self._write_rules,
            "edit a row": self._edit_row,
            "cancel": self._cancel,
            "extend": self._extend,
            "create": self._create,
            "pin": self._pin,
            "lose connections": self._lose_connections,
            "cut off": self._cut_off,
            "restart server": partial(self._end_server, is_kill=False),
            "kill server": partial(self._end_server, is_kill=True),
            "kill agent": self._kill_agent,
            "set clock": self._set_clock,
            "stop dns": self._stop_dns,
            "back up": self._back_up,
            "put back": self._put_back,
            "begin anew": self._begin_anew,
        }

    # People at the rules and at the ledger.

    async def _write_rules(self) -> None:
        self._note("rules are written")
        self._change(lambda c: import_layers(c, [changing_layer(self._random)], author="somebody"))

    async def _edit_row(self) -> None:
        self._note("a row is edited by hand")
        limit = self._random.randint(2, 40)
        statement = text(
            "UPDATE rule_options SET value = :value WHERE name = 'connection_limit'"
            " AND block_id IN (SELECT id FROM rule_blocks WHERE layer_id IN"
            " (SELECT id FROM rule_layers WHERE name = 'custom'))"
        )
        self._change(lambda c: c.execute(statement, {"value": str(limit)}))

    async def _cancel(self) -> None:
        await self._operate(
            "CancelAction", lambda number: actions_pb.CancelActionRequest(id=number)
        )

    async def _extend(self) -> None:
        seconds = self._random.choice((20, 600, 7200))

        def request(number: int) -> actions_pb.ExtendActionRequest:
            return actions_pb.ExtendActionRequest(id=number, duration=Duration(seconds=seconds))

        await self._operate("ExtendAction", request)

    async def _pin(self) -> None:
        await self._operate("PinAction", lambda number: actions_pb.PinActionRequest(id=number))

    async def _create(self) -> None:
        domain, source = self._random.choice(list(DOMAINS)), self._random.choice(SOURCES)
        hosts = [MxHost(one.host, one.preference) for one in DOMAINS[domain]]
        path = {"egress_source": source, "site_name": site_name(domain, hosts)}
        request = actions_pb.CreateActionRequest(
            request_id=f"{self._random.getrandbits(64):x}",
            **self._random.choice(
                (
                    {"kind": actions_pb.ACTION_KIND_SUSPEND} | path,
                    {"kind": actions_pb.ACTION_KIND_SUSPEND, "egress_source": source}
                    | {"routing_domain": domain},
                    {"kind": actions_pb.ACTION_KIND_SUSPEND_TENANT, "tenant": "t1"}
                    | {"routing_domain": domain},
                    {"kind": actions_pb.ACTION_KIND_BOUNCE, "routing_domain": domain},
                    {"kind": actions_pb.ACTION_KIND_BOUNCE_CAMPAIGN, "tenant": "t1"}
                    | {"campaign": "c1", "routing_domain": domain},
                    {"kind": actions_pb.ACTION_KIND_SET_CONFIG, "option": "connection_limit"}
                    | {"value": "3"}
                    | path,
                )
            ),
            pinned=self._random.random() < 0.2,
            duration=Duration(seconds=self._random.choice((10, 3600))),
            reason="simulated",
        )
        stub = self._operator()
        kind = actions_pb.ActionKind.Name(request.kind)
        self._note(f"an operator asks for {kind} of {domain} by {source}")
        with self._refusal_noted():
            for _ in range(self._random.choice((1, 2))):
                # A request that is sent twice is carried out once.
                answer = await stub.CreateAction(request, timeout=5)
                self._note(f"action {answer.action.id} is created")

    async def _operate(self, method: str, request: Callable[[int], object]) -> None:
        stub = self._operator()
        states = [actions_pb.ACTION_STATE_IN_FORCE, actions_pb.ACTION_STATE_PINNED]
        with self._refusal_noted():
            listing = actions_pb.ListActionsRequest(states=states)
            listed = await stub.ListActions(listing, timeout=5)
            if listed.actions:
                number = self._random.choice(listed.actions).id
                await getattr(stub, method)(request(number), timeout=5)
                self._note(f"{method} {number}")

    @contextmanager
    def _refusal_noted(self) -> Iterator[None]:
        try:
            yield
        except grpc.aio.AioRpcError as error:
            self._note(f"the operator hears {error.code().name}: {error.details()}")
            if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                self._violate(f"the operator is refused: {error.details()}")

    def _operator(self) -> AutomationServiceStub:
        process = self.loop.new_process(_OPERATOR)
        return AutomationServiceStub(
            Channel(self.network, process, tuple(self._servers) or ("none",))
        )

    # What goes wrong.

    async def _lose_connections(self) -> None:
        agent = self._pick(self._agents)
        if agent is not None:
            self._note(f"{agent.name} loses its connection")
            agent.channel.break_off()

    async def _cut_off(self) -> None:
        agent = self._pick(self._agents)
        if agent is not None:
            seconds = self._random.choice((1.0, 5.0, 20.0))
            self._note(f"{agent.name} is cut off for {seconds:g} s")
            self.network.cut_off(agent.name, seconds)

    async def _end_server(self, *, is_kill: bool) -> None:
        server = self._pick(self._servers)
        if server is None:
            return
        self._note(f"{server.name} is {'killed' if is_kill else 'stopped'}")
        if not is_kill:
            server.stop()
            await asyncio.sleep(self._random.random())
        if self._servers.get(server.name) is not server:
            return
        del self._servers[server.name]
        server.kill()
        await asyncio.sleep(self._random.choice((0.1, 2.0, 10.0)))
        if server.name not in self._servers:
            self._start_server(server.name)

    async def _kill_agent(self) -> None:
        agent = self._pick(self._agents)
        if agent is None:
            return
        self._note(f"{agent.name} is killed")
        del self._agents[agent.name]
        agent.kill()
        await asyncio.sleep(self._random.choice((0.1, 5.0)))
        if agent.name not in self._agents:
            self._start_agent(agent.name)

    async def _set_clock(self) -> None:
        agent = self._pick(self._agents)
        if agent is not None:
            step = self._random.choice((-3600.0, -1.0, 1.0, 3600.0))
            self._note(f"the clock of {agent.name} is set by {step:g} s")
            self._offsets[agent.name] += step

    async def _stop_dns(self) -> None:
        self._note("the dns is down")
        self.dns.is_down = True
        await asyncio.sleep(10 * self._random.random())
        self.dns.is_down = False

    async def _back_up(self) -> None:
        backup = self._directory / f"backup-{self._next()}.db"
        database = Database(f"sqlite:///{self.path}")
        database.write_now(lambda c: None)
        with database._read_engine.connect() as connection:
            connection.exec_driver_sql("COMMIT")
            connection.exec_driver_sql(f"VACUUM INTO '{backup}'")
        database.close()
        self._backup = (backup, await self._known_events())
        self._note("the database is backed up")

    async def _put_back(self) -> None:
        if self._backup is not None:
            backup, known = self._backup
            self._note("the backup is put back")
            self._replace_database(backup, known)

    async def _begin_anew(self) -> None:
        self._note("a new database is put in place")
        self._replace_database(self._template, frozenset())
        self._backup = None
        self._import_rules()

    def _replace_database(self, source: Path, known: frozenset[str]) -> None:
        running = list(self._servers.values())
        self._servers.clear()
        for server in running:
            server.kill()
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        shutil.copy(source, self.path)
        self.epoch += 1
        self.epoch_began, self.epoch_events = self.loop.time(), known
        for server in running:
            self._start_server(server.name)

    # Processes.

    def _start_server(self, name: str) -> None:
        offset = self._offsets.setdefault(name, self._random.uniform(-_CLOCKS, _CLOCKS))
        server = SimulatedServer(
            name,
            loop=self.loop,
            network=self.network,
            path=self.path,
            clock=lambda: utc(self.true_time() + offset),
            dns=self.dns,
            canary_share=self.plan.canary_share,
            seed=f"{self.plan.seed} {self._next()}",
        )
        self._servers[name] = server
        self._note(f"{name} starts")
        server.start()

    def _start_agent(self, name: str) -> None:
        self._offsets.setdefault(name, self._random.uniform(-3, 3))
        random = Random(f"{self.plan.seed} {name} {self._next()}")
        addresses = [f"server-{number}" for number in range(self.plan.servers)]
        random.shuffle(addresses)
        agent = SimulatedAgent(
            name,
            loop=self.loop,
            network=self.network,
            directory=self._directory / name,
            clock=lambda: self.true_time() + self._offsets[name],
            addresses=tuple(addresses),
            is_balanced=self.plan.is_balanced,
            random=random,
            on_event=self._on_event,
            on_forgotten=self._on_forgotten,
            on_change=self._on_change,
            on_obeyed=self._on_obeyed,
        )
        self._agents[name] = agent
        # It goes on from its token, with what it has on disk; what was not written it hears again.
        self._lifted.pop(name, None)
        self._held.pop(name, None)
        self.heard.setdefault(name, {})
        self._note(f"{name} starts")
        agent.start()

    def _new_database(self) -> None:
        shutil.copy(self._template, self.path)
        self._import_rules()

    def _import_rules(self) -> None:
        drafts = [counted_layer(), changing_layer(self._random)]
        self._change(lambda c: import_layers(c, drafts, author="somebody"))

    def _change(self, change: Callable[..., object]) -> None:
        """Change the database as a command does, from a process of its own."""
        database = Database(f"sqlite:///{self.path}")
        try:
            database.write_now(change)
        finally:
            database.close()

    # What is looked at as it happens.

    def true_time(self) -> float:
        """The time that no clock shows exactly, in seconds since the epoch."""
        return _EPOCH + self.loop.time()

    def _on_event(self, record: Record) -> None:
        self.events[record.event_id] = Event(record=record, made=self.loop.time())

    def _on_forgotten(self, event_id: str) -> None:
        self.events[event_id].forgotten = self.loop.time()

    def _on_sent(self, client: str, path: str, message: object) -> None:
        if path != _WATCH or not isinstance(message, pb.WatchPolicyRequest):
            return
        if message.HasField("start"):
            self._epoch_of[client] = self.epoch
        token = decode_token(message.ack.token)
        # What was on its way from the database before is not held against this one.
        if token is None or self._epoch_of.get(client) != self.epoch:
            return
        place = (client, self.epoch)
        datastore, revision = self._tokens.get(place, ("", 0))
        if datastore == token.datastore and token.revision < revision:
            self._violate(f"{client} went back from revision {revision} to {token.revision}")
        self._tokens[place] = (token.datastore, token.revision)

    def _on_read(self, client: str, path: str, message: object) -> None:
        if not isinstance(message, pb.WatchPolicyResponse) or client not in self.heard:
            return
        heard = self.heard[client]
        if message.snapshot_end:
            # After the agent has applied it.
            epoch = self._epoch_of.get(client, 0)
            self.loop.call_soon(self._snapshot_of.__setitem__, client, epoch)
        for resource in message.resources:
            if resource.WhichOneof("body") not in ("suspension", "bounce"):
                continue
            body = getattr(resource, resource.WhichOneof("body"))
            end = float("inf")
            if body.HasField("expire_time"):
                end = body.expire_time.seconds + body.expire_time.nanos / 1e9
            heard[body.action_id] = end
            place = (self.epoch, body.action_id)
            self._latest_end[place] = max(self._latest_end.get(place, 0.0), end)
        for gone in message.removed:
            if gone.type != pb.RESOURCE_TYPE_EGRESS_PATH:
                heard.pop(int(gone.name), None)

    def _on_change(self, agent: SimulatedAgent) -> None:
        """A suspension that was lifted stays so."""
        if self._snapshot_of.get(agent.name) != self.epoch:
            # What is lifted because the database is another may have the number of something new.
            self._lifted.pop(agent.name, None)
            self._held.pop(agent.name, None)
            return
        now, before = agent.clock(), self._held.get(agent.name, {})
        book = agent.book
        held = {one.action_id: one.expire_time for one in book.suspensions()}
        held |= {one.action_id: one.expire_time for one in book.bounces()}
        lifted = self._lifted.setdefault(agent.name, set())
        for number in held.keys() & lifted:
            self._violate(f"{agent.name} has action {number} again, which was lifted")
        lifted |= {one for one, end in before.items() if one not in held and end > now + _LATE}
        self._held[agent.name] = held

    def _on_obeyed(self, agent: SimulatedAgent, action: Suspension | Bounce) -> None:
        """An action that is over holds and bounces nothing."""
        end = self._latest_end.get((self.epoch, action.action_id))
        if end is not None and self.true_time() > end + _LATE:
            self._violate(f"{agent.name} acts on action {action.action_id}, which is over")

    def _on_error(self, _loop: object, context: dict[str, object]) -> None:
        self._violate(f"unhandled: {context.get('message')}: {context.get('exception')!r}")

    def note_error(self, message: str) -> None:
        """Note what a part logged as an error of ours."""
        self._violate(f"logged: {message}")

    def _violate(self, message: str) -> None:
        if self._is_over:
            return
        self._note(f"VIOLATION {message}")
        self.violations.append(f"{self.loop.time() - 1000:.3f} {message}")

    # At the end.

    async def _differences(self) -> list[str]:
        everybody: list[Any] = [*self._servers.values(), *self._agents.values()]
        if not all(one.is_ready for one in everybody):
            return ["not everybody is up"]
        return await find_differences(
            self.path,
            now=utc(self.true_time()),
            servers=list(self._servers.values()),
            agents=list(self._agents.values()),
            heard=self.heard,
        )

    async def _miscounts(self) -> list[str]:
        settled = self.epoch_began + (10.0 if self.epoch else 0.0)
        # What was acknowledged just before the database was another is not in it.
        acknowledged = {
            name: utc(min(event.record.timestamp, _EPOCH + event.made) - _CLOCKS)
            for name, event in self.events.items()
            if event.forgotten is not None
            and (name in self.epoch_events or event.made > settled or event.forgotten > settled)
        }
        records = {name: event.record for name, event in self.events.items()}
        now = utc(self.true_time() + _CLOCKS)
        return await count_differences(self.path, records, acknowledged, now=now)

    async def _known_events(self) -> frozenset[str]:
        database = Database(f"sqlite:///{self.path}")
        try:
            rows = database.read_now(
                lambda c: c.execute(text("SELECT event_id FROM outcomes")).scalars().all()
            )
        finally:
            database.close()
        return frozenset(rows)

    def _pick(self, among: dict) -> Any:
        return self._random.choice(list(among.values())) if among else None

    def _next(self) -> int:
        self._generation += 1
        return self._generation

    def _note(self, message: str) -> None:
        self.log.append(f"{self.loop.time() - 1000:8.3f} {message}")
