from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.setting_values import (
    Address,
    SpaceFloor,
    parse_address,
    parse_duration,
    parse_size,
    parse_space_floor,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("20m", 1200),
        ("4h", 14400),
        ("7d", 604800),
        ("1h 30m", 5400),
        ("1h30m", 5400),
        ("1 hour", 3600),
        ("2 hours", 7200),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        ("90", 90),
        (90, 90),
        (1.5, 1.5),
    ],
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("value", ["", "m", "5x", "-5m", "1h-", "5 m m", "99999999d", True, -1])
def test_what_is_no_duration_is_refused(value):
    with pytest.raises(ValueError, match="no duration"):
        parse_duration(value)


def mistake_of(parse, value: object) -> str:
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return ""


@given(st.text() | st.floats() | st.integers() | st.none() | st.lists(st.integers()))
def test_any_value_is_read_or_refused_with_a_remedy(value):
    for parse in (parse_duration, parse_size, parse_address, parse_space_floor):
        mistake = mistake_of(parse, value)
        assert not mistake or "; write" in mistake


@given(st.ip_addresses(), st.integers(0, 65535))
def test_addresses_survive_being_written_and_read(host, port):
    address = Address(str(host), port)

    assert parse_address(str(address)) == address


@pytest.mark.parametrize("value", ["::1:25", "host", "host:", ":25", "host:70000", "host:²", 25])
def test_what_is_no_address_is_refused(value):
    with pytest.raises(ValueError, match="no address"):
        parse_address(value)


@pytest.mark.parametrize(
    ("floor", "free", "is_met"),
    [
        (SpaceFloor(share=0.1), 100, True),
        (SpaceFloor(share=0.1), 99, False),
        (SpaceFloor(size=50), 50, True),
        (SpaceFloor(size=50), 49, False),
        (SpaceFloor(), 0, True),
    ],
)
def test_a_floor_is_met_up_to_its_edge(floor, free, is_met):
    assert floor.is_met(free=free, total=1000) is is_met
