"""The script that is the shared book, on a real Valkey: what it must notice, and its clock."""

import socket
import time
from importlib.resources import files

import pytest
import redis

from policy_server.limits.messages import Demand, Holding, Report
from policy_server.limits.spec import Earning, LeaseTiming, LimitSpec
from policy_server.shared_book.calls import (
    read_synced,
    report_arguments,
    restore_arguments,
    spec_arguments,
    sync_arguments,
    terms_text,
)
from policy_server.shared_book.source import read_source
from tests.valkey import start_valkey

SHARD = "penstock:test:{s00}"
KEY = "connection_limit:ip-1->example.com"
SECOND = 1_000_000
TIMING = LeaseTiming()
#: The real clock, by a wall clock that the test sets.
SET_CLOCK = (
    (files("policy_server.shared_book") / "clock.lua")
    .read_text()
    .replace("redis.call('TIME')", "{redis.call('GET', 'wall seconds'), 0}")
)


def sign(*facts: object) -> bytes:
    """Prove a grant, well enough for a test."""
    return repr(facts).encode()


@pytest.fixture
def valkey():
    server = start_valkey()
    yield server
    server.stop()


class Shard:
    """One shard of the book, asked by a server."""

    def __init__(self, valkey, *, epoch: int = 1, clock: str | None = None) -> None:
        self.client: redis.Redis = valkey.client()
        self.epoch = epoch
        self.source = read_source(clock=clock)

    def call(self, operation: str, *arguments):
        return self.client.eval(self.source, 1, SHARD, operation, self.epoch, *arguments)

    def begin(self) -> None:
        assert self.call("begin", terms_text(TIMING))[0] == b"ok"

    def add(self, units: int, *restored) -> None:
        spec = spec_arguments(LimitSpec(units=units))
        assert self.call("add", "server", KEY, *spec, *restored) == [b"ok", 1]

    def sync(self, *reports: Report, server: str = "server", confirmed=(), specs=None):
        stated = [report_arguments(report, part=0, sign=sign) for report in reports]
        arguments = sync_arguments(
            server=server, confirmed=confirmed, specs=specs or {}, reports=stated
        )
        return read_synced(self.call("sync", *arguments), sign)

    def units(self) -> int:
        return self.call("show", KEY, 10)[1][1]


def ask(agent: str, sequence: int, *, wants: int = 10, enforced: int = 0, version: int = 0):
    demand = Demand(key=KEY, wants=wants, enforced=enforced, version=version)
    return Report(agent=agent, incarnation=1, sequence=sequence, demands=(demand,))


def test_a_promise_goes_out_again_until_it_is_known_to_be_durable(valkey) -> None:
    """The server that was to write it may be gone; another one's grants rest on it as well."""
    shard = Shard(valkey)
    shard.begin()
    shard.add(100)
    (first,) = shard.sync(ask("a", 1)).promises
    held = Holding(units=100, floor=100, incarnation=1)
    assert dict(first.promise.holdings) == {"a": held}

    # Nobody says that it is durable, and another server has grants to send.
    synced = shard.sync(ask("b", 1), server="another")
    (second,) = synced.promises
    assert second == first

    # What is said later has a higher number, and all that is not known to be durable.
    (told,) = (one.grant for one in synced.grants if one.grant.agent == "a")
    lowered = ask("a", 2, enforced=told.units, version=told.version)
    (third,) = shard.sync(lowered, ask("b", 2)).promises
    assert third.number > first.number
    assert set(dict(third.promise.holdings)) == {"a", "b"}
    # That the first one is durable says nothing of the third.
    assert shard.sync(ask("b", 3), confirmed=[first]).promises == (third,)
    assert shard.sync(ask("b", 4), confirmed=[third]).promises == ()


@pytest.mark.parametrize("how", ["flushed", "restarted", "key deleted", "not begun"])
def test_a_shard_that_was_lost_says_so(valkey, how: str) -> None:
    shard = Shard(valkey)
    if how != "not begun":
        shard.begin()
        shard.add(10)
    if how == "flushed":
        shard.client.flushall()
    elif how == "key deleted":
        shard.client.delete(f"{SHARD}:shard")
    elif how == "restarted":
        # It has all its data, or so it seems: what it had last may not have reached the disk.
        shard.client.save()
        valkey.kill()
        valkey.start("--dbfilename", "dump.rdb")
        assert shard.client.exists(f"{SHARD}:shard")

    for operation in ("sync", "look", "release", "list"):
        assert shard.call(operation, "a", 1, 0, 0, 0) == [b"lost"]


def test_a_replica_that_takes_over_says_that_data_may_be_lost(valkey) -> None:
    shard, replica = Shard(valkey), start_valkey()
    try:
        copy = Shard(replica)
        copy.client.replicaof("localhost", _listen(valkey))
        _wait_until(lambda: copy.client.info("replication")["master_link_status"] == "up")
        shard.begin()
        _wait_until(lambda: copy.client.exists(f"{SHARD}:shard"))
        # As long as it is a replica it has no say.
        assert copy.call("sync", "server", 1, 0, 0) == [b"replica"]

        copy.client.replicaof("NO", "ONE")

        assert copy.call("look") == [b"lost"]
        # The old primary does not know: servers stop going by it as the database says.
        assert shard.call("look")[0] == b"ok"
        # It becomes a replica of the new one, and then the primary again, as the same process.
        shard.client.replicaof("localhost", _listen(replica))
        _wait_until(lambda: shard.client.info("replication")["master_link_status"] == "up")
        shard.client.replicaof("NO", "ONE")
        assert shard.call("look") == [b"lost"]
    finally:
        replica.stop()


