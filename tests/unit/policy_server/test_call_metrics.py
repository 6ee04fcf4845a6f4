"""Calls are counted as the metrics library would have counted them."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from policy_server.call_metrics import BOUNDS, CallMetrics

_SECONDS = st.sampled_from([0.0, *BOUNDS, 7.0]) | st.floats(0, 10)
_CALLS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["OK", "NOT_FOUND"]), _SECONDS))


@given(_CALLS)
def test_calls_are_shown_as_the_librarys_own_counters_show_them(
    calls: list[tuple[str, str, float]],
) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = CallMetrics()
    ours.register(counted)
    ended = Counter(
        "penstock_server_rpc",
        "RPCs that ended, by method and status code.",
        ("method", "code"),
        registry=theirs,
    )
    times = Histogram(
        "penstock_server_rpc_seconds",
        "Time to answer unary RPCs.",
        ("method",),
        buckets=BOUNDS,
        registry=theirs,
    )
    for method, code, seconds in calls:
        counted.of(method).end(code)
        counted.of(method).took(seconds)
        ended.labels(method, code).inc()
        times.labels(method).observe(seconds)

    assert _lines(ours) == _lines(theirs)


def _lines(registry: CollectorRegistry) -> list[str]:
    shown = generate_latest(registry).decode().splitlines()
    return sorted(line for line in shown if "_created" not in line)
