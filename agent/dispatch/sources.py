"""
SourceHealth: egress sources that can't be used for their own sake, and until when they are left
alone. A source whose address this host does not have fails every host alike: its mail goes by the
other sources of its pool, or waits, and no attempt is used up.

What receiving hosts do never counts here.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

#: How long a source is left alone before it is tried again, in seconds.
_LEFT_ALONE = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a source can't be used."""

    reason: str
    #: When it is tried again, seconds since the epoch.
    until: float


class SourceHealth:
    """The sources of this agent that have failed."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._faults: dict[str, Fault] = {}
        self._listeners: list[Callable[[], None]] = []

    def fail(self, source: str, reason: str) -> None:
        """The source could not be used just now."""
        is_new = self.fault_of(source) is None
        self._faults[source] = Fault(reason=reason, until=self._clock() + _LEFT_ALONE)
        if is_new:
            logger.warning("source can't be used", extra={"source": source, "reason": reason})
            for listener in self._listeners:
                listener()

    def fault_of(self, source: str) -> Fault | None:
        """What is wrong with a source now; None: nothing is known to be."""
        fault = self._faults.get(source)
        return fault if fault is not None and self._clock() < fault.until else None

    @property
    def failing(self) -> int:
        """How many sources can't be used now."""
        return sum(1 for source in self._faults if self.fault_of(source) is not None)

    def subscribe(self, listener: Callable[[], None]) -> None:
        """Call *listener* when a source begins to fail."""
        self._listeners.append(listener)
