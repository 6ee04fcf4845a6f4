"""Streams of outcomes against the real server and database, over gRPC."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import grpc
import pytest
from sqlalchemy import func, select

from penstock.v1 import feedback_service_pb2 as pb
from penstock.v1 import outcome_pb2
from policy_server.automation.actions import ActionState
from policy_server.services.outcome_stream import MAX_OUTCOMES, WINDOW
from policy_server.store.tables import automation_matches
from policy_server.store.tables import outcomes as outcomes_table
from tests.integration.watching import (
    SITE,
    Client,
    automation,
    outcome,
    run_sql,
    serving,
    write_rules,
    yahoo,
)

_SUSPEND = automation(r"\[TS04\]", "Suspend")
_Refusal = pb.OutcomeRefusal


@pytest.fixture
def url(database_url):
    return database_url


class Stream:
    """One stream of outcomes, with what it was answered."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.acks: dict[int, pb.OutcomeAck] = {}
        self.refusals: dict[int, pb.OutcomeRefusal] = {}
        self.filters: list[pb.OutcomeFilter] = []
        self.reconnect_after: Any = None
        self.is_over = False

    async def send(self, batch_id: int, *outcomes, **changes) -> None:
        batch = pb.OutcomeBatch(batch_id=batch_id, outcomes=outcomes, **changes)
        await self.call.write(pb.StreamOutcomesRequest(batch=batch))

    async def read(self) -> None:
        response = await self.call.read()
        if response is grpc.aio.EOF:
            self.is_over = True
            return
        match response.WhichOneof("response"):
            case "ack":
                self.acks[response.ack.batch_id] = response.ack
            case "refusal":
                self.refusals[response.refusal.batch_id] = response.refusal
            case "filter":
                self.filters.append(response.filter)
            case "reconnect_after":
                self.reconnect_after = response.reconnect_after

    async def until(self, condition, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                if self.is_over:
                    raise AssertionError(f"the stream ended: {await self.call.details()}")
                await self.read()


@contextlib.asynccontextmanager
async def streaming(client: Client, **start) -> AsyncIterator[Stream]:
    call = client.feedback.StreamOutcomes()
    await call.write(pb.StreamOutcomesRequest(start=pb.OutcomeStreamStart(**start)))
    try:
        yield Stream(call)
    finally:
        call.cancel()


async def count_rows(client: Client, table) -> int:
    statement = select(func.count()).select_from(table)
    return await client.server.database.read(
        lambda connection: connection.execute(statement).scalar() or 0
    )


async def test_a_batch_is_acknowledged_once_counted_and_kept(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, client.watch() as watch, streaming(client) as stream:
        await watch.until(lambda: watch.token)

        await stream.send(7, outcome("e1"), outcome("e2"), outcome("e3", "250 ok"))
        await stream.until(lambda: stream.acks)

        assert stream.acks[7].match_count == 2
        assert await count_rows(client, outcomes_table) == 3, "also one that matches nothing"
        await watch.until(lambda: watch.suspensions)
        assert [str(number) for number in stream.acks[7].action_ids] == list(watch.suspensions)


async def test_a_batch_that_is_sent_again_counts_once(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client) as stream:
        await stream.send(1, outcome("e1"), outcome("e2"))
        await stream.send(2, outcome("e2"), outcome("e1"), outcome("e3"))
        await stream.until(lambda: len(stream.acks) == 2)

        assert stream.acks[1].match_count + stream.acks[2].match_count == 3
        assert await count_rows(client, outcomes_table) == 3


async def test_many_batches_are_under_way_at_a_time(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client) as stream:
        for number in range(1, 5 * WINDOW):
            await stream.send(number, *(outcome(f"e{number}-{each}") for each in range(20)))
        await stream.until(lambda: len(stream.acks) == 5 * WINDOW - 1)

        assert sum(ack.match_count for ack in stream.acks.values()) == 20 * (5 * WINDOW - 1)


async def test_a_malformed_outcome_is_named_and_nothing_of_its_batch_counts(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client) as stream:
        bad = outcome("e2", recipient_domain="")
        nul = outcome("e4", tenant="a\x00b")
        await stream.send(1, outcome("e1"), bad, outcome("e3"), nul)
        await stream.send(2, outcome("e5"))
        await stream.until(lambda: stream.acks and stream.refusals)

        refusal = stream.refusals[1]
        assert refusal.reason == _Refusal.REASON_INVALID
        assert list(refusal.invalid_indexes) == [1, 3]
        assert "outcomes[1].recipient_domain is required" in refusal.message
        assert await count_rows(client, outcomes_table) == 1


async def test_too_many_outcomes_in_a_batch_are_refused(url):
    write_rules(url, yahoo())
    async with serving(url) as client, streaming(client) as stream:
        await stream.send(1, *(outcome(f"e{number}") for number in range(MAX_OUTCOMES + 1)))
        await stream.until(lambda: stream.refusals)

        assert stream.refusals[1].reason == _Refusal.REASON_INVALID
        assert "at most 1000 outcomes" in stream.refusals[1].message


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(pb.StreamOutcomesRequest(start=pb.OutcomeStreamStart()), id="a second start"),
        pytest.param(pb.StreamOutcomesRequest(batch=pb.OutcomeBatch()), id="a batch without id"),
        pytest.param(pb.StreamOutcomesRequest(), id="nothing"),
    ],
)
async def test_a_request_out_of_order_ends_the_stream(tmp_path, request_):
    async with serving(f"sqlite:///{tmp_path}/p.db") as client, streaming(client) as stream:
        await stream.call.write(request_)

        assert await stream.call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_that_does_not_start_is_refused(tmp_path):
    async with serving(f"sqlite:///{tmp_path}/p.db") as client:
        call = client.feedback.StreamOutcomes()
        await call.write(pb.StreamOutcomesRequest(batch=pb.OutcomeBatch(batch_id=1)))

        assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_agent_that_is_done_hears_the_last_answers(tmp_path):
    async with serving(f"sqlite:///{tmp_path}/p.db") as client, streaming(client) as stream:
        for number in range(1, 6):
            await stream.send(number, outcome(f"e{number}"))
        await stream.call.done_writing()
        while not stream.is_over:
            await stream.read()

        assert sorted(stream.acks) == [1, 2, 3, 4, 5]
        assert await stream.call.code() is grpc.StatusCode.OK


