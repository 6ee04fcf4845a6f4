"""
What must be true in the end: agents hold what the database says, and the ledger counted every
outcome once. Reckoned from the database anew, beside the servers.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

from sqlalchemy import text

from agent.delivery.record import Record
from agent.policy.answer import Bounce, Scope, Suspension
from agent.policy.effective import StoredAnswer
from policy_server.automation.actions import BOUNCES, SUSPENSIONS, ActionInForce
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.layers import AutomationRule, Immediate, Threshold
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database
from tests.simulation.agents import SimulatedAgent
from tests.simulation.rules import COUNTED_LAYER, DOMAINS
from tests.simulation.servers import SimulatedDns, SimulatedServer

#: Kinds of actions that the stream carries.
_STREAMED = SUSPENSIONS | BOUNCES
#: How far an end by an agent's clock may be off: by the clocks, and by a message's time.
_TOLERANCE = 30.0


async def find_differences(
    path: Path,
    *,
    now: datetime,
    servers: Sequence[SimulatedServer],
    agents: Sequence[SimulatedAgent],
    heard: Mapping[str, Mapping[int, float]],
) -> list[str]:
    """List where servers and agents differ from the database."""
    database = Database(f"sqlite:///{path}")
    try:
        truth = _policy(database, now)
        await truth.reload()
        found = []
        for server in servers:
            if server.policy.actions() != truth.actions():
                found.append(f"{server.name} has other actions in force than the database")
        for agent in agents:
            found += await _compare(agent, truth, now=now, heard=heard[agent.name])
    finally:
        database.close()
    return found


def _policy(database: Database, now: datetime) -> Policy:
    return Policy(
        database,
        actions=ActionStore(database),
        resolver=SimulatedDns(Random(0)),
        metrics=ServerMetrics(),
        clock=lambda: now,
    )


async def _compare(
    agent: SimulatedAgent, truth: Policy, *, now: datetime, heard: Mapping[int, float]
) -> list[str]:
    found = []
    if agent.outbox.count():
        found.append(f"{agent.name} has outcomes that were not taken")
    if not agent.watch.connected:
        found.append(f"{agent.name} does not watch")
    wanted = {one.id: one for one in truth.actions() if one.kind in _STREAMED}
    present: list[Suspension | Bounce] = [*agent.book.suspensions(), *agent.book.bounces()]
    held = {one.action_id: one for one in present}
    for number in sorted(wanted.keys() - held.keys()):
        found.append(f"{agent.name} lacks action {number}: {_describe(wanted[number])}")
    for number in sorted(held.keys() - wanted.keys()):
        found.append(f"{agent.name} holds action {number}, which is not in force")
    offset = agent.clock() - now.timestamp()
    for number in sorted(held.keys() & wanted.keys()):
        action, one = wanted[number], held[number]
        scope = Scope(
            action.egress_source,
            action.site_name,
            action.routing_domain,
            action.tenant,
            action.campaign,
        )
        if one.scope != scope:
            found.append(f"{agent.name} holds action {number} for {one}, not {scope}")
        end = math.inf if action.end is None else action.end.timestamp()
        if one.expire_time - offset != end and abs(one.expire_time - offset - end) > _TOLERANCE:
            found.append(f"{agent.name} ends action {number} at another time")
        if heard.get(number) != end and abs(heard.get(number, 0.0) - end) > 1e-3:
            found.append(f"{agent.name} was not told the present end of action {number}")
    for answer in agent.book.hottest_first():
        found += await _compare_answer(agent, answer, truth)
    return found


async def _compare_answer(agent: SimulatedAgent, answer: StoredAnswer, truth: Policy) -> list[str]:
    hosts = [MxHost(one.host, one.preference) for one in answer.mx_hosts]
    key = answer.key
    question = await truth.question(key.routing_domain, key.egress_source, "", hosts)
    right = truth.answer(question)
    if answer.response.etag == right.etag:
        return []
    return [
        f"{agent.name} holds {answer.response.etag} of revision {answer.response.revision} for"
        f" {key.routing_domain} by {key.egress_source}, not {right.etag}"
    ]


def _describe(action: ActionInForce) -> str:
    return f"{action.kind} {action.path_name} until {action.expire_time}"


async def count_differences(
    path: Path,
    records: Mapping[str, Record],
    acknowledged: Mapping[str, datetime],
    *,
    now: datetime,
) -> list[str]:
    """
    List where the ledger differs from a count of the outcomes that agents reported.

    *acknowledged* must be counted, others may be; its values are the earliest times that the
    server may take the events to be of. Matches so old that they can be forgotten are left out.
    """
    database = Database(f"sqlite:///{path}")
    try:
        truth = _policy(database, now)
        await truth.reload()
        rows = database.read_now(
            lambda c: c.execute(
                text("SELECT rule_key, event_id, event_time, path_name FROM automation_matches")
            ).all()
        )
        actions = database.read_now(
            lambda c: c.execute(text("SELECT * FROM automation_actions")).all()
        )
    finally:
        database.close()
    expected = _expected(truth, records)
    found = []
    counted = {(row.rule_key, row.event_id) for row in rows}
    for rule, event_id in expected:
        if event_id not in acknowledged or (rule.key, event_id) in counted:
            continue
        if acknowledged[event_id] + _window(rule) + rule.duration > now:
            found.append(f"{event_id} was acknowledged and not counted by {rule.regexes}")
    right = {(rule.key, event_id) for rule, event_id in expected}
    keys = {rule.key: rule for rule, _ in expected}
    for rule_key, event_id in sorted(counted - right):
        if rule_key in keys:
            found.append(
                f"{event_id} was counted by {keys[rule_key].regexes}, which it matches not"
            )
    times: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    for row in rows:
        times[row.rule_key, row.path_name].append(_read_time(row.event_time))
    found += _check_counts(keys, actions, times, now=now)
    return found


def _expected(truth: Policy, records: Mapping[str, Record]) -> list[tuple[AutomationRule, str]]:
    found = []
    for event_id, record in records.items():
        hosts = _hosts_of(record)
        question = Question(
            routing_domain=record.recipient_domain,
            egress_source=record.egress_source,
            site_name=record.site_name,
            mx_hosts=hosts,
        )
        reply = f"421 4.7.0 {record.response.content}"
        found += [
            (rule, event_id)
            for rule in truth.consulted_rules(question)
            if rule.layer == COUNTED_LAYER
            and any(re.search(pattern, reply) for pattern in rule.regexes)
        ]
    return found


def _hosts_of(record: Record) -> tuple[MxHost, ...]:
    return tuple(MxHost(one.host, one.preference) for one in DOMAINS[record.recipient_domain])


def _window(rule: AutomationRule) -> timedelta:
    return rule.trigger.period if isinstance(rule.trigger, Threshold) else timedelta()


def _check_counts(
    rules: Mapping[str, AutomationRule],
    actions: Sequence,
    times: Mapping[tuple[str, str], list[datetime]],
    *,
    now: datetime,
) -> list[str]:
    """Check the counts of actions that are the only ones of their rule and scope."""
    found = []
    per_scope = Counter(map(_scope_of, actions))
    for action in actions:
        rule = rules.get(action.rule_key)
        if rule is None or rule.duration < timedelta(minutes=30):
            continue
        is_simple = action.kind in ("Suspend", "SetConfig") and per_scope[_scope_of(action)] == 1
        if not is_simple or action.state not in ("in_force", "observed"):
            continue
        # A domain that rules single out has a path of its own, for which is counted apart.
        paths = [
            sorted(of_path)
            for (rule_key, path), of_path in times.items()
            if rule_key == rule.key
            and path.partition("#")[0] == f"{action.egress_source}->{action.site_name}"
        ]
        oldest = min([_read_time(action.first_match_time), *chain.from_iterable(paths)])
        if oldest + rule.duration <= now:
            # Of an agent whose clock is far behind: some may be forgotten by now.
            continue
        right = sum(_support(of_path, rule) for of_path in paths)
        if action.match_count != right:
            found.append(
                f"action {action.id} of {rule.regexes} counts {action.match_count} matches,"
                f" not {right}"
            )
    return found


def _read_time(written: str) -> datetime:
    return datetime.fromisoformat(written).replace(tzinfo=UTC)


def _scope_of(action: Any) -> tuple[str, ...]:
    return (action.rule_key, action.kind, action.egress_source, action.site_name, action.option)


def _support(times: Sequence[datetime], rule: AutomationRule) -> int:
    """Count the matches that firing ones rest on, in the plainest way."""
    match rule.trigger:
        case Threshold(count=count, period=period):
            fired = [
                time for time in times if sum(time - period < one <= time for one in times) >= count
            ]
            return sum(any(time - period < one <= time for time in fired) for one in times)
        case Immediate():
            return len(times)
    return 0
