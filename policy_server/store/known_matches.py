"""
Known matches: what thresholds count, each event once for each rule.

A transaction has thousands of them and reads ten times as many, so all statements are plain ones:
converting each value, and building statements anew, took most of the time. Where whose mail they
were about does not matter, their times alone are read, which are in the index. PostgreSQL has an
array for each column, and one statement for all groups; to SQLite a statement for each costs no way
to go.
"""

import functools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from typing import Any

from sqlalchemy import Connection, delete, select, tuple_

from policy_server.automation.decide import KnownSupport, Mail, Match, heeds_mail
from policy_server.automation.threshold import HistorySpan, history_spans
from policy_server.rules.layers import Threshold
from policy_server.store.arrays import write_arrays
from policy_server.store.column_types import sqlite_time
from policy_server.store.tables import automation_matches

#: SQLite allows 32,766 values in one statement.
_ROWS_PER_STATEMENT = 2000
_MAIL_KEPT = 4096
_NAMES = (
    "rule_key", "event_id", "path_name", "event_time", "keep_until", "routing_domain", "tenant",
    "campaign",
)  # fmt: skip
_INTO = f"INSERT INTO automation_matches ({', '.join(_NAMES)}) "
# One statement decides what is new, so that two reports of an event can't both count.
_IF_NEW = "ON CONFLICT DO NOTHING RETURNING rule_key, event_id"
_ROW = f"({', '.join('?' * len(_NAMES))})"
_KEEP_ARRAYS = (
    f"{_INTO} SELECT * FROM unnest("
    "%s::text[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::text[],"
    f" %s::text[], %s::text[]) {_IF_NEW}"
)
_TIMES = "event_time"
_TIMES_AND_MAIL = "event_time, routing_domain, tenant, campaign"
_READ_EACH = (
    "SELECT {columns} FROM automation_matches WHERE rule_key = ? AND path_name = ?"
    " AND event_time > ? AND event_time <= ? ORDER BY event_time DESC LIMIT ?"
)
_READ_ARRAYS = (
    "SELECT number, {columns} FROM unnest("
    "%s::integer[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[]"
    ") AS wanted (number, of_rule, of_path, since, until, most) CROSS JOIN LATERAL ("
    "SELECT {columns} FROM automation_matches WHERE rule_key = of_rule AND path_name = of_path"
    " AND event_time > since AND event_time <= until ORDER BY event_time DESC LIMIT most"
    ") AS known ORDER BY number, event_time DESC"
)

_matches = automation_matches.c


@dataclass(slots=True)
class Known:
    """The known matches of one rule and path, ascending."""

    times: list[datetime] = field(default_factory=list)
    #: Whose mail each was about; empty where that does not matter.
    mail: list[Mail] = field(default_factory=list)


def keep_matches(connection: Connection, matches: Iterable[Match]) -> frozenset[tuple[str, str]]:
    """Keep *matches*, each event once for each rule; return those that were not known."""
    is_postgresql = connection.dialect.name == "postgresql"
    write_time = _leave if is_postgresql else sqlite_time
    rows = [_to_row(match, write_time) for match in matches]
    if not rows:
        return frozenset()
    if is_postgresql:
        added = connection.exec_driver_sql(_KEEP_ARRAYS, write_arrays(rows))
        return frozenset((rule_key, event_id) for rule_key, event_id in added)
    new: set[tuple[str, str]] = set()
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = rows[start : start + _ROWS_PER_STATEMENT]
        statement = f"{_INTO} VALUES {', '.join([_ROW] * len(part))} {_IF_NEW}"
        values = tuple(chain.from_iterable(part))
        new.update(map(tuple, connection.exec_driver_sql(statement, values)))
    return frozenset(new)


def read_known(connection: Connection, groups: Sequence[Sequence[Match]]) -> list[Known]:
    """
    Read for each group of matches those known before, as far as it is judged with them; nothing of
    the group may be kept yet.
    """
    found = [Known() for _ in groups]
    for columns, is_wanted in ((_TIMES, False), (_TIMES_AND_MAIL, True)):
        questions = [
            (number, *group[0].counted_under, span.after, span.until, span.limit)
            for number, group in enumerate(groups)
            if heeds_mail(group[0].rule) is is_wanted
            for span in reversed(_spans_of(group))
        ]
        for number, time, *whose in _read_rows(connection, columns, questions):
            found[number].times.append(time)
            if whose:
                found[number].mail.append(_mail(*whose))
    for known in found:
        known.times.reverse()
        known.mail.reverse()
    return found


@functools.lru_cache(maxsize=_MAIL_KEPT)
def _mail(routing_domain: str, tenant: str, campaign: str) -> Mail:
    # Most matches of a path are about the same mail.
    return Mail(routing_domain=routing_domain, tenant=tenant, campaign=campaign)


def find_events(
    connection: Connection,
    counted_under: tuple[str, str],
    support: KnownSupport,
    *,
    new: Collection[tuple[str, str]],
) -> list[str]:
    """
    Find the event ids of known matches of one rule and path, the newest first; *new* are rules and
    events of those that were not known before.
    """
    rule_key, path_name = counted_under
    rows = connection.execute(
        select(_matches.event_id, _matches.routing_domain, _matches.tenant, _matches.campaign)
        .where(
            _matches.rule_key == rule_key,
            _matches.path_name == path_name,
            _matches.event_time.in_(support.times),
        )
        .order_by(_matches.event_time.desc())
    )
    return [
        event_id
        for event_id, *whose in rows
        if (rule_key, event_id) not in new
        and (support.mail is None or _mail(*whose) in support.mail)
    ]


def sweep_matches(connection: Connection, *, now: datetime, limit: int) -> None:
    """Forget up to *limit* matches that no decision needs any more."""
    key = tuple_(_matches.rule_key, _matches.event_id)
    old = select(_matches.rule_key, _matches.event_id).where(_matches.keep_until <= now)
    old = old.limit(limit)
    connection.execute(delete(automation_matches).where(key.in_(old)))


def _spans_of(group: Sequence[Match]) -> list[HistorySpan]:
    trigger = group[0].rule.trigger
    if not isinstance(trigger, Threshold):
        return []
    return history_spans([match.outcome.event_time for match in group], trigger)


def _read_rows(
    connection: Connection, columns: str, questions: Sequence[tuple[Any, ...]]
) -> Iterable[Sequence[Any]]:
    """Read the number of each question with *columns*, the newest first."""
    if not questions:
        return []
    if connection.dialect.name == "postgresql":
        arrays = write_arrays(questions)
        return connection.exec_driver_sql(_READ_ARRAYS.format(columns=columns), arrays).all()
    statement = _READ_EACH.format(columns=columns)
    return [
        (number, datetime.fromisoformat(f"{time}+00:00"), *whose)
        for number, rule_key, path_name, after, until, limit in questions
        for time, *whose in connection.exec_driver_sql(
            statement, (rule_key, path_name, sqlite_time(after), sqlite_time(until), limit)
        ).all()
    ]


def _to_row(match: Match, write_time: Callable[[datetime], Any]) -> tuple[Any, ...]:
    outcome = match.outcome
    return (
        match.rule.key,
        outcome.event_id,
        outcome.counted_path,
        write_time(outcome.event_time),
        write_time(match.keep_until),
        outcome.routing_domain,
        outcome.tenant,
        outcome.campaign,
    )


def _leave(time: datetime) -> datetime:
    # It is written as part of an array.
    return time
