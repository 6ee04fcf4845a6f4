"""Lease watch: whether mail of a path waits for a lease, and since when; a long wait is logged."""

import logging
from collections.abc import Callable

from agent.dispatch.path_state import LeaseWait
from agent.limits.limit import FleetLimit, Kind

logger = logging.getLogger(__name__)

#: A wait is logged once it has lasted so long, in seconds.
_WORTH_LOGGING = 2.0


class LeaseWatch:
    """The wait of one path."""

    def __init__(self, path_name: str, clock: Callable[[], float]) -> None:
        self._path_name = path_name
        self._clock = clock
        #: What is waited for; None: nothing is.
        self.wait: LeaseWait | None = None
        self._is_logged = False

    @property
    def asks_for_rate(self) -> bool:
        """Whether a rate may be lent at any moment, for it has only just been asked for."""
        wait = self.wait
        if wait is None or wait.limit.kind is Kind.CONNECTIONS:
            return False
        return self._clock() - wait.since < _WORTH_LOGGING

    def begin(self, limit: FleetLimit) -> None:
        """Mail waits for *limit* now, unless it does so already."""
        if self.wait is None or self.wait.limit.key != limit.key:
            self.end()
            self.wait = LeaseWait(limit=limit, since=self._clock())

    def end(self) -> None:
        """Mail waits for no lease any more."""
        wait, self.wait = self.wait, None
        if wait is not None and self._is_logged:
            self._is_logged = False
            facts = {"path": self._path_name, "limit": wait.limit.key}
            seconds = round(self._clock() - wait.since, 3)
            logger.info("path has a lease again", extra={**facts, "seconds": seconds})

    def end_of(self, kind: Kind) -> None:
        """Mail waits for no lease of this kind any more."""
        if self.wait is not None and self.wait.limit.kind is kind:
            self.end()

    def log_if_long(self, queued: int) -> None:
        """Log a wait that lasts, once; *queued* entries wait."""
        wait = self.wait
        if wait is None or self._is_logged or self._clock() - wait.since <= _WORTH_LOGGING:
            return
        self._is_logged = True
        facts = {"path": self._path_name, "limit": wait.limit.key, "queued": queued}
        logger.info("path waits for a lease", extra=facts)
