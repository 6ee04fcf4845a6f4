"""
What the agent's side says, made into what the server's side takes, and back. Each has messages of
its own; of the wire format between them neither a simulation nor a test of books has need.
"""

from collections.abc import Callable
from dataclasses import replace

from agent.limits import messages as agent_side
from policy_server.limits.messages import Demand, Grant, Report

_NANO = 1_000_000_000


def to_report(made: agent_side.Report, event_parts: Callable[[str], int]) -> Report:
    """
    Hand a report of an agent's to the server; what is in use is for people only. *event_parts* is
    what the agent takes an event of a limit for. Events that it returns are in billionths, as on
    the wire: by the time it is heard an event may be other parts.
    """
    return Report(
        agent=made.agent,
        incarnation=made.incarnation,
        sequence=made.sequence,
        demands=tuple(
            Demand(
                key=one.key,
                wants=one.wants,
                enforced=one.enforced,
                version=one.version,
                returned=one.returned * _NANO // parts if (parts := event_parts(one.key)) else 0,
                granted=one.granted,
                floor=one.floor,
                proof=one.proof,
            )
            for one in made.demands
        ),
    )


def count_returned(report: Report, event_parts: int) -> Report:
    """Count the events that come back with a report in parts, of which an event has so many now."""
    demands = (replace(one, returned=one.returned * event_parts // _NANO) for one in report.demands)
    return replace(report, demands=tuple(demands))


def to_held(grant: Grant) -> agent_side.Grant:
    """Hand a grant to its agent."""
    return agent_side.Grant(
        key=grant.key,
        version=grant.version,
        units=grant.units,
        floor=grant.floor,
        fill=grant.fill,
        proof=grant.proof,
        event_parts=grant.spec.event_parts,
        earns=grant.spec.earning.count if grant.spec.earning else 0,
    )
