"""An agent of several processes: nothing is lost, and limits hold over all of them together."""

import asyncio
import contextlib
import fcntl
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from penstock.v1 import queue_service_pb2 as pb
from penstock.v1.queue_service_pb2_grpc import QueueServiceStub
from tests.acceptance.fleet import Fleet, Program, fetch, until
from tests.acceptance.mail import inject

_RULES = """
["default"]
smtp_port = {port}
prohibited_hosts = []
connection_limit = {connections}
max_message_rate = "{rate}"
max_deliveries_per_connection = 40
enable_tls = "Disabled"
"""
_DOMAIN = "bigmail.example"


def _accepted(sink) -> dict[str, int]:
    """Times each (message, recipient) was accepted."""
    return sink.report(identities=True)["providers"]["bigmail"]["accepted"]


async def _start(fleet: Fleet, workers: int) -> Program:
    return await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1", workers=workers)


async def _rules(fleet: Fleet, sink, *, rate: str, connections: int = 5) -> None:
    await fleet.start_server()
    port = sink.listening["bigmail"][0][1]
    await fleet.import_rules(_RULES.format(port=port, rate=rate, connections=connections))


def _workers(agent: Program) -> list[dict[str, Any]]:
    return agent.status().get("workers", [])


def _by_worker(agent: Program, metric: str, label: str = "") -> dict[int, float]:
    """A metric of each worker, summed over other labels than *label*."""
    sums: dict[int, float] = {}
    text = fetch(f"http://127.0.0.1:{agent.ports['http']}/metrics") or ""
    pattern = rf'^{metric}{{worker="(\d+)"[^}}]*{label}[^}}]*}} (\S+)$'
    for number, value in re.findall(pattern, text, re.MULTILINE):
        sums[int(number)] = sums.get(int(number), 0.0) + float(value)
    return sums


def _any_runs(pids: list[int]) -> bool:
    return any(Path(f"/proc/{pid}").exists() for pid in pids)


async def test_a_killed_worker_comes_back_loses_nothing_and_limits_hold_throughout(
    fleet, open_sink
):
    limits = {"client_max_connections": 5, "client_max_message_rate": "40/s,max_burst=30"}
    async with open_sink(limits=limits) as sink:
        await _rules(fleet, sink, rate="40/s,max_burst=10")
        agent = await _start(fleet, 2)
        await inject(agent.ports["smtp"], 600, domain=_DOMAIN, connections=16)
        assert all(_by_worker(agent, "penstock_agent_smtp_accepted_total").values())
        await until(lambda: len(_accepted(sink)) >= 100, what="100 delivered")
        killed = _workers(agent)[1]
        os.kill(killed["pid"], signal.SIGKILL)
        assert len(_accepted(sink)) < 600, "it was to be killed in the middle"

        def is_back() -> bool:
            one = _workers(agent)[1]
            return one["state"] == "ready" and one["pid"] != killed["pid"]

        await until(is_back, what="worker 1 is back")
        assert (_workers(agent)[1]["restarts"], _workers(agent)[1]["last_end"]) == (1, "SIGKILL")
        await until(lambda: len(_accepted(sink)) == 600, seconds=60, what="all delivered")
        await until(lambda: not any(agent.status()["queues"].values()), what="nothing is queued")
        assert await asyncio.to_thread(agent.stop) == 0

    accepted = _accepted(sink)
    assert len(accepted) == 600
    assert sum(accepted.values()) - 600 <= 5, "at most one message on each of 5 connections"
    assert sink.report()["exceeded"] == []


async def test_both_workers_get_their_share_of_few_connections(fleet, open_sink):
    """One connection for two processes that both have mail: it goes round."""
    async with open_sink(limits={"client_max_connections": 1}) as sink:
        await _rules(fleet, sink, rate="20/s,max_burst=5", connections=1)
        agent = await _start(fleet, 2)
        await inject(agent.ports["smtp"], 600, domain=_DOMAIN, connections=16)

        def both_deliver() -> bool:
            counts = _by_worker(agent, "penstock_agent_records_total", 'type="Delivery"')
            return len(counts) == 2 and all(counts.values())

        await until(both_deliver, seconds=60, what="both deliver")
        assert len(_accepted(sink)) < 600, "while the first had mail left"
    assert sink.report()["exceeded"] == []


async def test_another_number_of_workers_loses_nothing_and_frees_no_burst(fleet, open_sink):
    limits = {"client_max_connections": 5, "client_max_message_rate": "20/s,max_burst=60"}
    async with open_sink(limits=limits) as sink:
        await _rules(fleet, sink, rate="20/s,max_burst=40")
        await _start(fleet, 1)
        sent = 0
        for workers in (1, 2, 1):
            agent = await _start(fleet, workers) if sent else fleet.agents["mta-1"]
            await inject(agent.ports["smtp"], 100, domain=_DOMAIN, connections=10, start=sent)
            sent += 100
            if workers == 2:
                assert all(_by_worker(agent, "penstock_agent_smtp_accepted_total").values())
            if sent < 300:
                assert await asyncio.to_thread(agent.stop) == 0
        assert len(_accepted(sink)) < 300, "there was to be mail left over"
        (left_over,) = [one for one in _workers(agent) if "draining" in one["state"]]
        assert left_over["worker"] == 1

        await until(lambda: len(_accepted(sink)) == 300, seconds=60, what="all delivered")
        await until(
            lambda: _workers(agent)[1]["last_end"] == "exit status 0", what="worker 1 is done"
        )
        assert await asyncio.to_thread(agent.stop) == 0
        # Nothing is left over now: one process again, without a parent.
        agent = await _start(fleet, 1)
        assert "workers" not in agent.status()
        assert await asyncio.to_thread(agent.stop) == 0

    accepted = _accepted(sink)
    assert (len(accepted), sum(accepted.values())) == (300, 300)
    assert sink.report()["exceeded"] == []


