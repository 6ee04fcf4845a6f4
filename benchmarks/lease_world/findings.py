"""What came of a run."""

from dataclasses import dataclass, field


@dataclass(slots=True)
class Findings:
    """What a run showed."""

    #: Most units in use at one time, or of a rate: most events beyond its steady part in a window.
    peak: float = 0
    violations: list[str] = field(default_factory=list)
    #: Of units times time, after the first minute: what was wanted and could be had, and was used.
    wanted: float = 0
    used: float = 0
    events: int = 0
    #: Time with more in use than the limit, or of a rate with more passed than its burst and what
    #: was earned.
    seconds_above: float = 0
    #: Seconds after each step of what is wanted until nobody had less than is fair; and how fairly
    #: all was shared, if that was measured.
    convergence: list[float] = field(default_factory=list)
    fairness: float = 1
    trace: list[str] = field(default_factory=list)
    #: Faults that happened, by number.
    faults: list[int] = field(default_factory=list)

    @property
    def share_used(self) -> float:
        """Part of the capacity that was wanted and was used."""
        return self.used / self.wanted if self.wanted else 1.0
