import asyncio
import functools
import os
import shutil
import signal
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random

import grpc
import pytest

from agent.errors import PolicyUnavailable
from agent.policy import access, disk
from agent.policy.access import PolicyAccess, open_policy
from agent.policy.answer import MxHost
from agent.policy.book import PolicyBook
from agent.policy.channel import open_channel
from agent.policy.effective import PathKey
from agent.policy.staleness import Staleness
from agent.settings import Settings
from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit
from tests.integration.policy_peer import PolicyPeer, answer, until

MX = (MxHost(host="mx.foo.example", preference=10),)
Kind = pb.WatchPolicyResponse


class Clock:
    """The time, which may be put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
async def peer() -> AsyncIterator[PolicyPeer]:
    peer = PolicyPeer()
    await peer.start()
    yield peer
    await peer.stop()


@asynccontextmanager
async def running(peer: PolicyPeer, directory, clock=time.time) -> AsyncIterator[PolicyAccess]:
    """The agent's policy part, against *peer*, with its data in *directory*."""
    settings = Settings.model_validate(
        {
            "agent": {"name": "mta-1", "data_dir": str(directory)},
            "policy": {"server": f"127.0.0.1:{peer.port}"},
            "source": [{"name": "ip-1"}],
        }
    )
    channel = open_channel(settings.policy.server)
    policy = await open_policy(settings, channel, clock=clock, random=Random(1))
    try:
        yield policy
    finally:
        await policy.close()
        await channel.close()


def limit_of(policy: PolicyAccess, domain: str = "foo.example") -> int:
    found = policy.client.lookup(domain, "ip-1")
    return found.config.connection_limit.value if found else 0


def suspension(action_id: int = 1, seconds: float = 60, **fields) -> pb.PolicyResource:
    body = pb.Suspension(
        action_id=action_id,
        egress_source="ip-1",
        site_name="mx.foo.example",
        reason="421 slow down",
        **fields,
    )
    body.expire_time.FromNanoseconds(int((time.time() + seconds) * 1e9))
    return pb.PolicyResource(
        name=str(action_id), type=pb.RESOURCE_TYPE_SUSPENSION, etag="s1", suspension=body
    )


def path_resource(response: pb.GetEgressPathConfigResponse) -> pb.PolicyResource:
    return pb.PolicyResource(
        name="foo.example ip-1",
        type=pb.RESOURCE_TYPE_EGRESS_PATH,
        etag=response.etag,
        egress_path=response,
    )


def snapshot(*resources: pb.PolicyResource, token: bytes = b"t1", nonce: str = "n1") -> Kind:
    return Kind(
        kind=Kind.KIND_SNAPSHOT, resources=resources, snapshot_end=True, token=token, nonce=nonce
    )


