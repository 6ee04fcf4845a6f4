"""Status: what `/status` shows of one process, JSON-ready; times as of RFC 3339."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from agent.dispatch.dispatcher import Dispatcher
from agent.dispatch.lanes import HeldQueue
from agent.dispatch.path_state import LeaseWait, PathState
from agent.errors import TryLater
from agent.leases.access import LeaseAccess
from agent.metrics import AgentMetrics
from agent.policy.access import PolicyAccess
from agent.smtp.intake import NOT_STORED, Intake
from agent.spool.sqlite import SqliteSpool

#: Held queues that are shown, those with the most mail.
_MOST_HELD = 1000
#: The end of the year 9999, seconds since the epoch: no later time can be written.
_LAST_TIME = 253_402_300_799


class OneProcess:
    """One process of an agent, or all of an agent that has one."""

    def __init__(
        self,
        name: str,
        *,
        metrics: AgentMetrics,
        intake: Intake,
        spool: SqliteSpool,
        dispatcher: Dispatcher,
        policy: PolicyAccess,
        leases: LeaseAccess,
    ) -> None:
        """*name* is that of the agent."""
        self._name = name
        self._metrics = metrics
        self._intake, self._spool = intake, spool
        self._dispatcher, self._policy, self._leases = dispatcher, policy, leases

    async def metrics(self) -> bytes:
        """Metrics in the text format of Prometheus."""
        return self._metrics.render()

    async def not_ready(self) -> Sequence[str]:
        """What stands in the way of taking mail in."""
        if not self._spool.is_healthy:
            return [NOT_STORED]
        try:
            self._intake.check_room()
        except TryLater as refusal:
            return [refusal.text]
        return []

    async def status(self) -> dict[str, Any]:
        """Queues, paths, policy, suspensions and leases."""
        dispatcher, policy = self._dispatcher, self._policy
        return {
            "agent": self._name,
            "queues": dispatcher.queue_counts(),
            "held": dispatcher.held_counts(),
            "held_queues": [describe_held(held) for held in dispatcher.held_queues(_MOST_HELD)],
            "paths": [describe_path(state) for state in dispatcher.snapshot()],
            "policy": policy.snapshot(),
            "suspensions": policy.suspensions(),
            "bounces": policy.bounces(),
            "leases": self._leases.snapshot(),
        }


def describe_path(state: PathState) -> dict[str, Any]:
    """Show one path."""
    until, wait = state.suspended_until, state.waits_for
    return {
        **asdict(state),
        "suspended_until": _time_text(until) if until else None,
        "waits_for": describe_wait(wait) if wait else None,
    }


def describe_wait(wait: LeaseWait) -> dict[str, Any]:
    """Show which limit of the fleet mail waits for a lease of."""
    return {
        "limit": wait.limit.key,
        "kind": wait.limit.kind.value,
        "since": _time_text(wait.since),
    }


def describe_held(held: HeldQueue) -> dict[str, Any]:
    """Describe a held queue; no end where the action is pinned."""
    until = held.until
    return {**asdict(held), "until": None if until == float("inf") else _time_text(until)}


def _time_text(at: float) -> str:
    time = datetime.fromtimestamp(min(at, _LAST_TIME), UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
