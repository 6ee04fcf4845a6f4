"""
FleetService: the agents, and how far each has followed the policy.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from penstock.v1 import fleet_service_pb2, fleet_service_pb2_grpc
from policy_server.conversions.agents import to_agent
from policy_server.known_agents import SEEN_FOR
from policy_server.policy import Policy
from policy_server.services.paging import read_name_token, read_page_size
from policy_server.store.agents import AgentStore


class FleetService(fleet_service_pb2_grpc.FleetServiceServicer):
    """Shows agents."""

    def __init__(
        self,
        policy: Policy,
        agents: AgentStore,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._agents = agents
        self._clock = clock

    async def ListAgents(
        self, request: fleet_service_pb2.ListAgentsRequest, context: Any
    ) -> fleet_service_pb2.ListAgentsResponse:
        """List agents by name, a page at a time."""
        size, now = read_page_size(request.page_size), self._clock()
        found = await self._agents.list(
            size + 1,
            read_name_token(request.page_token),
            seen_after=now - SEEN_FOR if request.connected_only else None,
        )
        page = found[:size]
        return fleet_service_pb2.ListAgentsResponse(
            agents=[to_agent(agent, now) for agent in page],
            next_page_token=page[-1].name if len(found) > size else "",
            revision=self._policy.revision,
        )
