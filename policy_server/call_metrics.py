"""
How many RPCs ended, how, and how long unary ones took.

Every call is counted, in plain numbers as those of `histograms` are.
"""

from collections import Counter
from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from policy_server.histograms import Tally

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5)


class MethodCalls:
    """The calls of one method."""

    __slots__ = ("by_code", "seconds", "took")

    def __init__(self) -> None:
        self.by_code: Counter[str] = Counter()
        self.seconds = Tally(BOUNDS)
        #: Called with the seconds that a unary call took.
        self.took = self.seconds.observe

    def end(self, code: str) -> None:
        """A call has ended with a status."""
        self.by_code[code] += 1


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
        for method, calls in self._methods.items():
            for code, count in calls.by_code.items():
                ended.add_metric((method, code), count)
            buckets = calls.seconds.buckets
            if buckets[-1][1]:
                times.add_metric((method,), buckets, calls.seconds.total)
        return ended, times
