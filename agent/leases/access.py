"""Access: the leases of this process, put together."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import grpc

from agent.leases.client import LeaseClient
from agent.leases.host import find_machine, name_host
from agent.leases.starts import FILE_NAME, count_start
from agent.limits.fleet import FleetLimits
from agent.limits.holder import LeaseHolder
from agent.limits.limit import FleetLimit
from agent.policy.channel import open_channel
from agent.settings import Settings
from agent.spool.lock import lock_file


@dataclass(slots=True, kw_only=True)
class LeaseAccess:
    """The open leases."""

    fleet: FleetLimits
    client: LeaseClient
    clock_ns: Callable[[], int]

    def modes(self) -> dict[str, float]:
        """How many limits of the fleet are kept by what."""
        counts = self.fleet.modes(self.clock_ns())
        return {mode: float(count) for mode, count in counts.items()}

    def units(self) -> dict[str, float]:
        """Units over all limits: lent, in use as connections, and wanted."""
        leases = list(self.fleet.holder.leases())
        return {
            "granted": float(sum(lease.units for lease in leases)),
            "in_use": float(sum(lease.in_use for lease in leases)),
            "wanted": float(sum(lease.wants for lease in leases)),
        }

    def snapshot(self) -> dict[str, Any]:
        """Describe the state for people and programs."""
        now = self.clock_ns()
        return {
            "connected": self.client.connected,
            "supported": self.fleet.is_supported,
            "given_way": self.fleet.has_given_way,
            "recovering": self.client.is_recovering,
            "limits": [self._describe(limit, now) for limit in self._by_key()],
        }

    def _by_key(self) -> list[FleetLimit]:
        return sorted(self.fleet.known(), key=lambda limit: limit.key)

    def _describe(self, limit: FleetLimit, now: int) -> dict[str, Any]:
        mode = self.fleet.mode(limit, now)
        lease = self.fleet.holder.lease(limit.key)
        return {
            "limit": limit.key,
            "kind": limit.kind.value,
            "mode": mode.value,
            "units": self.fleet.cap(limit, now),
            "of": limit.units,
            "floor": lease.granted_floor if lease else 0,
            "in_use": lease.in_use if lease else 0,
            "wants": lease.wants if lease else 0,
            "on_unreachable": limit.on_unreachable.value,
        }


def open_leases(
    settings: Settings,
    *,
    worker: str,
    clock: Callable[[], float],
    clock_ns: Callable[[], int],
    random: Random,
) -> LeaseAccess:
    """
    Begin to ask for leases as a new start of *worker*, whose data directory is locked; empty: the
    first process of the agent. Errors: `OSError`.
    """
    start = count_start(settings.agent.data_dir / FILE_NAME, clock(), random)
    machine = find_machine(settings.agent.machine, environ=os.environ)
    host = name_host(start, lock_file(settings.spool_dir), machine, random)
    holder = LeaseHolder(agent=settings.agent.name, incarnation=start.incarnation)
    fleet = FleetLimits(holder, now=clock_ns())

    def open_own_channel(address: str) -> grpc.aio.Channel:
        # Its own connection: given up without harm to the other clients.
        return open_channel(address or settings.policy.server, is_shared=False)

    client = LeaseClient(
        open_own_channel,
        fleet,
        agent_name=settings.agent.name,
        worker=worker,
        host=host,
        incarnation=start.incarnation,
        clock_ns=clock_ns,
        random=random,
    )
    return LeaseAccess(fleet=fleet, client=client, clock_ns=clock_ns)
