"""
HTTP: what an operator and his tools look at, on loopback by default and read-only.

`/metrics` for Prometheus; `/healthz` answers while the event loop turns; `/readyz` says whether
mail is taken in, and if not why; `/status` is one JSON document of queues, policy, suspensions and
leases.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class View(Protocol):
    """What is shown: of one process, or of all together."""

    async def metrics(self) -> bytes:
        """Metrics in the text format of Prometheus."""

    async def not_ready(self) -> Sequence[str]:
        """What stands in the way of taking mail in."""

    async def status(self) -> dict[str, Any]:
        """The document, JSON-ready."""


class HttpServer:
    """The agent's HTTP server."""

    def __init__(self, view: View) -> None:
        self._view = view
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
        await web.TCPSite(self._runner, host, port).start()
        self.port = self._runner.addresses[0][1]

    async def start_private(self, path: str) -> None:
        """Listen on the Unix socket *path*. Errors: `OSError`."""
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        return web.Response(
            body=await self._view.metrics(), headers={"Content-Type": _METRICS_TYPE}
        )

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:
        reasons = list(await self._view.not_ready())
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _get_status(self, request: web.Request) -> web.Response:
        return web.json_response(await self._view.status())
