"""
Answer: how one egress path may be used, as last heard from the policy server.

The effective configuration is worked out here, so that an override ends at its time even while
the server is away. This module does no input or output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from agent.limits.limit import FleetLimit
from agent.queue.names import QueueName
from penstock.v1.egress_path_pb2 import EgressPathConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MxHost:
    """One entry of a domain's MX answer; host "." is a null MX."""

    host: str
    preference: int


class Scope(NamedTuple):
    """
    What an action is limited to, or what is known of some mail. An empty part limits nothing; of
    mail it is a part that it lacks, or that is not decided yet.
    """

    egress_source: str = ""
    site_name: str = ""
    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathPolicy:
    """The answer for (routing domain, egress source), in force now."""

    routing_domain: str
    egress_source: str
    site_name: str
    path_name: str
    provider_name: str
    config: EgressPathConfig
    etag: str
    revision: int
    #: The limits of `config` that the fleet keeps together; the others this agent keeps itself.
    fleet_limits: tuple[FleetLimit, ...] = ()

    @property
    def scope(self) -> Scope:
        """What is known of mail that goes by it, whoever it is from."""
        return Scope(self.egress_source, self.site_name, self.routing_domain)

    @property
    def path_scope(self) -> Scope:
        """What all mail of the path has in common; its domain, where the path is of one alone."""
        is_of_domain = self.path_name.endswith(f"#{self.routing_domain}")
        domain = self.routing_domain if is_of_domain else ""
        return Scope(self.egress_source, self.site_name, domain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """Mail that matches is held until a time."""

    action_id: int
    #: This and what follows: empty limits nothing.
    egress_source: str = ""
    site_name: str = ""
    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""
    #: For people, on one line.
    reason: str
    #: Seconds since the epoch; infinity: pinned, with no end of its own.
    expire_time: float

    @property
    def scope(self) -> Scope:
        """The mail that it holds."""
        return Scope(
            self.egress_source, self.site_name, self.routing_domain, self.tenant, self.campaign
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """Mail that matches, queued or arriving, bounces until a time."""

    action_id: int
    #: This and what follows: empty limits nothing.
    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""
    #: Told to the senders, on one line.
    reason: str
    #: Seconds since the epoch; infinity: pinned, with no end of its own.
    expire_time: float

    @property
    def scope(self) -> Scope:
        """The mail that it bounces, whichever path it would take."""
        return Scope(routing_domain=self.routing_domain, tenant=self.tenant, campaign=self.campaign)


def covers(action: Suspension | Bounce, mail: Scope, now: float) -> bool:
    """Whether *action* is in force at *now* for all of *mail*."""
    return now < action.expire_time and all(
        limit in ("", part) for limit, part in zip(action.scope, mail, strict=True)
    )


class PolicySource(Protocol):
    """Where the agent's queues learn how a path may be used."""

    def lookup(self, routing_domain: str, egress_source: str) -> PathPolicy | None:
        """The answer in force now, or None if there is none to use; never waits."""

    async def fetch(
        self, routing_domain: str, egress_source: str, mx_hosts: tuple[MxHost, ...]
    ) -> PathPolicy:
        """Ask the server, else use what was last known. Errors: `PolicyUnavailable`."""

    def suspension_of(
        self, policy: PathPolicy, tenant: str = "", campaign: str = ""
    ) -> Suspension | None:
        """What holds such mail on this path now, the one that ends last."""

    def suspension_of_path(self, policy: PathPolicy) -> Suspension | None:
        """What holds all mail of this path now, the one that ends last."""

    def suspension_of_queue(self, queue: QueueName) -> Suspension | None:
        """What holds the mail of this queue now whichever path it takes, the one that ends last."""

    def is_in_force(self, suspension: Suspension) -> bool:
        """Whether *suspension* holds what it held, until the same time."""

    def bounce_of(self, queue: QueueName) -> Bounce | None:
        """What bounces the mail of this queue now, the one that ends last."""

    @property
    def bounces_begun(self) -> int:
        """How many bounces came into force so far: once it grows, mail that waits may bounce."""

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an answer, a suspension or a bounce has changed."""
