"""
ThrottleFile: what the throttles held, kept over a restart of the agent.

While the agent runs, the file says only that it does. A clean stop writes the buckets into it. So
at start the file tells a first start (there is none) from a clean stop and from a crash.
"""

import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

from agent.dispatch.throttles import Throttles
from agent.spool.bodies import sync_directory

logger = logging.getLogger(__name__)


class ThrottleFile:
    """The file and the clocks it is read by. Errors: `OSError`."""

    def __init__(
        self, path: Path, *, clock: Callable[[], float], monotonic_ns: Callable[[], int]
    ) -> None:
        """*clock* gives seconds since the epoch: the only clock that outlives a reboot."""
        self._path = path
        self._clock = clock
        self._monotonic_ns = monotonic_ns

    def open(self) -> Throttles:
        """Make the throttles as the last run left them, and note that the agent runs."""
        throttles = self._read()
        self._write({"running": True})
        return throttles

    def close(self, throttles: Throttles) -> None:
        """Keep what *throttles* hold: nothing will be sent any more."""
        saved = throttles.save(self._monotonic_ns())
        self._write({"running": False, "time": self._clock(), "throttles": saved})

    def _read(self) -> Throttles:
        now_ns = self._monotonic_ns()
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            if state["running"]:
                logger.warning("last run ended without a stop, rates start without a burst")
                return Throttles(spent_since=now_ns)
            elapsed_ns = round((self._clock() - state["time"]) * 1e9)
            return Throttles.restore(state["throttles"], elapsed_ns=elapsed_ns, now_ns=now_ns)
        except FileNotFoundError:
            return Throttles()
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("throttle file unreadable", extra={"reason": str(error)})
            return Throttles(spent_since=now_ns)

    def _write(self, state: dict[str, object]) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)
        sync_directory(self._path.parent)