async def test_a_path_is_asked_for_once_and_then_answered_from_memory(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        assert policy.client.lookup("foo.example", "ip-1") is None

        fetched = await policy.client.fetch("foo.example", "ip-1", MX)
        again = await policy.client.fetch("foo.example", "ip-1", MX)

        assert fetched == again == policy.client.lookup("foo.example", "ip-1")
        assert fetched.config.connection_limit.value == 5
        assert len(peer.batches) == 1
        assert peer.batches[0][0].mx_hosts[0].host == "mx.foo.example"
        assert peer.metadata[0]["penstock-agent"] == "mta-1"


async def test_questions_of_one_moment_share_calls_of_at_most_500(peer, tmp_path):
    domains = [f"d{number}.example" for number in range(1200)]
    peer.answers = {domain: answer(5) for domain in domains}
    async with running(peer, tmp_path) as policy:
        asked = [policy.client.fetch(domain, "ip-1", MX) for domain in domains]

        await asyncio.gather(*asked, *(policy.client.fetch(d, "ip-1", MX) for d in domains))

        assert sorted(len(batch) for batch in peer.batches) == [200, 500, 500]


async def test_other_mx_hosts_are_a_new_question(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        peer.answers["foo.example"] = answer(6)

        moved = (MxHost(host="mx2.foo.example", preference=10),)
        fetched = await policy.client.fetch("foo.example", "ip-1", moved)

        assert fetched.config.connection_limit.value == 6
        assert peer.batches[1][0].if_none_match == ""


async def test_one_question_without_an_answer_does_not_harm_the_others(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        good, bad = await asyncio.gather(
            policy.client.fetch("foo.example", "ip-1", MX),
            policy.client.fetch("bar.example", "ip-1", MX),
            return_exceptions=True,
        )

        assert not isinstance(good, BaseException)
        assert isinstance(bad, PolicyUnavailable)
        assert "MX not known" in str(bad)


async def test_an_old_answer_serves_while_it_is_asked_for_again(peer, tmp_path):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path, clock) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        peer.answers["foo.example"] = answer(6)
        clock.ahead = 601

        assert limit_of(policy) == 5
        await until(lambda: limit_of(policy) == 6)

        assert len(peer.batches) == 2
        assert peer.batches[1][0].if_none_match == "e5"


async def test_an_unchanged_answer_is_confirmed(peer, tmp_path):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path, clock) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        clock.ahead = 601

        await policy.client.fetch("foo.example", "ip-1", MX)
        await policy.client.fetch("foo.example", "ip-1", MX)

        assert len(peer.batches) == 2


async def test_the_last_known_answer_serves_while_the_server_is_away_and_after_a_restart(
    peer, tmp_path
):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
    await peer.stop()

    clock.ahead = 3600.0
    async with running(peer, tmp_path, clock) as policy:
        fetched = await policy.client.fetch("foo.example", "ip-1", MX)

        assert fetched.config.connection_limit.value == 5
        assert limit_of(policy) == 5
        with pytest.raises(PolicyUnavailable, match="UNAVAILABLE"):
            await policy.client.fetch("bar.example", "ip-1", MX)


async def test_a_path_too_stale_is_used_with_conservative_limits_under_its_name(peer, tmp_path):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
    await peer.stop()

    clock.ahead = 86_500.0
    async with running(peer, tmp_path, clock) as policy:
        fetched = await policy.client.fetch("foo.example", "ip-1", MX)

        assert fetched.path_name == "ip-1->mx.foo.example"
        assert fetched.config.connection_limit.value == 1
        assert fetched.config.HasField("max_message_rate")
        assert limit_of(policy) == 1


@pytest.mark.parametrize("ends", ["stopped", "killed"])
async def test_what_the_watch_confirmed_is_fresh_after_a_restart_in_an_outage(
    peer, tmp_path, ends, monkeypatch
):
    if ends == "killed":
        # What a clean stop writes is left out.
        monkeypatch.setattr(PolicyBook, "_save_confirmed_of", lambda *_: None)
    clock = Clock()
    peer.answers["foo.example"] = answer(5, 7)
    async with running(peer, tmp_path, clock) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        clock.ahead = 86_000.0
        peer.outgoing.put_nowait(snapshot())
        await until(lambda: policy.staleness is Staleness.FRESH)
    await peer.stop()

    clock.ahead = 87_000.0
    async with running(peer, tmp_path, clock) as policy:
        shown = policy.snapshot()

        assert limit_of(policy) == 5
        assert (shown["staleness"], shown["revision"], shown["connected"]) == ("stale", 7, False)
        assert 1000 <= shown["age_seconds"] < 1010


async def test_an_answer_that_left_memory_is_as_old_as_its_last_confirmation(
    peer, tmp_path, monkeypatch
):
    small = functools.partial(PolicyBook, capacity=1)
    monkeypatch.setattr(access, "PolicyBook", small)
    clock = Clock()
    peer.answers = {"foo.example": answer(5), "bar.example": answer(6)}
    async with running(peer, tmp_path, clock) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await policy.client.fetch("bar.example", "ip-1", MX)
        await until(lambda: peer.streams)
        clock.ahead = 86_500.0
        peer.outgoing.put_nowait(snapshot())
        await until(lambda: policy.staleness is Staleness.FRESH)
        await peer.stop()

        assert limit_of(policy, "bar.example") == 6
        await policy.client.fetch("foo.example", "ip-1", MX)
        assert limit_of(policy) == 1, "the watch did not look after it"
        await policy.client.fetch("bar.example", "ip-1", MX)
        assert limit_of(policy, "bar.example") == 6, "the watch confirmed it"


async def test_a_silent_server_is_given_up_on_after_the_deadline(peer, tmp_path):
    peer.gate.clear()
    async with running(peer, tmp_path) as policy:
        begun = time.monotonic()
        with pytest.raises(PolicyUnavailable):
            await policy.client.fetch("foo.example", "ip-1", MX)

        assert time.monotonic() - begun < 4
        peer.gate.set()


async def test_an_unusable_answer_does_not_replace_a_good_one(peer, tmp_path):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path, clock) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        peer.answers["foo.example"] = answer(0)
        clock.ahead = 601

        fetched = await policy.client.fetch("foo.example", "ip-1", MX)

        assert fetched.config.connection_limit.value == 5


