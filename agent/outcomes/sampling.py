"""
Sampling: failures that no rule matches yet are told to the policy server now and then, so that
rules for them can be written and tried.
"""

from dataclasses import dataclass, field

from agent.delivery.record import Record, RecordType

#: Time in which a kind of failure is told once, in seconds.
PERIOD_SECONDS = 60.0
#: Most failures told in it.
MOST_TOLD = 60

_Kind = tuple[str, int, tuple[int, int, int] | None]


@dataclass(slots=True, kw_only=True)
class FailureSample:
    """Chooses the first failure of each kind in a minute, and only so many."""

    period: float = PERIOD_SECONDS
    most: int = MOST_TOLD
    _begin: float = float("-inf")
    _told: set[_Kind] = field(default_factory=set)

    def is_chosen(self, record: Record, now: float) -> bool:
        """Say whether *record*, which no rule matches, is told at *now*."""
        if record.type is RecordType.DELIVERY:
            return False
        # A clock that was set back must not end the telling.
        if not self._begin <= now < self._begin + self.period:
            self._begin = now
            self._told.clear()
        kind = (record.site, record.response.code, record.response.enhanced_code)
        if kind in self._told or len(self._told) >= self.most:
            return False
        self._told.add(kind)
        return True
