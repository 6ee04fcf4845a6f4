"""
Keeps the history of changes, the ledger of actions and the outcomes kept within bounds while the
server runs.
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from policy_server.errors import PolicyServerError
from policy_server.store.database import Database
from policy_server.store.outcomes import OutcomeBounds, sweep_outcomes
from policy_server.store.retention import (
    HistoryBounds,
    LedgerBounds,
    forget_actions,
    forget_history,
)

logger = logging.getLogger(__name__)

_PAUSE_SECONDS = 0.5
_IDLE_SECONDS = 600.0
#: Outcomes swept in one step.
_OUTCOMES = 1000


async def keep_history(
    database: Database,
    *,
    bounds: HistoryBounds | None = None,
    ledger_bounds: LedgerBounds | None = None,
    outcome_bounds: OutcomeBounds | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> None:
    """Forget what is beyond the bounds, step by step, for ever."""
    bounds = bounds or HistoryBounds()
    ledger_bounds = ledger_bounds or LedgerBounds()
    outcome_bounds = outcome_bounds or OutcomeBounds()
    while True:
        has_more = False
        try:
            forget = partial(forget_history, bounds=bounds, now=clock())
            has_more = await database.write(forget)
            forget_ended = partial(forget_actions, bounds=ledger_bounds, now=clock())
            has_more = await database.write(forget_ended) or has_more
            # Reports sweep for themselves; this is for times without any.
            sweep = partial(sweep_outcomes, bounds=outcome_bounds, now=clock(), limit=_OUTCOMES)
            has_more = await database.write(sweep) or has_more
        except PolicyServerError as error:
            logger.warning("history can't be shortened now", extra={"why": str(error)})
        await asyncio.sleep(_PAUSE_SECONDS if has_more else _IDLE_SECONDS)