async def test_answers_and_suspensions_survive_a_killed_agent(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    code = (
        "import asyncio, sys, tests.integration.test_policy_client as t\n"
        "asyncio.run(t.hold_policy(int(sys.argv[1]), sys.argv[2]))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(peer.port), str(tmp_path)
    )
    await until(lambda: peer.batches and peer.streams, 30)
    peer.outgoing.put_nowait(snapshot(suspension(7)))
    await until(lambda: _rows(tmp_path) == (1, 1), 30)
    os.kill(process.pid, signal.SIGKILL)
    await process.wait()
    await peer.stop()

    async with running(peer, tmp_path) as policy:
        found = policy.client.lookup("foo.example", "ip-1")

        assert found is not None
        held = policy.client.suspension_of(found)
        assert held is not None
        assert held.action_id == 7


async def hold_policy(port: int, directory: str) -> None:
    """Be an agent until killed; the test above runs this in a process of its own."""
    peer = PolicyPeer()
    peer.port = port
    async with running(peer, directory) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await asyncio.Event().wait()


def _rows(directory) -> tuple[int, int]:
    connection = sqlite3.connect(directory / "policy.db")
    try:
        answers = connection.execute("SELECT count(*) FROM answers").fetchone()[0]
        return answers, connection.execute("SELECT count(*) FROM suspensions").fetchone()[0]
    finally:
        connection.close()


async def test_a_broken_last_known_policy_does_not_keep_the_agent_down(peer, tmp_path):
    (tmp_path / "policy.db").write_bytes(b"not a database" * 500)
    peer.answers["foo.example"] = answer(5)

    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)

    assert (tmp_path / "policy.db.broken").exists()
    assert _rows(tmp_path) == (1, 0)


async def test_an_override_ends_by_itself_and_is_told(peer, tmp_path):
    response = answer(1)
    response.ruled_config.CopyFrom(EgressPathConfig(connection_limit=Limit(value=9)))
    override = response.overrides.add(action_id=3, option="connection_limit")
    override.expire_time.FromNanoseconds(int((time.time() + 0.5) * 1e9))
    peer.answers["foo.example"] = response
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await peer.stop()
        told: list[int] = []
        policy.client.subscribe(lambda: told.append(limit_of(policy)))

        assert limit_of(policy) == 1
        await until(lambda: told)

        assert told == [9]


async def test_a_pushed_suspension_holds_and_ends_by_itself_without_a_server(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        path = await policy.client.fetch("foo.example", "ip-1", MX)
        told: list[bool] = []
        policy.client.subscribe(lambda: told.append(policy.client.suspension_of(path) is not None))
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(seconds=2)))
        await until(lambda: told == [True])
        await peer.stop()

        await until(lambda: told == [True, False])

        assert policy.suspensions() == []


