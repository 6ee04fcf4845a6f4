"""
Known matches: what thresholds count, each event once for each rule.

A transaction has thousands of them and reads as many, so all statements are plain ones: converting
each value, and building statements anew, took most of the time. PostgreSQL has an array for each
column, and one statement for all groups; to SQLite a statement for each costs no way to go.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, delete, select, tuple_

from policy_server.automation.decide import Mail, Match
from policy_server.automation.threshold import HistorySpan, history_spans
from policy_server.rules.layers import Threshold
from policy_server.store.tables import automation_matches

#: SQLite allows 32,766 values in one statement.
_ROWS_PER_STATEMENT = 2000
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
_KNOWN = "event_id, event_time, routing_domain, tenant, campaign"
_READ_EACH = (
    f"SELECT {_KNOWN} FROM automation_matches WHERE rule_key = ? AND path_name = ?"
    " AND event_time > ? AND event_time <= ? ORDER BY event_time DESC LIMIT ?"
)
_READ_ARRAYS = (
    f"SELECT number, {_KNOWN} FROM unnest("
    "%s::integer[], %s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[], %s::bigint[]"
    ") AS wanted (number, of_rule, of_path, since, until, most) CROSS JOIN LATERAL ("
    f"SELECT {_KNOWN} FROM automation_matches WHERE rule_key = of_rule AND path_name = of_path"
    " AND event_time > since AND event_time <= until ORDER BY event_time DESC LIMIT most"
    ") AS known"
)

#: Matches by event time, each with whose mail it was about and its event id.
Known = list[tuple[datetime, Mail, str]]
#: Event id, event time, routing domain, tenant, campaign.
_Row = tuple[str, datetime, str, str, str]


def keep_matches(connection: Connection, matches: Iterable[Match]) -> list[Match]:
    """Keep *matches* and return those that were not known."""
    by_key = {(match.rule.key, match.outcome.event_id): match for match in matches}
    rows = [_to_row(match) for match in by_key.values()]
    if not rows:
        return []
    if connection.dialect.name == "postgresql":
        columns = zip(*rows, strict=True)
        added = connection.exec_driver_sql(_KEEP_ARRAYS, tuple(map(list, columns))).all()
        return [by_key[rule_key, event_id] for rule_key, event_id in added]
    new: list[Match] = []
    for start in range(0, len(rows), _ROWS_PER_STATEMENT):
        part = rows[start : start + _ROWS_PER_STATEMENT]
        statement = f"{_INTO} VALUES {', '.join([_ROW] * len(part))} {_IF_NEW}"
        values = tuple(value for row in part for value in _to_sqlite(row))
        added = connection.exec_driver_sql(statement, values).all()
        new.extend(by_key[rule_key, event_id] for rule_key, event_id in added)
    return new


def read_known(connection: Connection, groups: Sequence[Sequence[Match]]) -> list[Known]:
    """Read for each group of new matches those known before, as far as it is judged with them."""
    wanted = [
        (number, group, span) for number, group in enumerate(groups) for span in _spans_of(group)
    ]
    found: list[Known] = [[] for _ in groups]
    if not wanted:
        return found
    new_ids = [{match.outcome.event_id for match in group} for group in groups]
    # Most matches of a group are about the same mail.
    mails: dict[tuple[str, str, str], Mail] = {}
    for number, (event_id, time, *whose) in _read_rows(connection, wanted):
        if event_id not in new_ids[number]:
            key = (whose[0], whose[1], whose[2])
            mail = mails.get(key) or mails.setdefault(
                key, Mail(routing_domain=key[0], tenant=key[1], campaign=key[2])
            )
            found[number].append((time, mail, event_id))
    for known in found:
        known.sort(key=lambda entry: entry[0])
    return found


def sweep_matches(connection: Connection, *, now: datetime, limit: int) -> None:
    """Forget up to *limit* matches that no decision needs any more."""
    columns = automation_matches.c
    key = tuple_(columns.rule_key, columns.event_id)
    old = select(columns.rule_key, columns.event_id).where(columns.keep_until <= now).limit(limit)
    connection.execute(delete(automation_matches).where(key.in_(old)))


def _spans_of(group: Sequence[Match]) -> list[HistorySpan]:
    trigger = group[0].rule.trigger
    if not isinstance(trigger, Threshold):
        return []
    return history_spans([match.outcome.event_time for match in group], trigger)


def _read_rows(
    connection: Connection, wanted: Sequence[tuple[int, Sequence[Match], HistorySpan]]
) -> Iterable[tuple[int, _Row]]:
    questions = [
        (
            number,
            *group[0].counted_under,
            span.after,
            span.until,
            span.limit + len(group),
        )
        for number, group, span in wanted
    ]
    if connection.dialect.name == "postgresql":
        columns = zip(*questions, strict=True)
        rows = connection.exec_driver_sql(_READ_ARRAYS, tuple(map(list, columns))).all()
        return [(number, (event_id, time, *whose)) for number, event_id, time, *whose in rows]
    return [
        (number, (event_id, datetime.fromisoformat(f"{time}+00:00"), *whose))
        for number, *values in questions
        for event_id, time, *whose in connection.exec_driver_sql(
            _READ_EACH, _to_sqlite(values)
        ).all()
    ]


def _to_row(match: Match) -> tuple[Any, ...]:
    outcome = match.outcome
    return (
        match.rule.key,
        outcome.event_id,
        outcome.counted_path,
        outcome.event_time,
        match.keep_until,
        outcome.routing_domain,
        outcome.tenant,
        outcome.campaign,
    )


def _to_sqlite(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(map(_write_time, values))


def _write_time(value: Any) -> Any:
    if not isinstance(value, datetime):
        return value
    # As SQLAlchemy keeps times there.
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")
