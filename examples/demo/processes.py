"""Processes: start our own programs, wait until they are ready, and end them whatever happens."""

import asyncio
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp

from examples.demo.layout import DemoError, child_environment

_STOP_SECONDS = 10.0


class Processes:
    """The programs of one run; those still running are ended on leaving."""

    def __init__(self, directory: Path) -> None:
        """Log each program's words to `NAME.out` in *directory*."""
        self._directory = directory
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def __aenter__(self) -> "Processes":
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for name in reversed(tuple(self._running)):
            await self.stop(name)

    async def start(self, name: str, program: str, *arguments: str) -> None:
        """Start *program*; its stdout and stderr go to files."""
        with (
            (self._directory / f"{name}.out").open("wb") as out,
            (self._directory / f"{name}.err").open("wb") as err,
        ):
            self._running[name] = await asyncio.create_subprocess_exec(
                find_program(program),
                *arguments,
                stdout=out,
                stderr=err,
                stdin=asyncio.subprocess.DEVNULL,
                env=child_environment(),
                # A Ctrl-C at the terminal is for the demo, which then ends each in its turn.
                start_new_session=True,
            )

    async def stop(self, name: str) -> int:
        """End a program gently, then less so; its exit status."""
        process = self._running.pop(name)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except (TimeoutError, asyncio.CancelledError):
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        return process.returncode or 0

    def check(self) -> None:
        """Raise `DemoError` if a program has ended by itself."""
        for name, process in self._running.items():
            if process.returncode is not None:
                said = self.said(name)
                raise DemoError(f"{name} ended with status {process.returncode}: {said}")

    def said(self, name: str) -> str:
        """The end of what a program said on stderr."""
        return (self._directory / f"{name}.err").read_text(errors="replace")[-2000:]

    async def first_line(self, name: str, *, seconds: float) -> dict[str, Any]:
        """Wait for a program's first line on stdout, a JSON document."""
        path = self._directory / f"{name}.out"
        async with _deadline(seconds, f"{name} said nothing"):
            while True:
                self.check()
                line, newline, _ = path.read_text().partition("\n")
                if newline:
                    found: dict[str, Any] = json.loads(line)
                    return found
                await asyncio.sleep(0.05)

    async def wait_for_page(
        self, http: aiohttp.ClientSession, url: str, *, seconds: float = 20
    ) -> None:
        """Wait until *url* answers 200."""
        said = "nothing"
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.check()
            with contextlib.suppress(aiohttp.ClientError, OSError):
                async with http.get(url) as response:
                    if response.status == 200:
                        return
                    said = (await response.text()).strip()
            await asyncio.sleep(0.1)
        raise DemoError(f"{url} is not ready within {seconds:g} s; it says: {said}")


async def run_program(program: str, arguments: Sequence[str], *, seconds: float = 30) -> str:
    """Run *program* to its end; its stdout. Errors: `DemoError` with what it said on stderr."""
    process = await asyncio.create_subprocess_exec(
        find_program(program),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=child_environment(),
    )
    try:
        async with _deadline(seconds, f"{program} {arguments[0]} did not end"):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise DemoError(f"{program} {' '.join(arguments)}: {err.decode(errors='replace')}")
    return out.decode()


def find_program(name: str) -> str:
    """The program installed beside this Python, else on the path."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise DemoError(f"{name} is not installed: run make setup")
    return found


@contextlib.asynccontextmanager
async def _deadline(seconds: float, otherwise: str) -> Any:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise DemoError(f"{otherwise} within {seconds:g} s") from error
