from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.rules import values
from policy_server.rules.values import (
    MAX_COUNT,
    InvalidValueError,
    Limit,
    Rate,
    Secret,
    format_duration,
    format_limit,
    format_rate,
    format_value,
    parse_count,
    parse_duration,
    parse_limit,
    parse_rate,
    parse_secret,
)

_COUNTS = st.integers(1, MAX_COUNT)
_LIMITS = st.builds(Limit, _COUNTS, st.booleans())
_SECONDS = st.one_of(st.sampled_from([1, 60, 3600, 86_400]), st.integers(1, 10**9))
_RATES = st.builds(
    Rate,
    _COUNTS,
    _SECONDS.map(lambda seconds: timedelta(seconds=seconds)),
    st.none() | _COUNTS,
    st.booleans(),
)
_SPANS = st.timedeltas(timedelta(), values.MAX_SPAN)


@given(_RATES)
def test_rate_survives_its_canonical_spelling(rate):
    assert parse_rate(format_rate(rate)) == rate


@given(_LIMITS)
def test_limit_survives_its_canonical_spelling(limit):
    assert parse_limit(format_limit(limit)) == limit


@given(_SPANS)
def test_duration_survives_its_canonical_spelling(span):
    assert parse_duration(format_duration(span)) == span


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("100/s", "100/s"),
        ("100/sec", "100/s"),
        ("100/second", "100/s"),
        ("100/m", "100/m"),
        ("100/min", "100/m"),
        ("1/minute", "1/m"),
        ("10,000/h", "10000/h"),
        ("10_000/hr", "10000/h"),
        ("2/hour", "2/h"),
        ("500/d,max_burst=1", "500/d,max_burst=1"),
        ("500/day,max_burst=1,000", "500/d,max_burst=1000"),
        ("local:5/300s", "local:5/300s"),
        ("5/5min", "5/300s"),
        ("5/60s", "5/m"),
        ("5/24h", "5/d"),
        ("1/2d", "1/172800s"),
    ],
)
def test_rate_spellings_and_their_canonical_form(text, canonical):
    assert format_rate(parse_rate(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "", "100", "/s", "0/s", "-1/s", "1.5/s", "1/0s", "1/foo", "1/", "1/s,", "1/s,max_burst=0",
        "1/s,burst=1", "1/s/s", "global:1/s", "one/s", "1/S", "1/s;max_burst=1", "٣/s",
        "9" * 30 + "/s", "1/" + "9" * 30 + "s", "1/" + "9" * 5000 + "s", 100, 1.5, True, None, [],
    ],
)  # fmt: skip
def test_wrong_rate_is_refused(text):
    with pytest.raises(InvalidValueError):
        parse_rate(text)


@pytest.mark.parametrize(
    ("raw", "value"), [(1, 1), ("1,000", 1000), ("1_0_0", 100), (" 7 ", 7), (MAX_COUNT, MAX_COUNT)]
)
def test_count_spellings(raw, value):
    assert parse_count(raw) == value


@pytest.mark.parametrize("raw", [0, -1, 1.0, True, "0", "", "_1", "-1", "1.5", "²", MAX_COUNT + 1])
def test_wrong_count_is_refused(raw):
    with pytest.raises(InvalidValueError):
        parse_count(raw)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(10, Limit(10)), ("10", Limit(10)), ("local:1,0", Limit(10, True)), ("1_000", Limit(1000))],
)
def test_limit_spellings(raw, value):
    assert parse_limit(raw) == value


@pytest.mark.parametrize("raw", [0, "0", "local:0", "local:", "remote:5", 1.5, False, None, {}])
def test_wrong_limit_is_refused(raw):
    with pytest.raises(InvalidValueError):
        parse_limit(raw)


@pytest.mark.parametrize(
    ("raw", "seconds"),
    [
        (60, 60),
        (0, 0),
        (1.5, 1.5),
        ("60s", 60),
        ("2min", 120),
        ("1 hour", 3600),
        ("1 hours", 3600),
        ("90m", 5400),
        ("3 days", 259_200),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("1 day, 2 hours", 93_600),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        ("2 weeks", 1_209_600),
    ],
)
def test_duration_spellings(raw, seconds):
    assert parse_duration(raw).total_seconds() == seconds


@pytest.mark.parametrize(
    "raw",
    [
        "", "60", "s", "-1s", "1 fortnight", "1h30", "1h,", "5M", -1, -0.5, True, None, [],
        float("nan"), float("inf"), 10**30, "9" * 40 + "s", "200 years", "300000 days",
    ],
)  # fmt: skip
def test_wrong_duration_is_refused(raw):
    with pytest.raises(InvalidValueError):
        parse_duration(raw)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("/etc/key.pem", "/etc/key.pem"),
        ({"env": "KEY"}, {"env": "KEY"}),
        ({"key_data": "hunter2"}, {"key_data": "(hidden)"}),
    ],
)
def test_secret_is_shown_by_reference_alone(raw, shown):
    secret = parse_secret(raw)

    assert format_value(secret) == shown
    assert "hunter2" not in repr(secret)


@pytest.mark.parametrize(
    "raw", ["", {}, {"key": "x"}, {"env": ""}, {"env": "A", "path": "b"}, {"env": 1}, "a\nb", 7]
)
def test_wrong_secret_is_refused(raw):
    with pytest.raises(InvalidValueError):
        parse_secret(raw)


@pytest.mark.parametrize("fields", [{}, {"path": "a", "env": "B"}])
def test_secret_has_exactly_one_place(fields):
    with pytest.raises(InvalidValueError):
        Secret(**fields)


@pytest.mark.parametrize(
    ("count", "period"),
    [(0, timedelta(seconds=1)), (1, timedelta()), (1, timedelta(milliseconds=1500))],
)
def test_rate_that_means_nothing_cannot_exist(count, period):
    with pytest.raises(InvalidValueError):
        Rate(count, period)


@pytest.mark.parametrize("raw", ["a\r\nQUIT", 5, None])
def test_text_that_could_end_a_line_is_refused(raw):
    with pytest.raises(InvalidValueError):
        values.parse_string(raw)


@pytest.mark.parametrize("raw", [{"": 1}, {"a\n": 1}, [1], "a", {"a": 0}])
def test_wrong_table_of_limits_is_refused(raw):
    with pytest.raises(InvalidValueError):
        values.parse_limit_map(raw)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=5,
    )
)
def test_anything_else_is_refused_with_a_message(raw):
    said = []
    for name in dir(values):
        if name.startswith("parse_"):
            try:
                getattr(values, name)(raw)
            except InvalidValueError as error:
                said.append(str(error))

    assert said
    assert all(said)
