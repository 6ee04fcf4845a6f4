"""
Answer: how one egress path may be used, as last heard from the policy server.

The effective configuration is worked out here, so that an override ends at its time even while
the server is away. This module does no input or output.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from penstock.v1.egress_path_pb2 import EgressPathConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class MxHost:
    """One entry of a domain's MX answer; host "." is a null MX."""

    host: str
    preference: int


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspension:
    """Mail that matches is held until a time."""

    action_id: int
    egress_source: str
    site_name: str
    #: Empty: the whole site.
    routing_domain: str
    reason: str
    #: Seconds since the epoch.
    expire_time: float

    def holds(self, policy: PathPolicy, now: float) -> bool:
        """Whether the path of *policy* sends nothing at *now*."""
        return (
            now < self.expire_time
            and self.egress_source == policy.egress_source
            and self.site_name == policy.site_name
            and self.routing_domain in ("", policy.routing_domain)
        )


class PolicySource(Protocol):
    """Where the agent's queues learn how a path may be used."""

    def lookup(self, routing_domain: str, egress_source: str) -> PathPolicy | None:
        """The answer in force now, or None if there is none to use; never waits."""

    async def fetch(
        self, routing_domain: str, egress_source: str, mx_hosts: tuple[MxHost, ...]
    ) -> PathPolicy:
        """Ask the server, else use what was last known. Errors: `PolicyUnavailable`."""

    def suspension_of(self, policy: PathPolicy) -> Suspension | None:
        """The suspension that holds this path now, the one that ends last."""

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* whenever an answer or a suspension has changed."""
