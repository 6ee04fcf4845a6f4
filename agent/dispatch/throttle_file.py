"""
ThrottleFile: what the throttles held, kept over a restart of the agent.

While the agent runs, the file says only that it does. A clean stop writes the buckets into it. So
at start the file tells a first start (there is none) from a clean stop and from a crash.
"""

import json
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.dispatch.throttles import Throttles
from agent.spool.bodies import sync_directory

logger = logging.getLogger(__name__)


_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Uptime:
    """How long the host runs, by a clock that nobody sets."""

    #: Which run of the host; empty: not known.
    boot_id: str
    #: Seconds, with those in which the host slept.
    seconds: float


def read_uptime() -> Uptime:
    """Read this host's."""
    try:
        boot_id = _BOOT_ID.read_text(encoding="ascii").strip()
        return Uptime(boot_id=boot_id, seconds=time.clock_gettime(time.CLOCK_BOOTTIME))
    except (OSError, ValueError, AttributeError):
        # Linux alone has them.
        return Uptime(boot_id="", seconds=0.0)


class ThrottleFile:
    """The file and the clocks it is read by. Errors: `OSError`."""

    def __init__(
        self,
        path: Path,
        *,
        clock: Callable[[], float],
        monotonic_ns: Callable[[], int],
        uptime: Callable[[], Uptime] = read_uptime,
    ) -> None:
        """
        *clock* gives seconds since the epoch: the only clock that outlives a reboot. Where there
        was none, *uptime* bounds it: a clock that was set forward must not free a burst.
        """
        self._path = path
        self._clock = clock
        self._monotonic_ns = monotonic_ns
        self._uptime = uptime

    def open(self) -> Throttles:
        """Make the throttles as the last run left them, and note that the agent runs."""
        throttles = self._read()
        self._write({"running": True})
        return throttles

    def close(self, throttles: Throttles) -> None:
        """Keep what *throttles* hold: nothing will be sent any more."""
        saved = throttles.save(self._monotonic_ns())
        uptime = self._uptime()
        self._write(
            {
                "running": False,
                "time": self._clock(),
                "boot_id": uptime.boot_id,
                "uptime": uptime.seconds,
                "throttles": saved,
            }
        )

    def _read(self) -> Throttles:
        now_ns = self._monotonic_ns()
        try:
            state = json.loads(self._path.read_text(encoding="utf-8"))
            if state["running"]:
                logger.warning("last run ended without a stop, rates start without a burst")
                return Throttles(spent_since=now_ns)
            elapsed_ns = round(self._elapsed(state) * 1e9)
            return Throttles.restore(state["throttles"], elapsed_ns=elapsed_ns, now_ns=now_ns)
        except FileNotFoundError:
            return Throttles()
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("throttle file unreadable", extra={"reason": str(error)})
            return Throttles(spent_since=now_ns)

    def _elapsed(self, state: dict[str, Any]) -> float:
        """Seconds since *state* was written, rather too few than too many."""
        elapsed: float = self._clock() - state["time"]
        uptime = self._uptime()
        if uptime.boot_id and state.get("boot_id") == uptime.boot_id:
            elapsed = min(elapsed, uptime.seconds - state["uptime"])
        return elapsed

    def _write(self, state: dict[str, object]) -> None:
        partial = self._path.with_name(self._path.name + ".partial")
        with partial.open("w", encoding="utf-8") as file:
            json.dump(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self._path)
        sync_directory(self._path.parent)
