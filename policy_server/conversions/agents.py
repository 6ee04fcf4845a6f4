"""
Conversions between the messages of the FleetService and what the server knows of agents.
"""

from datetime import datetime

from penstock.v1 import fleet_service_pb2
from policy_server.conversions.times import write_time
from policy_server.known_agents import KnownAgent


def to_agent(agent: KnownAgent, now: datetime) -> fleet_service_pb2.Agent:
    """Write what is known of an agent."""
    refused = agent.reject_time
    return fleet_service_pb2.Agent(
        name=agent.name,
        version=agent.version,
        egress_sources=agent.egress_sources,
        connected=agent.is_connected(now),
        server=agent.server,
        connect_time=write_time(agent.connect_time),
        seen_time=write_time(agent.seen_time),
        applied_revision=agent.applied_revision,
        subscribed_paths=agent.subscribed_paths,
        reject_time=None if refused is None else write_time(refused),
        reject_reason=agent.reject_reason,
    )