async def test_the_relative_end_of_a_suspension_beats_a_clock_that_is_wrong(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        resource = suspension(seconds=-3600)
        resource.ttl.FromSeconds(100)
        peer.outgoing.put_nowait(snapshot(resource))

        await until(lambda: policy.suspensions())

        assert 90 < policy.suspensions()[0]["expire_time"] - time.time() <= 100


async def test_responses_are_applied_and_acknowledged_in_order(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(path_resource(answer(6, 2))))
        for number in (7, 8):
            resource = path_resource(answer(number, number))
            token, nonce = f"t{number}".encode(), f"n{number}"
            peer.outgoing.put_nowait(
                Kind(kind=Kind.KIND_DELTA, resources=[resource], token=token, nonce=nonce)
            )

        await until(lambda: limit_of(policy) == 8)
        acks = [request.ack for request in peer.streams[0] if request.HasField("ack")]
        await until(lambda: len(_acks(peer)) == 3)

        acks = _acks(peer)
        assert [(ack.nonce, ack.token) for ack in acks] == [
            ("n1", b"t1"),
            ("n7", b"t7"),
            ("n8", b"t8"),
        ]
        assert not any(ack.HasField("error") for ack in acks)
        assert len(peer.batches) == 1


def _acks(peer: PolicyPeer) -> list[pb.WatchAck]:
    return [request.ack for request in peer.streams[-1] if request.HasField("ack")]


async def test_what_can_not_be_applied_is_refused_and_the_rest_applied(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        bad = path_resource(answer(0, 2))
        unknown = pb.PolicyResource(name="2", type=99)
        peer.outgoing.put_nowait(snapshot(bad, unknown, suspension(3)))

        await until(lambda: _acks(peer))

        ack = _acks(peer)[0]
        assert ack.HasField("error")
        assert [(one.name, one.code) for one in ack.rejected] == [
            ("foo.example ip-1", 3),
            ("2", 12),
        ]
        assert limit_of(policy) == 5
        assert [held["action_id"] for held in policy.suspensions()] == [3]
        assert policy.watch.rejections == 2


async def test_paths_are_subscribed_to_as_they_come_into_use(peer, tmp_path):
    peer.answers["foo.example"] = peer.answers["bar.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams and peer.streams[0])
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: len(peer.streams[0]) == 2)

        added = peer.streams[0][1].subscribe.add
        assert [(one.name, one.mx_hosts[0].host) for one in added] == [
            ("foo.example ip-1", "mx.foo.example")
        ]
        start = peer.streams[0][0].start
        assert start.agent_info.name == "mta-1"
        assert list(start.agent_info.egress_sources) == ["ip-1"]


async def test_a_stream_is_resumed_with_its_token_and_what_is_held(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1), token=b"resume-here"))
        await until(lambda: policy.suspensions())
        await peer.stop()
        await peer.start()

        await until(lambda: len(peer.streams) == 2 and peer.streams[1], 20)

        start = peer.streams[1][0].start
        assert start.resume_token == b"resume-here"
        assert dict(start.known) == {"foo.example ip-1": "e5"}
        assert [one.name for one in start.subscribe] == ["foo.example ip-1"]
        assert policy.suspensions(), "held until the server says otherwise"


async def test_a_snapshot_ends_the_suspensions_that_it_lacks_and_not_before_its_end(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1), suspension(2)))
        await until(lambda: len(policy.suspensions()) == 2)
        peer.outgoing.put_nowait(Kind(kind=Kind.KIND_RESET, nonce="n2"))
        peer.outgoing.put_nowait(
            Kind(kind=Kind.KIND_SNAPSHOT, resources=[suspension(3)], nonce="n3")
        )
        await until(lambda: len(_acks(peer)) == 3)
        assert len(policy.suspensions()) == 3

        peer.outgoing.put_nowait(snapshot(suspension(2), nonce="n4"))
        await until(lambda: len(_acks(peer)) == 4)

        assert {held["action_id"] for held in policy.suspensions()} == {2, 3}


async def test_a_removed_suspension_ends_at_once(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1)))
        await until(lambda: policy.suspensions())
        gone = pb.ResourceRef(name="1", type=pb.RESOURCE_TYPE_SUSPENSION)
        peer.outgoing.put_nowait(Kind(kind=Kind.KIND_DELTA, removed=[gone], token=b"t", nonce="n"))

        await until(lambda: not policy.suspensions())


