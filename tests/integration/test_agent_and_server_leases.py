"""Agents' leases from the real policy server, one after the other and side by side."""

import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import pytest

from agent.dispatch.limits import lease_clock_ns
from agent.leases.access import LeaseAccess, open_leases
from agent.leases.client import Parts
from agent.limits.fleet import Mode, Wish
from agent.limits.limit import FleetLimit, Kind, LimitPath
from agent.policy.answer import PathPolicy
from agent.settings import Settings
from agent.spool.lock import take_lock
from policy_server.services import limit_names
from tests.integration.policy_peer import until
from tests.integration.test_agent_and_server_policy import MX, change, serving, watching

_RULES = (
    "INSERT INTO rule_layers (id, name, position) VALUES (1, 'base', 1)",
    "INSERT INTO rule_blocks (id, layer_id, scope, name, mx_rollup, position)"
    " VALUES (1, 1, 'default', '', 1, 1)",
    "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'connection_limit', '8')",
    "INSERT INTO rule_options (block_id, name, value)"
    " VALUES (1, 'max_message_rate', '\"100/s,max_burst=20\"')",
)


class Worker:
    """A process of an agent: what it is lent, and what it says it could use."""

    def __init__(self, access: LeaseAccess, policy: PathPolicy) -> None:
        self.access = access
        self.fleet = access.fleet
        self.limits = {limit.kind: limit for limit in policy.fleet_limits}
        self.wishes: list[Wish] = []
        #: Paths whose limits the server did not know.
        self.unknown: list[LimitPath] = []
        access.client.parts = Parts(
            tell_demand=lambda: self.fleet.want(self.wishes, lease_clock_ns()),
            on_unknown=self.unknown.append,
        )

    @property
    def connections(self) -> FleetLimit:
        return self.limits[Kind.CONNECTIONS]

    def want(self, amount: int, kind: Kind = Kind.CONNECTIONS) -> None:
        self.wishes = [Wish(limit=self.limits[kind], amount=amount)]
        self.access.client.nudge()

    def cap(self, kind: Kind = Kind.CONNECTIONS) -> int:
        return self.fleet.cap(self.limits[kind], lease_clock_ns())


@asynccontextmanager
async def working(
    port: int,
    directory: Path,
    policy: PathPolicy,
    name: str = "mta-1",
    worker: str = "",
    *,
    host: str = "",
) -> AsyncIterator[Worker]:
    settings = Settings.model_validate(
        {
            "agent": {
                "name": name,
                "data_dir": str(directory / f"{host}{name}{worker}"),
                "machine": host,
            },
            "policy": {"server": f"127.0.0.1:{port}"},
        }
    )
    os.close(take_lock(settings.spool_dir))
    access = open_leases(
        settings,
        worker=worker,
        clock=time.time,
        clock_ns=lease_clock_ns,
        random=Random(host + name),
    )
    made = Worker(access, policy)
    access.client.start()
    try:
        yield made
    finally:
        await access.client.close()


@asynccontextmanager
async def answered(directory: Path) -> AsyncIterator[tuple[int, PathPolicy]]:
    """A server with rules, and its answer for a path."""
    async with serving(directory) as server:
        await change(server, *_RULES)
        async with watching(server.grpc_port, directory / "watcher") as policy:

            def has_rules() -> bool:
                found = policy.client.lookup("foo.example", "ip-1")
                return found is not None and found.config.connection_limit.value == 8

            await policy.client.fetch("foo.example", "ip-1", MX)
            await until(has_rules)
            found = policy.client.lookup("foo.example", "ip-1")
            assert found is not None
            yield server.grpc_port, found


async def test_an_answer_names_the_limits_that_are_lent(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy), working(port, tmp_path, policy) as one:
        assert set(one.limits) == {Kind.CONNECTIONS, Kind.MESSAGE_RATE}
        assert one.connections.units == 8
        assert one.limits[Kind.MESSAGE_RATE].burst == 20

        one.want(3)
        await until(lambda: one.cap() >= 3)
        one.want(15, Kind.MESSAGE_RATE)
        await until(lambda: one.cap(Kind.MESSAGE_RATE) >= 15)
        rate = one.limits[Kind.MESSAGE_RATE]
        passed = 0
        while one.fleet.wait_ns(rate, lease_clock_ns()) == 0 and passed < 100:
            one.fleet.take(rate, lease_clock_ns())
            passed += 1

        assert 15 <= passed <= 25, "units come full"


