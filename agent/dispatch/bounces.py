"""
Bounces: ends mail that the policy server or an operator has ordered to bounce. Mail that is due
meets such an order on its way; the rest is looked through once an order comes.
"""

import asyncio
import logging

from agent.delivery import internal
from agent.dispatch.endings import Endings
from agent.dispatch.holds import BounceOrder
from agent.dispatch.lanes import Ending
from agent.dispatch.services import Services
from agent.dispatch.settling import Way
from agent.queue.entry import Entry
from agent.queue.names import QueueName, parse_queue_name
from agent.queue.scheduled import ScheduledQueues

logger = logging.getLogger(__name__)

#: Entries looked through before others get a turn.
_SWEPT_AT_ONCE = 1000


class Bounces:
    """The bounces of one agent."""

    def __init__(self, services: Services, scheduled: ScheduledQueues, endings: Endings) -> None:
        self._services = services
        self._scheduled = scheduled
        self._endings = endings
        #: Bounces for which the mail that is not due has been looked through.
        self.swept = 0
        self._wake = asyncio.Event()

    def end(self, queue: QueueName, entries: list[Entry], bounce: BounceOrder) -> None:
        """Bounce entries of one queue."""
        way = Way(pool=self._services.settings.queue_for(queue.domain).egress_pool)
        self._endings.put(
            Ending(
                entries=entries,
                way=way,
                response=internal.bounced(bounce.reason),
                is_recorded=not bounce.is_silent,
            )
        )
        self._services.holds.count_bounced(bounce, len(entries))

    def look_again(self) -> None:
        """Orders may have changed: look through the mail if one has begun."""
        if self._services.holds.bounces_begun != self.swept:
            self._wake.set()

    def sweep(self) -> None:
        """There is more mail: look through it if there has been any order."""
        if self._services.holds.bounces_begun:
            self._wake.set()

    async def work(self) -> None:
        """Look through the mail whenever there is reason to, once for all orders that came."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            self.swept = self._services.holds.bounces_begun
            try:
                await self._sweep()
            except Exception:
                # Supervisor: what could not be swept bounces when it is due.
                logger.exception("scheduled mail can't be looked through for bounces")

    async def _sweep(self) -> None:
        bounces: dict[str, BounceOrder | None] = {}

        def is_bounced(queue_name: str) -> bool:
            if queue_name not in bounces:
                bounces[queue_name] = self._services.holds.bounce_of(parse_queue_name(queue_name))
            return bounces[queue_name] is not None

        waiting = self._scheduled.snapshot()
        for start in range(0, len(waiting), _SWEPT_AT_ONCE):
            # Others get their turn, and what the endings hold in memory stays small.
            await asyncio.sleep(0)
            await self._endings.wait_for_room()
            # A bounce may have been taken back in the meantime.
            bounces.clear()
            by_queue: dict[str, list[Entry]] = {}
            swept = waiting[start : start + _SWEPT_AT_ONCE]
            bounced = [one for one in swept if one.is_waiting and is_bounced(one.queue_name)]
            for entry in self._scheduled.take(bounced):
                by_queue.setdefault(entry.queue_name, []).append(entry)
            for queue_name, entries in by_queue.items():
                bounce = bounces[queue_name]
                assert bounce is not None
                self.end(parse_queue_name(queue_name), entries, bounce)
