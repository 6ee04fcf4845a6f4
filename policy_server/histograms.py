"""
How often a value was how large, counted on the event loop's thread alone.

Plain numbers take a fraction of the time of the metrics library's own, as those lock. They become
the library's when somebody asks for them.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Tally:
    """How many values were no larger than each of some bounds, and their sum."""

    __slots__ = ("_bounds", "_by_bound", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """*bounds* ascend."""
        self._bounds = bounds
        #: How many were no larger than each bound, but larger than the one before.
        self._by_bound = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value."""
        self._by_bound[bisect_left(self._bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        """The bounds as the library spells them, each with how many were no larger."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        return list(zip(bounds, map(float, accumulate(self._by_bound)), strict=True))


class PlainHistogram(Collector):
    """A histogram without labels."""

    def __init__(self, name: str, documentation: str, bounds: Sequence[float]) -> None:
        self._name, self._documentation = name, documentation
        self._tally = Tally(bounds)
        self.observe = self._tally.observe

    def collect(self) -> Iterable[Metric]:
        """Say what was counted, as the library asks for it."""
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric((), self._tally.buckets, self._tally.total)
        return (family,)