async def test_invalidated_answers_serve_on_and_are_asked_for_again(peer, tmp_path):
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.answers["foo.example"] = answer(6, 2)
        peer.outgoing.put_nowait(
            Kind(kind=Kind.KIND_DELTA, invalidate=[pb.Invalidation(revision=2)], nonce="n")
        )
        assert limit_of(policy) == 5

        await until(lambda: limit_of(policy) == 6)


async def test_an_answer_that_was_overtaken_by_a_newer_one_is_not_taken(peer, tmp_path):
    peer.answers["foo.example"] = answer(5, 1)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.gate.clear()
        moved = (MxHost(host="mx2.foo.example", preference=10),)
        overtaken = asyncio.create_task(policy.client.fetch("foo.example", "ip-1", moved))
        await until(lambda: len(peer.batches) == 2)
        peer.outgoing.put_nowait(snapshot(path_resource(answer(7, 2))))
        await until(lambda: limit_of(policy) == 7)
        peer.gate.set()

        assert (await overtaken).config.connection_limit.value == 7


async def test_a_silent_stream_is_left_for_a_new_one(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        await policy.watch.close()
        policy.watch._deadman = 0.1

        policy.watch.start()
        await until(lambda: len(peer.streams) >= 3)


async def test_the_stream_moves_when_the_server_asks_for_it(peer, tmp_path):
    async with running(peer, tmp_path):
        await until(lambda: peer.streams)
        leave = Kind(kind=Kind.KIND_BOOKMARK, token=b"t9")
        leave.reconnect_after.FromMilliseconds(20)
        peer.outgoing.put_nowait(leave)

        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert peer.streams[1][0].start.resume_token == b"t9"


async def test_staleness_follows_the_last_word_of_the_server(peer, tmp_path):
    clock = Clock()
    async with running(peer, tmp_path, clock) as policy:
        assert policy.staleness == "expired"
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot())
        await until(lambda: policy.staleness is Staleness.FRESH)

        clock.ahead = 20
        assert policy.staleness == "lagging"
        clock.ahead = 61
        assert policy.staleness == "stale"
        peer.outgoing.put_nowait(Kind(kind=Kind.KIND_BOOKMARK, token=b"t2"))
        await until(lambda: policy.staleness is Staleness.FRESH)


def _subscribed(peer: PolicyPeer, stream: int = -1) -> list[str]:
    """Names in the order in which the stream subscribed to them."""
    requests = peer.streams[stream]
    added = [one.name for one in requests[0].start.subscribe] if requests else []
    return added + [one.name for request in requests for one in request.subscribe.add]


async def test_a_path_that_left_memory_is_watched_again_once_it_is_back(peer, tmp_path):
    peer.answers = {"foo.example": answer(5), "bar.example": answer(6)}
    async with running(peer, tmp_path) as policy:
        policy.book._answers._capacity = 1
        await until(lambda: peer.streams and peer.streams[0])
        await policy.client.fetch("foo.example", "ip-1", MX)
        await policy.client.fetch("bar.example", "ip-1", MX)
        await until(lambda: _rows(tmp_path) == (2, 0))
        await until(lambda: "bar.example ip-1" in _subscribed(peer))
        removed = [name for request in peer.streams[0] for name in request.subscribe.remove]
        assert removed in ([], ["foo.example ip-1"])
        assert limit_of(policy) == 0
        del peer.answers["foo.example"]

        fetched = await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: _subscribed(peer)[-1] == "foo.example ip-1")
        peer.outgoing.put_nowait(snapshot(path_resource(answer(8, 2))))
        await until(lambda: limit_of(policy) == 8)

        assert fetched.config.connection_limit.value == 5
        assert _subscribed(peer).count("foo.example ip-1") == 2


