"""Values are counted as the metrics library would have counted them."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from policy_server.histograms import PlainHistogram

_BOUNDS = (0, 1, 2.5, 10)


@given(st.lists(st.sampled_from(_BOUNDS) | st.floats(-1, 20)))
def test_values_are_shown_as_the_librarys_own_histogram_shows_them(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counted = PlainHistogram("lag", "How far behind.", _BOUNDS)
    ours.register(counted)
    expected = Histogram("lag", "How far behind.", buckets=_BOUNDS, registry=theirs)
    for value in values:
        counted.observe(value)
        expected.observe(value)

    assert _lines(ours) == _lines(theirs)


def _lines(registry: CollectorRegistry) -> list[str]:
    shown = generate_latest(registry).decode().splitlines()
    return [line for line in shown if "_created" not in line]
