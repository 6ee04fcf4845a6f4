"""
The sink's counts over HTTP, live.

    GET  /counts      the report, without the accepted messages
    GET  /accepted    {provider: {"message-id recipient": times accepted}}
    POST /push-back   {"provider": …, "duration": "5s", "reply": "421 …"}: one more push-back
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import web
from pydantic import ValidationError

from agent.sink.provider import ProviderState
from agent.sink.settings import PushBack


class SinkHttp:
    """The HTTP side of a sink."""

    def __init__(
        self,
        providers: Mapping[str, ProviderState],
        report: Callable[[], dict[str, Any]],
        *,
        host: str,
        port: int,
    ) -> None:
        """Prepare to show *report*; *port* 0 leaves the choice to the system."""
        self.host = host
        self.port = port
        self._providers = providers
        self._report = report
        self._runner: web.AppRunner | None = None

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_get("/counts", self._counts)
        app.router.add_get("/accepted", self._accepted)
        app.router.add_post("/push-back", self._push_back)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self.host, self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _counts(self, request: web.Request) -> web.Response:
        return web.json_response(self._report())

    async def _accepted(self, request: web.Request) -> web.Response:
        found = {name: dict(state.identities.seen) for name, state in self._providers.items()}
        return web.json_response(found)

    async def _push_back(self, request: web.Request) -> web.Response:
        try:
            content = await request.json()
            state = self._providers[content.pop("provider")]
            push_back = PushBack.model_validate(content)
        except (ValueError, ValidationError, KeyError, AttributeError) as error:
            return web.json_response({"error": str(error)}, status=400)
        state.add_push_back(push_back, time.monotonic_ns())
        return web.json_response({})
