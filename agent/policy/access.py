"""Access: the policy part of the agent, put together."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from random import Random
from typing import Any

import grpc

from agent.policy.book import PolicyBook
from agent.policy.client import PolicyClient
from agent.policy.disk import PolicyDisk
from agent.policy.staleness import Staleness, staleness
from agent.policy.watch import PolicyWatch
from agent.settings import Settings
from penstock.v1.policy_service_pb2 import AgentInfo

#: The last-known policy, under the data directory.
FILE_NAME = "policy.db"


@dataclass(slots=True, kw_only=True)
class PolicyAccess:
    """The open policy part; `client` is what queues ask."""

    client: PolicyClient
    book: PolicyBook
    watch: PolicyWatch
    disk: PolicyDisk
    clock: Callable[[], float]
    max_stale: float

    @property
    def age(self) -> float:
        """
        Seconds since the watch last had word from the server, in this run or an earlier one;
        infinity if it never had.
        """
        last = self.book.last_word
        return max(0.0, self.clock() - last) if last else float("inf")

    @property
    def staleness(self) -> Staleness:
        """How old that word is."""
        return staleness(self.age, self.max_stale)

    def snapshot(self) -> dict[str, Any]:
        """Describe the state for people and programs."""
        age = self.age
        return {
            "connected": self.watch.connected,
            "staleness": self.staleness.value,
            "age_seconds": None if age == float("inf") else round(age, 3),
            "answers": len(self.book),
            "revision": self.book.revision,
        }

    def suspensions(self) -> list[dict[str, Any]]:
        """Describe the suspensions in force."""
        return [
            {
                "action_id": held.action_id,
                "egress_source": held.egress_source,
                "site_name": held.site_name,
                "routing_domain": held.routing_domain,
                "tenant": held.tenant,
                "campaign": held.campaign,
                "reason": held.reason,
                "expire_time": _describe_end(held.expire_time),
            }
            for held in self.book.suspensions()
        ]

    def bounces(self) -> list[dict[str, Any]]:
        """Describe the bounces in force."""
        return [
            {
                "action_id": held.action_id,
                "routing_domain": held.routing_domain,
                "tenant": held.tenant,
                "campaign": held.campaign,
                "reason": held.reason,
                "expire_time": _describe_end(held.expire_time),
            }
            for held in self.book.bounces()
        ]

    async def close(self) -> None:
        """Stop watching and asking, and write what is left."""
        await self.watch.close()
        await self.client.close()
        await self.book.close()


def _describe_end(expire_time: float) -> float | None:
    """JSON has no infinity: what is pinned has no end."""
    return None if expire_time == float("inf") else expire_time


async def open_policy(
    settings: Settings,
    channel: grpc.aio.Channel,
    *,
    clock: Callable[[], float],
    random: Random,
    worker: str = "",
) -> PolicyAccess:
    """
    Load what was last known, and begin to watch the server behind *channel*; *worker* names this
    process where the agent has several.
    """
    max_stale = settings.policy.max_stale.total_seconds()
    disk = PolicyDisk(settings.agent.data_dir / FILE_NAME)
    book = PolicyBook(disk, clock=clock, random=random, max_stale=max_stale)
    await book.open()
    client = PolicyClient(
        channel, book, agent_name=settings.agent.name, random=random, worker=worker
    )
    info = AgentInfo(
        name=settings.agent.name,
        version=version("penstock"),
        egress_sources=list(settings.sources),
    )
    watch = PolicyWatch(
        channel, book, client, agent_info=info, clock=clock, random=random, worker=worker
    )
    watch.start()
    return PolicyAccess(
        client=client, book=book, watch=watch, disk=disk, clock=clock, max_stale=max_stale
    )
