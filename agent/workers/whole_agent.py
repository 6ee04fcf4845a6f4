"""What an agent of several processes shows: what each says by its own HTTP server, put together."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import aiohttp

from agent.workers.overview import merge_metrics, merge_status

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


class WholeAgent:
    """All processes together."""

    def __init__(self, workers: Sequence[Worker], own_metrics: Callable[[], str]) -> None:
        """*own_metrics* are those of the parent."""
        self._workers = workers
        self._own_metrics = own_metrics

    async def metrics(self) -> bytes:
        """The parent's metrics, and those of the processes, each with its number."""
        answers = await self._ask("/metrics", lambda answer: answer.text())
        texts = {str(number): text for number, text in answers.items()}
        return (self._own_metrics() + merge_metrics(texts)).encode()

    async def not_ready(self) -> Sequence[str]:
        """What stands in the way of taking mail in."""
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
        return reasons

    async def status(self) -> dict[str, Any]:
        """The status of the agent, and which processes it has."""
        statuses = await self._ask("/status", lambda answer: answer.json())
        workers = [worker.describe() for worker in self._workers]
        return merge_status(workers, statuses)

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
