"""
How many RPCs ended, how, and how long unary ones took.

Every call is counted, on the event loop's thread alone: plain numbers, which take a fraction of the
time of the library's own, as those lock. They become the library's when somebody asks for them.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)


class MethodCalls:
    """The calls of one method."""

    __slots__ = ("by_bound", "by_code", "seconds")

    def __init__(self) -> None:
        self.by_code: Counter[str] = Counter()
        #: How many unary calls took no longer than each bound, but longer than the one before.
        self.by_bound = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def end(self, code: str) -> None:
        """A call has ended with a status."""
        self.by_code[code] += 1

    def took(self, seconds: float) -> None:
        """A unary call has ended after so long."""
        self.by_bound[bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class CallMetrics(Collector):
    """The calls of every method; the methods that exist bound it."""

    def __init__(self) -> None:
        self._methods: dict[str, MethodCalls] = {}

    def of(self, method: str) -> MethodCalls:
        """Find the calls of a method, by its full name."""
        return self._methods.setdefault(method, MethodCalls())

    def collect(self) -> Iterable[Metric]:
        """Say what was counted, as the library asks for it."""
        ended = CounterMetricFamily(
            "penstock_server_rpc",
            "RPCs that ended, by method and status code.",
            labels=("method", "code"),
        )
        times = HistogramMetricFamily(
            "penstock_server_rpc_seconds", "Time to answer unary RPCs.", labels=("method",)
        )
        bounds = [*map(floatToGoString, BOUNDS), "+Inf"]
        for method, calls in self._methods.items():
            for code, count in calls.by_code.items():
                ended.add_metric((method, code), count)
            buckets = list(zip(bounds, accumulate(calls.by_bound), strict=True))
            if buckets[-1][1]:
                times.add_metric((method,), buckets, calls.seconds)
        return ended, times