async def test_more_paths_than_fit_into_one_message_are_all_watched_again(peer, tmp_path):
    domains = [f"{'long-label.' * 20}d{number}.example" for number in range(5000)]
    hosts = tuple(MxHost(host=f"{'mx-label.' * 20}{n}.example", preference=n) for n in range(5))
    peer.answers = {domain: answer(5) for domain in domains}
    async with running(peer, tmp_path) as policy:
        for first in range(0, len(domains), 250):
            some = domains[first : first + 250]
            # All at once they would not be answered within the deadline on a slow machine.
            await asyncio.gather(*(policy.client.fetch(each, "ip-1", hosts) for each in some))
        await until(lambda: peer.streams and len(set(_subscribed(peer))) == 5000, 30)
        await peer.stop()
        await peer.start()

        await until(lambda: len(peer.streams) == 2 and len(_subscribed(peer)) == 5000, 30)

        assert {name.partition(" ")[0] for name in _subscribed(peer)} == set(domains)
        start = peer.streams[1][0].start
        assert start.known.keys() == {one.name for one in start.subscribe}
        assert max(request.ByteSize() for request in peer.streams[1]) < 2 * 1024 * 1024


async def test_a_stream_that_breaks_off_is_resumed_and_nothing_is_released(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1), token=b"t1"))
        await until(lambda: policy.suspensions())

        peer.outgoing.put_nowait(grpc.StatusCode.INTERNAL)
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert peer.streams[1][0].start.resume_token == b"t1"
        assert policy.suspensions()


async def test_a_token_that_the_server_cannot_resume_from_is_not_tried_for_ever(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1), token=b"t1"))
        await until(lambda: policy.suspensions())
        peer.breakages = [
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.FAILED_PRECONDITION,
            grpc.StatusCode.INTERNAL,
        ]

        peer.outgoing.put_nowait(None)
        await until(lambda: len(peer.streams) == 5 and peer.streams[4], 20)

        assert peer.streams[2][0].start.resume_token == b"t1", "away is no reason to forget"
        assert peer.streams[3][0].start.resume_token == b"t1", "nor is a database to be migrated"
        assert peer.streams[4][0].start.resume_token == b""
        assert policy.suspensions(), "held until a snapshot says otherwise"


async def test_a_server_whose_database_was_put_back_is_believed_at_once(peer, tmp_path):
    peer.answers["foo.example"] = answer(5, 100)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1)))
        await until(lambda: policy.suspensions())

        peer.outgoing.put_nowait(Kind(kind=Kind.KIND_RESET, nonce="n2"))
        peer.outgoing.put_nowait(snapshot(path_resource(answer(7, 3)), nonce="n3", token=b"other"))

        await until(lambda: limit_of(policy) == 7)
        await until(lambda: not policy.suspensions())


async def test_what_a_full_disk_did_not_take_is_written_once_there_is_room(
    peer, tmp_path, monkeypatch
):
    monkeypatch.setattr(disk, "RETRY_SECONDS", 0.01)
    peer.answers["foo.example"] = answer(5)
    apply = disk._apply

    def refuse(*_: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(disk, "_apply", refuse)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1)))
        await until(lambda: policy.suspensions() and policy.disk.failures >= 2)
        assert _rows(tmp_path) == (0, 0)

        monkeypatch.setattr(disk, "_apply", apply)

        await until(lambda: _rows(tmp_path) == (1, 1))


@pytest.mark.parametrize("ahead", [7200.0, -7200.0])
async def test_a_suspension_lasts_as_long_as_it_should_when_the_time_is_set(peer, tmp_path, ahead):
    clock = Clock()
    peer.answers["foo.example"] = answer(5)
    async with running(peer, tmp_path, clock) as policy:
        path = await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        resource = suspension(1)
        resource.ttl.FromMilliseconds(1500)
        peer.outgoing.put_nowait(snapshot(resource))
        await until(lambda: policy.suspensions())

        begun = time.monotonic()
        clock.ahead = ahead
        held = policy.client.suspension_of(path)
        await until(lambda: policy.client.suspension_of(path) is None)

        assert held is not None
        assert 1 < held.expire_time - clock() + (time.monotonic() - begun) < 1.6
        assert 0.5 < time.monotonic() - begun < 5
        await until(lambda: _rows(tmp_path) == (1, 0))


