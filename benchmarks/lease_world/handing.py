"""
What the agent's side says, made into what the server's side takes, and back. Each has messages of
its own; of the wire format between them neither a simulation nor a test of books has need.
"""

from agent.limits import messages as agent_side
from policy_server.limits.messages import Demand, Grant, Report


def to_report(made: agent_side.Report) -> Report:
    """Hand a report of an agent's to the server; what is in use is for people only."""
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
                returned=one.returned,
                granted=one.granted,
                floor=one.floor,
                proof=one.proof,
            )
            for one in made.demands
        ),
    )


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
