"""Kept outcomes in a real database: each event once, in order, bare of recipients, bounded."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, func, select

from policy_server.automation.outcomes import MAX_REPLY_LENGTH, OutcomeType, Reply
from policy_server.store.outcomes import (
    OutcomeBounds,
    keep_outcomes,
    read_outcomes,
    sweep_outcomes,
)
from policy_server.store.tables import outcomes as outcomes_table
from tests.unit.policy_server.automation.examples import START, make_outcome

_END = START + timedelta(days=30)


def _keep(database, *outcomes):
    return database.write_now(lambda connection: keep_outcomes(connection, outcomes))


def _read_all(database, *, start=START - timedelta(days=30), end=_END, page=100):
    """Read page by page, as one who tries rules does."""
    found, after_id = [], ""
    while True:
        some = database.read_now(
            lambda connection, start=start, after_id=after_id: read_outcomes(
                connection, start=start, end=end, after_id=after_id, limit=page
            )
        )
        found += some
        if len(some) < page:
            return found
        start, after_id = some[-1].event_time, some[-1].event_id


def _sweep(database, *, bounds, now=START, limit=100):
    return database.write_now(
        lambda connection: sweep_outcomes(connection, bounds=bounds, now=now, limit=limit)
    )


def _count(database):
    statement = select(func.count()).select_from(outcomes_table)
    return database.read_now(lambda connection: connection.execute(statement).scalar())


def test_an_outcome_is_read_as_it_was_kept(database):
    outcome = make_outcome(
        type=OutcomeType.BOUNCE,
        egress_pool="default",
        provider_name="yahoo",
        tenant="shop",
        campaign="spring",
        reply=Reply(code=550, enhanced_code=(5, 7, 1), content="no", command="MAIL FROM"),
        internal=True,
        num_attempts=3,
    )

    _keep(database, outcome)

    assert _read_all(database) == [outcome]


def test_a_second_report_of_an_event_changes_nothing(database):
    first = make_outcome("e1")

    assert _keep(database, first) == 1
    assert _keep(database, make_outcome("e1", num_attempts=9), make_outcome("e2", 1)) == 1

    assert _read_all(database) == [first, make_outcome("e2", 1)]


def test_an_event_that_stands_twice_in_one_batch_is_kept_once(database):
    assert _keep(database, make_outcome("e1"), make_outcome("e1")) == 1


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    minutes=st.lists(st.integers(0, 6), max_size=20),
    page=st.integers(1, 7),
    start=st.integers(0, 6),
    length=st.integers(0, 7),
)
def test_pages_hold_every_outcome_of_the_time_once_in_order(database, minutes, page, start, length):
    database.write_now(lambda connection: connection.execute(delete(outcomes_table)))
    kept = [make_outcome(f"e{number:02}", minute) for number, minute in enumerate(minutes)]
    _keep(database, *reversed(kept))

    read = _read_all(
        database,
        start=START + timedelta(minutes=start),
        end=START + timedelta(minutes=start + length),
        page=page,
    )

    wanted = [one for one in kept if start <= minutes[kept.index(one)] < start + length]
    assert read == sorted(wanted, key=lambda one: (one.event_time, one.event_id))


@pytest.mark.parametrize(
    ("reply", "content", "command"),
    [
        pytest.param(
            Reply(content="<john.doe@example.com>: unknown", command="RCPT TO:<john@example.com>"),
            "<@example.com>: unknown",
            "RCPT TO:<@example.com>",
            id="local parts",
        ),
        pytest.param(
            Reply(content="x" * (MAX_REPLY_LENGTH - 5) + " john.doe@example.com" * 9),
            "x" * (MAX_REPLY_LENGTH - 5) + " ",
            "",
            id="no part of an address that is cut",
        ),
        pytest.param(Reply(content="a\x00b"), "a\ufffdb", "", id="NUL, which PostgreSQL refuses"),
    ],
)
def test_replies_are_kept_without_recipients_and_bounded(database, reply, content, command):
    _keep(database, make_outcome(reply=reply))

    (kept,) = _read_all(database)

    assert (kept.reply.content, kept.reply.command) == (content, command)


def test_numbers_beyond_a_column_are_kept_as_its_largest(database):
    _keep(database, make_outcome(reply=Reply(code=2**32 - 1), num_attempts=2**32 - 1))

    (kept,) = _read_all(database)

    assert (kept.reply.code, kept.num_attempts) == (2**31 - 1, 2**31 - 1)


def test_the_oldest_are_swept_step_by_step(database):
    _keep(database, *(make_outcome(f"e{number}", number) for number in range(10)))
    bounds = OutcomeBounds(age=timedelta(minutes=4))
    now = START + timedelta(minutes=10)

    steps = [_sweep(database, bounds=bounds, now=now, limit=4) for _ in range(2)]

    assert steps == [True, False]
    assert [one.event_id for one in _read_all(database)] == ["e6", "e7", "e8", "e9"]


def test_no_more_are_kept_than_allowed(database):
    bounds = OutcomeBounds(age=timedelta(days=30), rows=7)
    for number in range(30):
        _keep(database, make_outcome(f"e{number}", number))
        # Again, as an agent does that has not heard of the first: it costs no other its place.
        _keep(database, make_outcome(f"e{number}", number))
        _sweep(database, bounds=bounds)

    assert [one.event_id for one in _read_all(database)] == [f"e{n}" for n in range(23, 30)]
    assert _count(database) == 7