async def test_the_filter_comes_at_the_start_and_whenever_it_changes(url):
    write_rules(url, yahoo(_SUSPEND, automation("(?=look).*ahead", "Suspend")))
    async with serving(url) as client, streaming(client, wants_filter=True) as stream:
        await stream.until(lambda: stream.filters)
        patterns = {one.regex: one for one in stream.filters[0].patterns}
        assert not patterns[r"\[TS04\]"].is_backtracking
        assert patterns["(?=look).*ahead"].is_backtracking

        run_sql(url, "UPDATE automation_rules SET match_internal = true WHERE position = 0")
        await stream.until(lambda: len(stream.filters) == 2)

        patterns = {one.regex: one for one in stream.filters[1].patterns}
        assert patterns[r"\[TS04\]"].match_internal


async def test_a_filter_that_the_agent_holds_is_not_sent(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client:
        async with streaming(client, wants_filter=True) as first:
            await first.until(lambda: first.filters)
        etag = first.filters[0].etag
        async with streaming(client, wants_filter=True, filter_etag=etag) as second:
            await second.send(1, filter_etag=etag)
            await second.until(lambda: second.acks)

            assert second.filters == []


async def test_a_batch_filtered_by_rules_that_hold_no_more_is_refused_after_the_new_filter(url):
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client, wants_filter=True) as stream:
        await stream.until(lambda: stream.filters)
        old = stream.filters[0].etag
        skipped = [pb.SkippedOutcomes(type=outcome_pb2.OUTCOME_TYPE_DELIVERY, count=3)]
        await stream.send(1, outcome("e1"), filter_etag=old, skipped=skipped)
        await stream.until(lambda: stream.acks)
        assert client.metric("penstock_server_outcomes_skipped_total", type="Delivery") == 3

        write_rules(url, yahoo(automation("busy", "Suspend")))
        await client.server.policy.reload()
        await stream.send(2, outcome("e2", "busy"), filter_etag=old, skipped=skipped)
        await stream.until(lambda: stream.refusals)

        assert stream.refusals[2].reason == _Refusal.REASON_STALE_FILTER
        assert stream.filters[-1].etag != old, "it was sent first"
        assert await count_rows(client, outcomes_table) == 1
        await stream.send(3, outcome("e2", "busy"), filter_etag=stream.filters[-1].etag)
        await stream.until(lambda: 3 in stream.acks)
        assert stream.acks[3].match_count == 1


async def test_a_change_that_leaves_the_patterns_alone_sends_no_filter(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client, wants_filter=True) as stream:
        await stream.until(lambda: stream.filters)
        etag = stream.filters[0].etag
        before = client.server.policy.snapshot

        write_rules(url, yahoo(automation(r"\[TS04\]", "Suspend", duration="5 min")))
        await client.server.policy.reload()
        assert client.server.policy.snapshot is not before
        await stream.send(1, outcome("e1"), filter_etag=etag)
        await stream.until(lambda: stream.acks)

        assert len(stream.filters) == 1


