import pytest

from agent.dispatch.path_state import PathState
from agent.status import describe_path


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        (0.0, None),
        (1_700_000_000.25, "2023-11-14T22:13:20.250Z"),
        (1e15, "9999-12-31T23:59:59.000Z"),
    ],
)
def test_a_path_shows_until_when_it_is_suspended(until, expected):
    state = PathState(
        path_name="ip-1->site",
        provider="big",
        site_name="site",
        egress_source="ip-1",
        queued=3,
        connections=1,
        connection_limit=2,
        rate="50/s",
        delivered=0,
        transient=0,
        bounced=0,
        suspended_until=until,
    )

    shown = describe_path(state)

    assert shown["suspended_until"] == expected
    assert (shown["path_name"], shown["rate"], shown["queued"]) == ("ip-1->site", "50/s", 3)