async def test_orders_and_lists_of_queues_are_of_the_whole_agent(fleet, open_sink):
    async with open_sink() as sink:
        await _rules(fleet, sink, rate="1000/s")
        agent = await _start(fleet, 2)
        async with _queues(agent) as stub:
            selector = pb.QueueSelector(all_mail=True)
            given = (await stub.SuspendQueue(pb.SuspendQueueRequest(selector=selector))).order
            await inject(agent.ports["smtp"], 40, domain=_DOMAIN, connections=16)
            assert all(_by_worker(agent, "penstock_agent_smtp_accepted_total").values())

            (queue,) = (await stub.ListScheduledQueues(pb.ListScheduledQueuesRequest())).queues
            assert (queue.name, queue.due_count + queue.scheduled_count) == (_DOMAIN, 40)
            assert {wait.reason for wait in queue.waits} == {pb.WAIT_REASON_ORDER}
            found = (await stub.ListQueueOrders(pb.ListQueueOrdersRequest())).orders
            assert [order.id for order in found] == [given.id]
            for message_id in _stored_ids(fleet):
                found = await stub.GetMessage(pb.GetMessageRequest(message_id=message_id))
                assert found.entries[0].queue_name == _DOMAIN
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.GetMessage(pb.GetMessageRequest(message_id="none"))
            assert failed.value.code() is grpc.StatusCode.NOT_FOUND

        os.kill(_workers(agent)[1]["pid"], signal.SIGKILL)
        await until(lambda: _workers(agent)[1]["restarts"] == 1, what="worker 1 is back")
        await until(lambda: _workers(agent)[1]["state"] == "ready", what="worker 1 is back")
        assert not _accepted(sink), "the order holds after a restart"
        async with _queues(agent) as stub:
            # Either wait of a worker names the order by a number of the agent.
            (queue,) = (await stub.ListScheduledQueues(pb.ListScheduledQueuesRequest())).queues
            await stub.ResumeQueue(pb.ResumeQueueRequest(order_id=queue.waits[-1].id))
            assert not (await stub.ListQueueOrders(pb.ListQueueOrdersRequest())).orders
        await until(lambda: len(_accepted(sink)) == 40, what="all delivered")


@contextlib.asynccontextmanager
async def _queues(agent: Program) -> AsyncIterator[QueueServiceStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.ports['grpc']}") as channel:
        yield QueueServiceStub(channel)


def _stored_ids(fleet: Fleet) -> list[str]:
    """The ids of all messages, by the delivery logs."""
    logs = (fleet.directory / "mta-1").glob("**/delivery.jsonl")
    return [json.loads(line)["id"] for log in logs for line in log.read_text().splitlines()]


async def test_workers_whose_parent_is_killed_finish_and_the_next_takes_over(fleet, open_sink):
    async with open_sink(limits={"client_max_connections": 5}) as sink:
        await _rules(fleet, sink, rate="100/s,max_burst=10")
        agent = await _start(fleet, 2)
        await inject(agent.ports["smtp"], 500, domain=_DOMAIN, connections=8)
        pids = [one["pid"] for one in _workers(agent)]
        await asyncio.to_thread(agent.kill)

        agent = await _start(fleet, 2)
        # They have let go of their spools; the interpreters may take a moment more to end.
        await until(lambda: not _any_runs(pids), seconds=10)
        await until(lambda: len(_accepted(sink)) == 500, seconds=60, what="all delivered")
        assert await asyncio.to_thread(agent.stop) == 0

    accepted = _accepted(sink)
    assert sum(accepted.values()) == 500, "workers that lose their parent stop in order"
    assert sink.report()["exceeded"] == []


async def test_a_second_signal_ends_all_processes_at_once(fleet, open_sink):
    async with open_sink(latency=["3s", "3s"]) as sink:
        await _rules(fleet, sink, rate="100/s,max_burst=10")
        agent = await _start(fleet, 2)
        await inject(agent.ports["smtp"], 20, domain=_DOMAIN, connections=4)
        pids = [one["pid"] for one in _workers(agent)]
        agent.process.send_signal(signal.SIGTERM)
        await until(lambda: fetch(f"http://127.0.0.1:{agent.ports['http']}/readyz") is None)
        assert agent.process.poll() is None
        agent.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.process.wait, 5) == 1
        await until(lambda: not _any_runs(pids), seconds=5)


async def test_an_agent_without_a_worker_that_can_start_ends(fleet):
    directory = fleet.directory / "mta-1"
    locks = []
    for place in (directory / "spool", directory / "worker-1" / "spool"):
        place.mkdir(parents=True)
        lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT)
        fcntl.flock(lock, fcntl.LOCK_EX)
        locks.append(lock)
    await fleet.start_server()
    try:
        with pytest.raises(AssertionError):
            await _start(fleet, 2)
    finally:
        for lock in locks:
            os.close(lock)
    output = (fleet.directory / "mta-1.out").read_text()
    assert "None of the agent's workers could start" in output
    assert "another agent uses this spool" in output


async def test_a_port_that_is_taken_is_told_before_any_worker_starts(fleet):
    await fleet.start_server()
    taken = fleet._ports_of("mta-1", "smtp", "grpc", "http")
    for kind in ("smtp", "grpc", "http"):
        with (
            socket.create_server(("127.0.0.1", taken[kind])),
            pytest.raises(AssertionError, match="address already in use"),
        ):
            await _start(fleet, 2)
    assert "worker" not in (fleet.directory / "mta-1.out").read_text()