def _listen(valkey) -> int:
    """Have it listen on a port of loopback as well, which a replica needs."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    with valkey.client() as client:
        client.config_set("port", port)
    return port


def _wait_until(is_true) -> None:
    until = time.monotonic() + 20
    while not is_true():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_an_older_epoch_is_fenced(valkey) -> None:
    old, new = Shard(valkey), Shard(valkey, epoch=2)
    old.begin()
    old.add(10)
    new.begin()

    assert old.call("sync", "server", 1, 0, 0) == [b"fenced", 2]
    assert old.call("begin", terms_text(TIMING)) == [b"fenced", 2]
    assert new.call("list", "", 10) == [b"ok", []]


def test_a_step_of_the_wall_clock_ends_no_lease(valkey) -> None:
    shard = Shard(valkey, clock=SET_CLOCK)

    def at(seconds: int) -> int:
        shard.client.set("wall seconds", seconds)
        return shard.sync().now // 1_000_000_000

    shard.client.set("wall seconds", 1000)
    shard.begin()
    assert [at(1001), at(1002), at(1004)] == [1001, 1002, 1004]
    # An hour on, an hour back: no time has passed, as far as can be said.
    assert [at(4600), at(1005)] == [1004, 1004]
    assert [at(1006), at(1007)] == [1005, 1006]


def test_the_clock_is_the_servers_own_time(valkey) -> None:
    shard = Shard(valkey)
    shard.begin()
    seconds, _ = shard.client.time()

    assert abs(shard.sync().now // 1_000_000_000 - seconds) <= 1


def test_the_lowest_of_what_servers_say_a_limit_is_counts(valkey) -> None:
    shard = Shard(valkey, clock=SET_CLOCK)
    shard.client.set("wall seconds", 1000)
    shard.begin()
    shard.add(10)
    shard.sync(ask("a", 1))

    def say(server: str, units: int) -> int:
        shard.sync(server=server, specs={KEY: LimitSpec(units=units)})
        return shard.units()

    assert say("one", 20) == 10  # "server" said 10, and has not taken it back
    assert say("server", 20) == 20
    assert say("one", 5) == 5
    assert say("server", 20) == 5
    # "one" says nothing any more.
    for second in range(1001, 1062):
        shard.client.set("wall seconds", second)
        shard.sync()
    assert say("server", 20) == 20


@pytest.mark.parametrize(
    ("when", "wait"),
    [
        pytest.param("now", 76, id="the shard has lost it: from now on"),
        pytest.param("before", 71, id="of an earlier epoch: from the beginning of this one on"),
    ],
)
def test_what_was_promised_before_is_waited_for(valkey, when: str, wait: int) -> None:
    shard = Shard(valkey, clock=SET_CLOCK)
    shard.client.set("wall seconds", 1000)
    shard.begin()
    _let_pass(shard, 1000, 5)
    restored = restore_arguments(
        10, 10, {}, is_of_this_epoch=when == "now", unseen_ns=6 * 1_000_000_000
    )
    shard.add(10, *restored)

    assert not shard.sync(ask("a", 1)).grants
    _let_pass(shard, 1005, wait + 4)
    assert not [grant for grant in shard.sync(ask("a", 2)).grants if grant.grant.units]
    _let_pass(shard, 1005 + wait + 4, 2)
    (grant,) = shard.sync(ask("a", 3)).grants
    assert grant.grant.units == 10


def test_of_what_is_taken_over_late_only_floors_are_waited_for(valkey) -> None:
    """A limit is taken over when it is first asked for: leases of before may be over by then."""
    shard = Shard(valkey, clock=SET_CLOCK)
    shard.client.set("wall seconds", 1000)
    shard.begin()
    held = {"gone": Holding(units=6, floor=3, incarnation=1)}
    restored = restore_arguments(10, 0, held, is_of_this_epoch=False, unseen_ns=0)
    shard.add(10, *restored)
    _let_pass(shard, 1000, 60)
    assert shard.sync(ask("a", 1)).grants[0].grant.units == 4
    _let_pass(shard, 1060, 20)
    # It has gone through what ends with a lease already, and has only its floor.
    spec = spec_arguments(LimitSpec(units=10))
    assert shard.call("add", "server", "another", *spec, *restored) == [b"ok", 1]

    assert [shard.call("show", key, 1)[1][4] for key in (KEY, "another")] == [3 + 4, 3]


@pytest.mark.parametrize(
    ("promised", "seconds"),
    [
        pytest.param(1, 10, id="as it was"),
        pytest.param(10, 100, id="with units that it has no more"),
    ],
)
def test_a_rate_is_forgotten_once_all_is_earned_again_that_units_of_before_owed(
    valkey, promised: int, seconds: int
) -> None:
    shard = Shard(valkey, clock=SET_CLOCK)
    shard.client.set("wall seconds", 1000)
    shard.begin()
    spec = LimitSpec(units=1, earning=Earning(count=6, period_ns=60_000_000_000))
    restored = restore_arguments(promised, 0, {}, is_of_this_epoch=True, unseen_ns=0)
    assert shard.call("add", "server", KEY, *spec_arguments(spec), *restored) == [b"ok", 1]

    # Before that it is not known whether there are leases of before.
    waits = max(seconds, 21)
    _let_pass(shard, 1000, waits - 1)
    assert shard.call("show", KEY, 1) != [b"ok"]
    _let_pass(shard, 1000 + waits - 1, 2)
    assert shard.call("show", KEY, 1) == [b"ok"]


def _let_pass(shard: Shard, start: int, seconds: int) -> None:
    for second in range(start + 1, start + seconds + 1):
        shard.client.set("wall seconds", second)
        shard.sync()
