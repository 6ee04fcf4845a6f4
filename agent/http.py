"""
HTTP: what an operator and his tools look at, on loopback by default and read-only.

`/metrics` for Prometheus; `/healthz` answers while the event loop turns; `/readyz` says whether
mail is taken in, and if not why; `/status` is one JSON document of queues, policy, suspensions and
leases.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from agent.dispatch.lanes import HeldQueue
from agent.dispatch.path_state import LeaseWait, PathState
from agent.metrics import CONTENT_TYPE, AgentMetrics
from agent.policy.access import PolicyAccess

#: The end of the year 9999, seconds since the epoch: no later time can be written.
_LAST_TIME = 253_402_300_799


class HttpServer:
    """The agent's HTTP server."""

    def __init__(
        self,
        metrics: AgentMetrics,
        *,
        status: Callable[[], dict[str, Any]],
        not_ready: Callable[[], Sequence[str]],
    ) -> None:
        """Serve *metrics*, *status*, and readiness: *not_ready* returns what stands in its way."""
        self._metrics = metrics
        self._status = status
        self._not_ready = not_ready
        app = web.Application()
        app.add_routes(
            [
                web.get("/metrics", self._get_metrics),
                web.get("/healthz", self._get_health),
                web.get("/readyz", self._get_ready),
                web.get("/status", self._get_status),
            ]
        )
        self._runner = web.AppRunner(app, access_log=None)
        #: The port, once started.
        self.port = 0

    async def start(self, host: str, port: int) -> None:
        """Listen on *host* and *port*; 0: a port of the system's choice. Errors: `OSError`."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def start_private(self, path: str) -> None:
        """Listen on the Unix socket *path*. Errors: `OSError`."""
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:
        reasons = list(self._not_ready())
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _get_status(self, request: web.Request) -> web.Response:
        return web.json_response(self._status())


def describe_path(state: PathState) -> dict[str, Any]:
    """Show one path; times as of RFC 3339."""
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
    """Describe a held queue; the time as of RFC 3339, null where the action is pinned."""
    until = held.until
    return {**asdict(held), "until": None if until == float("inf") else _time_text(until)}


def _time_text(at: float) -> str:
    time = datetime.fromtimestamp(min(at, _LAST_TIME), UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def describe_status(
    name: str, dispatcher: Mapping[str, Any], policy: PolicyAccess, leases: Mapping[str, Any]
) -> dict[str, Any]:
    """
    Put together what `/status` shows: the dispatcher's own keys, then policy, suspensions and
    leases.
    """
    return {
        "agent": name,
        **dispatcher,
        "policy": policy.snapshot(),
        "suspensions": policy.suspensions(),
        "bounces": policy.bounces(),
        "leases": leases,
    }