async def test_workers_share_a_limit_and_give_it_back(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy), working(port, tmp_path, policy) as one:
        one.want(8)
        await until(lambda: one.cap() == 8)
        async with (
            working(port, tmp_path, policy, "mta-2") as two,
            working(port, tmp_path, policy, "mta-2", "w1") as three,
        ):
            for worker in (two, three):
                worker.want(8)
            await until(lambda: min(one.cap(), two.cap(), three.cap()) >= 2)
            assert one.cap() + two.cap() + three.cap() <= 8
            await until(lambda: one.cap() + two.cap() + three.cap() == 8)
        # Both were closed in good order: no lease has to run out.
        await until(lambda: one.cap() == 8, 5.0)


async def test_a_new_start_has_what_the_one_before_had(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy), working(port, tmp_path, policy) as one:
        one.want(8)
        await until(lambda: one.cap() == 8)
        async with working(port, tmp_path, policy) as again:
            # As after a crash: nothing was released.
            again.want(8)
            await until(lambda: again.cap() == 8, 5.0)
            # And should it run on nevertheless, it is told.
            await until(lambda: bool(one.access.snapshot()["given_way"]))
            assert one.cap() == 0
            assert one.fleet.mode(one.connections, lease_clock_ns()) is Mode.STOPPED


async def test_two_agents_with_one_name_on_two_hosts_share(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy), AsyncExitStack() as stack:
        two = []
        for host in "ab":
            # They may start in the same second.
            one = await stack.enter_async_context(working(port, tmp_path, policy, host=host))
            one.want(8)
            two.append(one)

        def share() -> bool:
            assert sum(one.cap() for one in two) <= 8
            return {one.cap() for one in two} == {4}

        await until(share)
        assert not any(one.fleet.has_given_way for one in two)


async def test_who_names_more_paths_than_are_followed_is_lent_each_that_it_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit_names, "MOST_PATHS", 2)
    async with answered(tmp_path) as (port, policy), working(port, tmp_path, policy) as one:
        limits = [_of_source(one.connections, f"ip-{number}") for number in range(1, 5)]

        def has(limit: FleetLimit) -> bool:
            return one.fleet.cap(limit, lease_clock_ns()) == 8

        # The last one is forgotten by then, and named again.
        for limit in (*limits, limits[0]):
            one.unknown.clear()
            one.wishes = [Wish(limit=limit, amount=8)]
            one.access.client.nudge()
            await until(partial(has, limit))
            await until(lambda: sum(map(has, limits)) == 1)

        assert one.unknown == [limits[0].path]


def _of_source(limit: FleetLimit, source: str) -> FleetLimit:
    """The same limit of another source."""
    return replace(
        limit,
        key=limit.key.replace(limit.path.egress_source, source),
        path=replace(limit.path, egress_source=source),
    )


async def test_leases_hold_over_a_restart_of_the_server(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy):
        pass
    async with AsyncExitStack() as server:
        await server.enter_async_context(serving(tmp_path, port))
        async with working(port, tmp_path, policy) as one:
            one.want(8)
            await until(lambda: one.cap() == 8)
            epoch = one.fleet.holder.epoch
            await server.aclose()
            await until(lambda: not one.access.client.connected)
            assert one.cap() == 8

            async with serving(tmp_path, port):
                await until(lambda: one.fleet.holder.epoch > epoch, 20)
                assert one.cap() == 8
                assert one.fleet.mode(one.connections, lease_clock_ns()) is Mode.LEASED
                # The path was told with its MX hosts: nobody has to ask for an answer first.
                assert not one.unknown
                async with working(port, tmp_path, policy, "mta-2") as two:
                    two.want(8)
                    await until(lambda: two.cap() >= 1)
                    assert one.cap() + two.cap() <= 8


async def test_a_server_with_a_new_database_takes_on_what_is_held(tmp_path: Path) -> None:
    async with answered(tmp_path) as (port, policy):
        pass
    async with AsyncExitStack() as server:
        await server.enter_async_context(serving(tmp_path, port))
        async with working(port, tmp_path, policy) as one:
            one.want(8)
            await until(lambda: one.cap() == 8)
            one.fleet.open(one.connections)
            await server.aclose()

            (tmp_path / "new").mkdir()
            async with serving(tmp_path / "new", port) as other:
                await change(other, *_RULES)
                await until(lambda: one.access.client.connected, 20)
                one.want(7)
                await until(lambda: 1 <= one.cap() <= 8, 20)
                assert one.fleet.in_use(one.connections.key) == 1
                one.want(2)
                await until(lambda: 2 <= one.cap() <= 8, 20)