def _delta(*resources: pb.PolicyResource, removed: int = 0, as_of: int = 0, number: int) -> Kind:
    delta = Kind(kind=Kind.KIND_DELTA, resources=resources, token=b"t%d" % number)
    delta.nonce = f"d{number}"
    if removed:
        delta.removed.add(name=str(removed), type=pb.RESOURCE_TYPE_SUSPENSION, revision=as_of)
    return delta


def _as_of(revision: int, action_id: int = 1, seconds: float = 60) -> pb.PolicyResource:
    resource = suspension(action_id, seconds)
    resource.revision = revision
    return resource


@pytest.mark.parametrize("revision", [5, 6])
async def test_a_late_word_brings_nothing_back_that_was_taken_back(peer, tmp_path, revision):
    seen: list[set[int]] = []
    async with running(peer, tmp_path) as policy:
        client, shown = policy.client, policy.suspensions
        client.subscribe(lambda: seen.append({one["action_id"] for one in shown()}))
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(_as_of(5), token=b"t0"))
        peer.outgoing.put_nowait(_delta(_as_of(6, seconds=90), number=1))
        peer.outgoing.put_nowait(_delta(removed=1, number=2))
        await until(lambda: len(_acks(peer)) == 3)
        seen.clear()

        peer.outgoing.put_nowait(_delta(_as_of(7, 2), _as_of(revision), number=3))
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert peer.streams[1][0].start.resume_token == b"t2", "it is asked to say it again"
        assert policy.watch.late == 1
        assert not policy.suspensions()
        # What it says then counts, whichever way it goes.
        peer.outgoing.put_nowait(_delta(_as_of(8), number=4))
        await until(lambda: policy.suspensions())
        assert all(1 not in held for held in seen[:-1])


async def test_a_late_word_that_an_action_is_gone_lifts_nothing(peer, tmp_path):
    """Of a server that lags: the action was put in force anew, or it was never gone."""
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(_as_of(8), _as_of(8, 2), token=b"t0"))
        peer.outgoing.put_nowait(_delta(removed=2, as_of=9, number=1))
        await until(lambda: len(_acks(peer)) == 2)
        peer.outgoing.put_nowait(_delta(removed=1, as_of=7, number=2))
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert peer.streams[1][0].start.resume_token == b"t1"
        assert [one["action_id"] for one in policy.suspensions()] == [1]


async def test_a_server_that_lags_brings_nothing_back_that_was_never_held(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(token=b"t0"))
        peer.outgoing.put_nowait(_delta(removed=1, as_of=9, number=1))
        peer.outgoing.put_nowait(_delta(_as_of(8), number=2))
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert not policy.suspensions()


async def test_a_server_that_says_a_late_word_again_is_asked_for_everything(peer, tmp_path):
    """Its database may have been put back without a word: then its word is no late one."""
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(_as_of(5), token=b"t0"))
        peer.outgoing.put_nowait(_delta(removed=1, number=1))
        await until(lambda: len(_acks(peer)) == 2)
        peer.outgoing.put_nowait(_delta(_as_of(4), number=2))
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])
        peer.outgoing.put_nowait(_delta(_as_of(4), number=2))
        await until(lambda: len(peer.streams) == 3 and peer.streams[2])

        assert peer.streams[2][0].start.resume_token == b""
        peer.outgoing.put_nowait(snapshot(_as_of(4)))
        await until(lambda: policy.suspensions())


async def test_a_response_that_comes_twice_is_taken_in_once(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        first = snapshot(_as_of(5), nonce="n1")
        peer.outgoing.put_nowait(first)
        peer.outgoing.put_nowait(_delta(_as_of(6, 2), number=1))
        peer.outgoing.put_nowait(first)
        await until(lambda: len(_acks(peer)) == 3)

        assert [ack.nonce for ack in _acks(peer)] == ["n1", "d1", "n1"]
        assert {held["action_id"] for held in policy.suspensions()} == {1, 2}


async def test_an_id_that_is_of_another_kind_in_another_database_is_one_action(peer, tmp_path):
    bounce = pb.PolicyResource(
        name="1",
        type=pb.RESOURCE_TYPE_BOUNCE,
        bounce=pb.Bounce(action_id=1, routing_domain="x.example"),
    )
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(bounce))
        await until(policy.bounces)
        peer.outgoing.put_nowait(snapshot(suspension(1), nonce="n2"))
        await until(policy.suspensions)

        assert not policy.bounces()


