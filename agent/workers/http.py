"""The agent's HTTP server where it has several processes: what each says, put together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp
from aiohttp import web

from agent.workers.overview import CONTENT_TYPE, merge_metrics, merge_status

#: How long one process may take to answer, in seconds.
_ANSWER_SECONDS = 5.0


class Worker(Protocol):
    """A process, as far as it is shown."""

    number: int
    http_socket: str

    def describe(self) -> dict[str, Any]:
        """Its number, id, state and restarts, JSON-ready."""

    @property
    def is_ready(self) -> bool:
        """Whether it has opened its ports."""

    @property
    def was_tried(self) -> bool:
        """Whether its first process has opened its ports, or has failed to."""


class AgentHttp:
    """Answers `/metrics`, `/status`, `/readyz` and `/healthz` for the whole agent."""

    def __init__(self, workers: Sequence[Worker], own_metrics: Callable[[], str]) -> None:
        """*own_metrics* are those of the parent."""
        self._workers = workers
        self._own_metrics = own_metrics
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

    async def close(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()

    async def _get_metrics(self, request: web.Request) -> web.Response:
        answers = await self._ask("/metrics", lambda answer: answer.text())
        texts = {str(number): text for number, text in answers.items()}
        text = self._own_metrics() + merge_metrics(texts)
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE})

    async def _get_health(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _get_ready(self, request: web.Request) -> web.Response:
        answers = await self._ask("/readyz", lambda answer: answer.json())
        reasons = [
            f"worker {number}: {reason}"
            for number, answer in sorted(answers.items())
            for reason in answer["reasons"]
        ]
        if not all(worker.was_tried for worker in self._workers):
            reasons.append("workers are starting")
        elif not answers:
            reasons.append("no worker answers")
        return web.json_response(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def _get_status(self, request: web.Request) -> web.Response:
        statuses = await self._ask("/status", lambda answer: answer.json())
        workers = [worker.describe() for worker in self._workers]
        return web.json_response(merge_status(workers, statuses))

    async def _ask(self, path: str, read: Callable[[Any], Any]) -> Mapping[int, Any]:
        """The answers of the processes that give one, by their numbers."""
        ready = [worker for worker in self._workers if worker.is_ready]
        answers = await asyncio.gather(*(_fetch(worker, path, read) for worker in ready))
        return {
            worker.number: answer
            for worker, answer in zip(ready, answers, strict=True)
            if answer is not None
        }


async def _fetch(worker: Worker, path: str, read: Callable[[Any], Any]) -> Any:
    timeout = aiohttp.ClientTimeout(total=_ANSWER_SECONDS)
    connector = aiohttp.UnixConnector(worker.http_socket)
    try:
        async with (
            aiohttp.ClientSession("http://worker", connector=connector, timeout=timeout) as client,
            client.get(path) as answer,
        ):
            return await read(answer)
    except (aiohttp.ClientError, OSError, TimeoutError):
        return None
