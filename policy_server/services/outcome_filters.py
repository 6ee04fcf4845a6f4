"""
The filter of outcomes, kept current with the rules for whoever wants it.

It is built once for each snapshot of the rules, and only if some agent filters at all. What the
filter is stands in `policy_server.automation.outcome_filter`.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable

from policy_server.automation.outcome_filter import OutcomeFilter, build_filter
from policy_server.policy import Policy
from policy_server.rules.snapshot import Snapshot

#: Changes of the rules within so many seconds make one filter.
_DEBOUNCE_SECONDS = 0.05


class OutcomeFilters:
    """Builds filters and tells listeners of new ones."""

    def __init__(self, policy: Policy, *, debounce: float = _DEBOUNCE_SECONDS) -> None:
        self._policy = policy
        self._debounce = debounce
        self._building = asyncio.Lock()
        #: Reports that were taken up before the newest change still need the one before.
        self._built: deque[tuple[Snapshot, OutcomeFilter]] = deque(maxlen=2)
        self._told: Snapshot | None = None
        self._listeners: list[Callable[[OutcomeFilter], None]] = []
        self._task: asyncio.Task[None] | None = None
        self._unsubscribe = policy.subscribe(self._hear_change)

    async def current(self) -> OutcomeFilter:
        """Return the filter of the rules in force. Errors: `RulesNotLoaded`."""
        return await self.filter_of(self._policy.snapshot)

    async def filter_of(self, snapshot: Snapshot) -> OutcomeFilter:
        """Return the filter of *snapshot*, which is in force or was a moment ago."""
        known = self._find(snapshot)
        if known is not None:
            return known
        async with self._building:
            known = self._find(snapshot)
            if known is None:
                # Beside the event loop: there may be very many blocks to look through.
                known = await asyncio.to_thread(build_filter, snapshot)
                self._built.append((snapshot, known))
            return known

    def subscribe(self, listener: Callable[[OutcomeFilter], None]) -> Callable[[], None]:
        """Tell *listener* the filter whenever rules have changed; return what ends that."""
        self._listeners.append(listener)

        def unsubscribe() -> None:
            with contextlib.suppress(ValueError):
                self._listeners.remove(listener)

        return unsubscribe

    def close(self) -> None:
        """Tell nobody any more."""
        self._unsubscribe()
        if self._task is not None:
            self._task.cancel()

    def _find(self, snapshot: Snapshot) -> OutcomeFilter | None:
        return next((built for known, built in self._built if known is snapshot), None)

    def _hear_change(self) -> None:
        is_waiting = self._task is not None and not self._task.done()
        if not self._listeners or is_waiting or self._policy.snapshot is self._told:
            return
        self._task = asyncio.create_task(self._tell(), name="outcome-filter")

    async def _tell(self) -> None:
        # Again if the rules changed while it was built: that change found this task under way.
        while self._policy.snapshot is not self._told:
            await asyncio.sleep(self._debounce)
            snapshot = self._policy.snapshot
            newest = await self.filter_of(snapshot)
            self._told = snapshot
            for listener in tuple(self._listeners):
                listener(newest)
