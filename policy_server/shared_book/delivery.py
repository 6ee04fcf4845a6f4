"""
What follows from what shards decide: promises are made durable, and then grants go to the agents
they are for, some of which another server has.

A grant that is late is not delivered: its lease may have ended meanwhile and have been lent anew.
Agents that wait for one are sent it again.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policy_server.errors import PolicyServerError
from policy_server.limits.messages import Grant, NumberedPromise
from policy_server.metrics import ServerMetrics
from policy_server.shared_book.calls import RoutedGrant, Synced, spec_arguments, spec_from
from policy_server.shared_book.epoch import BookEpoch
from policy_server.shared_book.errors import BookFenced
from policy_server.shared_book.shard import Shard
from policy_server.shared_book.valkey import Valkey
from policy_server.store.shared_leases import SharedLeases

logger = logging.getLogger(__name__)

#: Grants that wait for their promises; more are dropped, and sent again later.
_MOST_WAITING = 50_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """A grant, when by the clock of its shard it was decided, and for how long its lease lasts."""

    grant: Grant
    shard: Shard
    epoch: int
    time: int
    lasts: int


@dataclass(frozen=True, slots=True)
class _Decision:
    """What one call of a shard decided."""

    shard: Shard
    epoch: int
    time: int
    promises: tuple[NumberedPromise, ...]
    grants: tuple[RoutedGrant, ...]


class Delivery:
    """Acts on what shards decide; `run` it, and `listen` to other servers."""

    def __init__(
        self,
        valkey: Valkey,
        leases: SharedLeases,
        epoch: BookEpoch,
        *,
        server: str,
        metrics: ServerMetrics,
        deliver: Callable[[Decided], None],
    ) -> None:
        """Give grants of agents that report to *server* to *deliver*."""
        self._valkey = valkey
        self._leases = leases
        self._epoch = epoch
        self._server = server
        self._metrics = metrics
        self._deliver = deliver
        self._waiting: list[_Decision] = []
        self._size = 0
        self._work = asyncio.Event()
        self._is_idle = asyncio.Event()
        self._is_idle.set()

    def act(self, shard: Shard, epoch: int, synced: Synced) -> None:
        """Make promises durable and deliver grants, soon."""
        if not synced.promises and not synced.grants:
            return
        if self._size + len(synced.grants) > _MOST_WAITING:
            logger.warning("grants wait for the database, some are sent again later")
            return
        self._size += len(synced.grants)
        self._waiting.append(_Decision(shard, epoch, synced.now, synced.promises, synced.grants))
        self._is_idle.clear()
        self._work.set()

    def is_in_time(self, decided: Decided) -> bool:
        """Whether a grant may still be given to its agent."""
        return decided.shard.age_at_most(decided.time) < decided.lasts

    async def idle(self) -> None:
        """Return once all that was decided before has been acted on."""
        await self._is_idle.wait()

    def close(self) -> None:
        """Nothing is acted on any more, and nobody waits for it."""
        self._is_idle.set()

    async def run(self) -> None:
        """Act on what was decided, many at a time."""
        while True:
            await self._work.wait()
            self._work.clear()
            decisions, self._waiting, self._size = self._waiting, [], 0
            try:
                for epoch in sorted({one.epoch for one in decisions}):
                    await self._carry_out(epoch, [one for one in decisions if one.epoch == epoch])
            finally:
                if not self._waiting:
                    self._is_idle.set()

    async def _carry_out(self, epoch: int, decisions: Sequence[_Decision]) -> None:
        promises = [promise for one in decisions for promise in one.promises]
        try:
            if promises and not await self._keep(promises, epoch):
                self._epoch.leave(epoch, BookFenced())
                return
        except PolicyServerError as error:
            # They stay pending, so whoever settles these limits next makes them durable. Grants
            # that rest on them are not sent, and are sent anew to agents that lack them.
            logger.warning("leases can't be written down", extra={"why": str(error)})
            return
        for one in decisions:
            one.shard.confirm(one.promises)
            await self._send(one)

    async def _keep(self, promises: Sequence[NumberedPromise], epoch: int) -> bool:
        with self._metrics.limit_commit_seconds.time():
            return await self._leases.keep(promises, epoch)

    async def _send(self, decision: _Decision) -> None:
        elsewhere: dict[str, list[RoutedGrant]] = {}
        for routed in decision.grants:
            if routed.server == self._server:
                self._deliver(
                    Decided(
                        grant=routed.grant,
                        shard=decision.shard,
                        epoch=decision.epoch,
                        time=decision.time,
                        lasts=routed.lasts,
                    )
                )
            else:
                elsewhere.setdefault(routed.server, []).append(routed)
        for server, grants in elsewhere.items():
            try:
                await self._valkey.publish(server, _write_message(decision, grants))
            except PolicyServerError as error:
                logger.info("grants not handed over", extra={"why": str(error)})

    async def listen(self, shards: Sequence[Shard]) -> None:
        """Deliver what other servers decide for agents that report here."""
        async for payload in self._valkey.listen(self._server):
            number, epoch, time, rows = json.loads(payload)
            if epoch == self._epoch.current:
                for lasts, *row in rows:
                    self._deliver(
                        Decided(
                            grant=self._read_grant(row),
                            shard=shards[number],
                            epoch=epoch,
                            time=time,
                            lasts=lasts,
                        )
                    )

    def _read_grant(self, row: list[int | str]) -> Grant:
        agent, incarnation, key, units, count, period, version, granted, floor, fill = row
        facts = (str(agent), int(incarnation), str(key), int(version), int(granted), int(floor))
        return Grant(
            agent=str(agent),
            incarnation=int(incarnation),
            key=str(key),
            spec=spec_from(int(units), int(count), int(period)),
            version=int(version),
            units=int(granted),
            floor=int(floor),
            fill=int(fill),
            # Not sent along: every server of the book can make it.
            proof=self._epoch.sign(*facts),
        )


def _write_message(decision: _Decision, grants: Sequence[RoutedGrant]) -> bytes:
    rows = [
        [
            routed.lasts,
            one.agent,
            one.incarnation,
            one.key,
            *spec_arguments(one.spec),
            one.version,
            one.units,
            one.floor,
            str(one.fill),
        ]
        for routed in grants
        for one in (routed.grant,)
    ]
    return json.dumps([decision.shard.number, decision.epoch, decision.time, rows]).encode()
