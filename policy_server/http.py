"""
The HTTP side: /metrics for Prometheus, /healthz (alive) and /readyz (has rules to answer from).
"""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from policy_server.errors import CannotListen
from policy_server.metrics import ServerMetrics
from policy_server.settings import split_address


class HttpServer:
    """Serves the three pages; *why_not_ready* says why not, or is empty."""

    def __init__(self, metrics: ServerMetrics, why_not_ready: Callable[[], str]) -> None:
        self._metrics = metrics
        self._why_not_ready = why_not_ready
        self._runner: web.AppRunner | None = None

    async def start(self, listen: str) -> int:
        """Listen on "host:port" and return the port."""
        host, port = split_address(listen)
        application = web.Application()
        application.router.add_get("/metrics", self._show_metrics)
        application.router.add_get("/healthz", self._show_alive)
        application.router.add_get("/readyz", self._show_ready)
        self._runner = web.AppRunner(application, access_log=None)
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            raise CannotListen(f"server.http_listen: {listen}: {error.strerror}") from error
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _show_metrics(self, _request: web.Request) -> web.Response:
        body = generate_latest(self._metrics.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    async def _show_alive(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _show_ready(self, _request: web.Request) -> web.Response:
        reason = self._why_not_ready()
        if reason:
            return web.Response(text=f"{reason}\n", status=503)
        return web.Response(text="ok\n")
