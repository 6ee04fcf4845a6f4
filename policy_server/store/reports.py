"""
Reports: outcomes are kept and counted, and what follows put in force, in one transaction.

After it an outcome may be acknowledged: it is safe, whether any rule matched it or not.
"""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

from sqlalchemy import Connection

from policy_server.automation.decide import Match
from policy_server.automation.outcomes import Outcome
from policy_server.store.actions import NOTHING_COUNTED, Counted, count_and_act
from policy_server.store.database import Database
from policy_server.store.outcomes import OutcomeBounds, keep_outcomes, sweep_outcomes

#: More are swept with each report than it adds, so that the table can't outgrow its bounds.
_SWEPT_BESIDE = 100


class ReportStore:
    """Takes reports into the database."""

    def __init__(self, database: Database, *, bounds: OutcomeBounds | None = None) -> None:
        self._database = database
        self._bounds = bounds or OutcomeBounds()

    async def take(
        self, outcomes: Sequence[Outcome], matches: Sequence[Match], now: datetime
    ) -> Counted:
        """Keep *outcomes* and count the *matches* among them, durably."""
        return await self._database.write(
            partial(take_report, outcomes=outcomes, matches=matches, bounds=self._bounds, now=now)
        )


def take_report(
    connection: Connection,
    *,
    outcomes: Sequence[Outcome],
    matches: Sequence[Match],
    bounds: OutcomeBounds,
    now: datetime,
) -> Counted:
    """Keep *outcomes*, each event once, and count the *matches* among them."""
    new = keep_outcomes(connection, outcomes)
    counted = count_and_act(connection, matches=matches, now=now) if matches else NOTHING_COUNTED
    if new:
        sweep_outcomes(connection, bounds=bounds, now=now, limit=2 * new + _SWEPT_BESIDE)
    return counted