async def test_a_database_that_is_away_refuses_batches_until_it_is_back(postgresql):
    url = postgresql.new_database()
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client) as stream:
        await stream.send(1, outcome("e1"))
        await stream.until(lambda: stream.acks)
        with postgresql.down():
            await stream.send(2, outcome("e2"))
            await stream.until(lambda: stream.refusals)
            refusal = stream.refusals[2]
            assert refusal.reason == _Refusal.REASON_UNAVAILABLE
            assert refusal.retry_delay.ToTimedelta() >= timedelta(seconds=1)
        number = 2
        while number not in stream.acks:
            number += 1
            await stream.send(number, outcome("e2"))
            answered = len(stream.acks) + len(stream.refusals)
            await stream.until(
                lambda before=answered: len(stream.acks) + len(stream.refusals) > before
            )

        assert await count_rows(client, outcomes_table) == 2
        assert await count_rows(client, automation_matches) == 2


async def test_agents_are_asked_to_come_back_when_the_server_stops(tmp_path):
    url = f"sqlite:///{tmp_path}/p.db"
    write_rules(url, yahoo(_SUSPEND))
    async with serving(url) as client, streaming(client) as stream:
        for number in range(1, WINDOW):
            await stream.send(number, *(outcome(f"e{number}-{each}") for each in range(50)))
        await stream.until(lambda: stream.acks)
        stopping = asyncio.create_task(client.server.stop())
        while not stream.is_over:
            await stream.read()
        await stopping

        assert stream.reconnect_after is not None
        assert await stream.call.code() is grpc.StatusCode.OK
        kept = {f"e{number}-" for number in stream.acks}
    async with serving(url) as client:
        # What was acknowledged is there; nothing else was promised.
        assert await count_rows(client, outcomes_table) >= 50 * len(kept)


async def _report_again_and_again(client: Client, batches, random: Random, known: set[str]) -> None:
    """Send *batches* in any order, some of them twice, on streams that break off now and then."""
    waiting = [*batches, *random.sample(batches, len(batches) // 3)]
    random.shuffle(waiting)
    while waiting:
        async with streaming(client) as stream:
            some = waiting[: random.randint(1, 6)]
            for number, batch in enumerate(some, 1):
                await stream.send(number, *batch)
            if random.random() < 0.3:
                # The answers are lost with the stream; all of it is sent again.
                continue
            await stream.until(
                lambda some=some, stream=stream: (
                    len(stream.acks) + len(stream.refusals) == len(some)
                )
            )
            # Two servers that write the same events may be in each other's way.
            reasons = {refusal.reason for refusal in stream.refusals.values()}
            assert reasons <= {_Refusal.REASON_UNAVAILABLE}
            kept = [batch for number, batch in enumerate(some, 1) if number in stream.acks]
            known.update(one.event_id for batch in kept for one in batch)
            refused = [batch for number, batch in enumerate(some, 1) if number in stream.refusals]
            waiting = refused + waiting[len(some) :]


@pytest.mark.parametrize("seed", range(3))
async def test_resends_reordering_restarts_and_two_servers_count_every_event_once(url, seed):
    random = Random(seed)
    write_rules(
        url,
        yahoo(
            automation("slow", "Suspend", trigger={"Threshold": "5/hr"}, duration="10 hours"),
            automation(r"\[TS04\]", "Suspend", duration="10 hours"),
        ),
    )
    start = datetime.now(UTC) - timedelta(hours=3)
    texts = ["slow down", "[TS04] deferred", "ok", "slow [TS04]"]
    outcomes = [
        outcome(
            f"e{number}",
            random.choice(texts),
            at=start + timedelta(seconds=random.randint(0, 9000)),
        )
        for number in range(300)
    ]
    shuffled = random.sample(outcomes, len(outcomes))
    batches = [shuffled[begin : begin + 20] for begin in range(0, 300, 20)]
    is_shared = url.startswith("postgresql")
    known: set[str] = set()
    for _ in range(2):
        # The second round is after a restart, and repeats it all.
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(serving(url)) for _ in range(1 + is_shared)]
            await asyncio.gather(
                *(
                    _report_again_and_again(client, batches, Random(seed + number), known)
                    for number, client in enumerate(clients)
                )
            )
            matches = await count_rows(clients[0], automation_matches)
            kept = await count_rows(clients[0], outcomes_table)
            actions = await clients[0].server.actions.list(list(ActionState), 100)

    assert known == {one.event_id for one in outcomes}
    assert kept == 300
    slow = [one for one in outcomes if "slow" in one.response.content]
    tagged = [one for one in outcomes if "TS04" in one.response.content]
    assert matches == len(slow) + len(tagged)
    counts = {action.rule_regexes: action for action in actions}
    assert len(actions) == 2
    suspension = counts[(r"\[TS04\]",)]
    assert suspension.match_count == len(tagged)
    assert suspension.site_name == SITE
    threshold = counts[("slow",)]
    assert threshold.last_match_time == max(one.event_time.ToDatetime(UTC) for one in slow)