async def test_a_word_that_was_long_on_its_way_draws_no_suspension_out(peer, tmp_path):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        now = time.time()
        prompt, late = snapshot(), _delta(suspension(1, 60), number=1)
        prompt.server_time.FromNanoseconds(int(now * 1e9))
        # It was written ten seconds ago, when the suspension had 70 s left.
        late.server_time.FromNanoseconds(int((now - 10) * 1e9))
        late.resources[0].ttl.FromSeconds(70)
        peer.outgoing.put_nowait(prompt)
        peer.outgoing.put_nowait(late)
        await until(lambda: policy.suspensions())

        assert policy.suspensions()[0]["expire_time"] - now < 62


@pytest.mark.parametrize("ends", ["stopped", "killed"])
async def test_an_agent_that_starts_anew_goes_on_from_what_it_has_on_disk(peer, tmp_path, ends):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1), token=b"t1"))
        await until(lambda: policy.suspensions())
        if ends == "killed":
            await until(lambda: _token(tmp_path) == b"t1")
            assert _rows(tmp_path) == (0, 1), "the token is there with what it stands for"
            shutil.copytree(tmp_path, tmp_path / "at that moment")
    directory = tmp_path / "at that moment" if ends == "killed" else tmp_path

    async with running(peer, directory) as policy:
        assert policy.suspensions()
        await until(lambda: len(peer.streams) == 2 and peer.streams[1])

        assert peer.streams[1][0].start.resume_token == b"t1"
        peer.outgoing.put_nowait(Kind(kind=Kind.KIND_RESET))
        await until(lambda: _token(directory) == b"")
        assert policy.suspensions(), "held until the snapshot's end"
        peer.outgoing.put_nowait(snapshot(token=b"other"))
        await until(lambda: not policy.suspensions())
        await until(lambda: _token(directory) == b"other")


def _token(directory) -> bytes:
    connection = sqlite3.connect(directory / "policy.db")
    try:
        rows = connection.execute("SELECT token FROM resumption").fetchall()
        return rows[0][0] if rows else b""
    finally:
        connection.close()


async def test_an_answer_read_before_a_change_does_not_undo_it(peer, tmp_path):
    """It is of the same revision: the server is asked again rather than believed."""
    peer.answers["foo.example"] = answer(5, 2)
    async with running(peer, tmp_path) as policy:
        await policy.client.fetch("foo.example", "ip-1", MX)
        await until(lambda: peer.streams)
        peer.gate.clear()
        policy.client.refresh([PathKey(routing_domain="foo.example", egress_source="ip-1")])
        await until(lambda: len(peer.batches) == 2)
        peer.answers["foo.example"] = answer(6, 2)
        peer.outgoing.put_nowait(snapshot(path_resource(answer(7, 2))))
        await until(lambda: limit_of(policy) == 7)
        peer.gate.set()
        await until(lambda: not policy.client._calls)
        peer.answers["foo.example"] = answer(7, 2)

        assert limit_of(policy) == 7
        await until(lambda: len(peer.batches) == 3)
        assert limit_of(policy) == 7


async def test_a_locked_file_is_left_as_it_is(peer, tmp_path, monkeypatch):
    async with running(peer, tmp_path) as policy:
        await until(lambda: peer.streams)
        peer.outgoing.put_nowait(snapshot(suspension(1)))
        await until(lambda: policy.suspensions())

    def fail(*_: object) -> None:
        raise sqlite3.OperationalError("database is locked")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "_connection", fail)
        async with running(peer, tmp_path) as policy:
            assert not policy.suspensions()

    assert not (tmp_path / "policy.db.broken").exists()
    async with running(peer, tmp_path) as policy:
        assert policy.suspensions()
