from pathlib import Path

import pytest

from agent.errors import SettingsError
from agent.sink.meter import SinkRate
from agent.sink.settings import (
    load_sink_settings,
    parse_nanoseconds,
    parse_sink_rate,
    parse_sink_settings,
)


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        (0, 0),
        (1.5, 1_500_000_000),
        ("5ms", 5_000_000),
        ("10", 10 * 10**9),
        ("2 min", 120 * 10**9),
        ("1.5h", 5400 * 10**9),
    ],
)
def test_duration_is_read(text, nanoseconds):
    assert parse_nanoseconds(text) == nanoseconds


@pytest.mark.parametrize("text", ["", "fast", "5 parsecs", -1, True, None, "1h30m"])
def test_wrong_duration_is_refused(text):
    with pytest.raises(ValueError, match="expected a duration"):
        parse_nanoseconds(text)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/s", SinkRate(count=100, period=10**9, burst=100)),
        ("1,000/min,max_burst=5", SinkRate(count=1000, period=60 * 10**9, burst=5)),
        ("5/300s", SinkRate(count=5, period=300 * 10**9, burst=5)),
    ],
)
def test_rate_is_read(text, rate):
    assert parse_sink_rate(text) == rate


@pytest.mark.parametrize("text", ["100", "100/foo", "/s", 5, "0/s", "1/s,max_burst=0", "1/0s"])
def test_wrong_rate_is_refused(text):
    with pytest.raises(ValueError, match="rate"):
        parse_sink_rate(text)


def test_every_mistake_is_reported_at_once():
    with pytest.raises(SettingsError) as caught:
        parse_sink_settings(
            {
                "sink": {"sed": 1},
                "dns": {"a": {"mx.example": ["not an address"]}, "mx": {"b.example": [[1]]}},
                "provider": [
                    {
                        "listen": ["nowhere"],
                        "limits": {"client_max_message_rate": "5/fortnight"},
                        "recipient": [{"pattern": "(", "reply": "oops"}],
                        "push_back": [{"duration": "5s"}],
                        "misbehave": [{"at": "lunch", "action": "drop"}],
                    }
                ],
            },
            file="sink.toml",
        )

    text = str(caught.value)
    assert 'sink.toml: sink.sed: unknown key, did you mean "seed"?' in text
    assert "sink.toml: provider.0.name: missing" in text
    for part in (
        'dns.a."mx.example" "not an address"',
        'dns.mx."b.example" [1]: expected [preference, "host"]',
        "provider.0.listen.0 'nowhere'",
        "provider.0.limits.client_max_message_rate '5/fortnight'",
        "provider.0.recipient.0.pattern '('",
        "provider.0.recipient.0.reply 'oops'",
        "provider.0.push_back.0: expected either a reply or limits",
        "provider.0.misbehave.0.at 'lunch'",
    ):
        assert part in text


def test_two_providers_of_one_name_are_refused():
    with pytest.raises(SettingsError, match='provider "a" is there twice'):
        parse_sink_settings({"provider": [{"name": "a"}, {"name": "a"}]})


def test_the_documented_example_of_the_demo_is_read():
    # The demo's file holds $names, which are no durations.
    with pytest.raises(SettingsError) as caught:
        load_sink_settings(Path(__file__).parents[4] / "examples/demo/sink.toml")

    assert len(caught.value.mistakes) == 2
    assert all("push_back" in mistake for mistake in caught.value.mistakes)


@pytest.mark.parametrize("content", [b"[sink", b"\xff\xfe"])
def test_file_that_is_no_toml_is_one_mistake(tmp_path, content):
    path = tmp_path / "sink.toml"
    path.write_bytes(content)

    with pytest.raises(SettingsError, match=r"sink\.toml"):
        load_sink_settings(path)


def test_missing_file_is_one_mistake(tmp_path):
    with pytest.raises(SettingsError, match="No such file"):
        load_sink_settings(tmp_path / "none.toml")
