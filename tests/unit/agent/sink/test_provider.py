import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sink.provider import Connection, ProviderState, ReceivedMessage
from agent.sink.settings import PushBack, parse_sink_settings

_SECOND = 10**9


def _provider(**content) -> ProviderState:
    settings = parse_sink_settings({"provider": [{"name": "p", **content}]})
    return ProviderState(
        settings.provider[0], chance=random.Random(1), started=0, max_identities=100
    )


def test_connection_over_the_clients_limit_is_refused_and_counted():
    provider = _provider(limits={"client_max_connections": 1})

    first, welcome = provider.connect("10.0.0.1", 0)
    _, refusal = provider.connect("10.0.0.1", 0)
    _, other = provider.connect("10.0.0.2", 0)

    assert welcome is None
    assert refusal == "421 4.7.0 Too many connections from 10.0.0.1"
    assert other is None
    assert provider.clients["10.0.0.1"].exceeded() == ["2 connections, limit 1"]
    assert provider.total.peak_connections == 3
    provider.disconnect(first)
    provider.disconnect(first)
    assert provider.total.open_connections == 2


def test_limits_of_the_provider_hold_over_all_clients():
    provider = _provider(limits={"max_connections": 1, "max_connection_rate": "1/s"})

    provider.connect("10.0.0.1", 0)
    _, refusal = provider.connect("10.0.0.2", 0)

    assert refusal is not None
    assert len(provider.total.exceeded()) == 2
    assert provider.clients["10.0.0.2"].exceeded() == []


@pytest.mark.parametrize(
    ("limits", "times", "replies"),
    [
        pytest.param(
            {"max_messages_per_connection": 2, "messages_reply": "421 4.7.0 enough"},
            [0, 1, 2],
            [None, None, "421 4.7.0 enough"],
            id="messages on one connection",
        ),
        pytest.param(
            {"client_max_message_rate": "1/s"},
            [0, 0, _SECOND],
            [None, "421 4.7.0 [TS01] Messages from 10.0.0.1 temporarily deferred", None],
            id="message rate",
        ),
        pytest.param({}, [0, 0, 0], [None, None, None], id="no limits"),
    ],
)
def test_message_over_a_limit_is_refused(limits, times, replies):
    provider = _provider(limits=limits)
    connection, _ = provider.connect("10.0.0.1", 0)

    assert [provider.begin_message(connection, now) for now in times] == replies


@pytest.mark.parametrize(
    ("recipient", "reply"),
    [
        ("bounce-1@p.example", "550 5.1.1 bounce-1@p.example: no such user"),
        ("full@p.example", "452 4.2.2 mailbox full"),
        ("reader@p.example", None),
    ],
)
def test_recipient_patterns_decide(recipient, reply):
    provider = _provider(
        recipient=[
            {"pattern": "^bounce", "reply": "550 5.1.1 {recipient}: no such user"},
            {"pattern": "^full", "reply": "452 4.2.2 mailbox full"},
        ]
    )
    connection, _ = provider.connect("10.0.0.1", 0)

    found = provider.judge_recipient(connection, sender="a@b.c", recipient=recipient, now=0)

    assert found == reply


def test_chance_is_the_seeds():
    def replies() -> list[str | None]:
        rule = {"pattern": ".", "reply": "452 4.3.1 no", "probability": 0.5}
        provider = _provider(recipient=[rule])
        connection, _ = provider.connect("10.0.0.1", 0)
        return [
            provider.judge_recipient(connection, sender="", recipient="x@y.z", now=0)
            for _ in range(50)
        ]

    assert replies() == replies()
    assert set(replies()) == {None, "452 4.3.1 no"}


def test_greylisting_defers_until_its_delay_has_passed():
    provider = _provider(greylist={"delay": "5s", "recipients": "^grey"})
    connection, _ = provider.connect("10.0.0.1", 0)

    def judge(recipient: str, second: int) -> str | None:
        now = second * _SECOND
        return provider.judge_recipient(connection, sender="a@b.c", recipient=recipient, now=now)

    assert judge("white@p.example", 0) is None
    assert str(judge("grey@p.example", 10)).startswith("451 4.7.1")
    assert str(judge("grey@p.example", 14)).startswith("451 4.7.1")
    assert judge("grey@p.example", 15) is None
    assert str(judge("grey2@p.example", 15)).startswith("451 4.7.1")


def test_push_back_holds_for_its_time_after_the_first_message():
    provider = _provider(
        push_back=[
            {
                "since": "first_message",
                "after": "10s",
                "duration": "5s",
                "reply": "421 4.7.0 [TS01] {ip}",
            }
        ]
    )
    connection, _ = provider.connect("10.0.0.1", 0)
    assert provider.push_back("mail", "10.0.0.1", 100 * _SECOND) is None

    provider.begin_message(connection, 200 * _SECOND)

    seconds = (200, 209, 210, 214, 215)
    replies = [provider.push_back("mail", "10.0.0.1", second * _SECOND) for second in seconds]
    said = "421 4.7.0 [TS01] 10.0.0.1"
    assert replies == [None, None, said, said, None]
    assert provider.push_back("rcpt", "10.0.0.1", 210 * _SECOND) is None
    assert [provider.is_pushing_back(s * _SECOND) for s in (209, 212)] == [False, True]


def test_push_back_may_be_added_and_is_forgotten_when_over():
    provider = _provider()
    push_back = PushBack(duration=1, reply="421 4.7.0 no")

    for second in range(100):
        provider.add_push_back(push_back, second * _SECOND)

    assert len(provider._windows) == 1
    assert provider.push_back("mail", "10.0.0.1", 99 * _SECOND) == "421 4.7.0 no"


def test_lowered_limits_refuse_but_are_no_excess():
    lowered = {"client_max_message_rate": "1/s", "client_max_connections": 1}
    provider = _provider(
        limits={"client_max_message_rate": "100/s", "client_max_connections": 10},
        push_back=[{"after": "10s", "duration": "5s", "limits": lowered}],
    )
    connection, _ = provider.connect("10.0.0.1", 0)

    replies = [
        provider.begin_message(connection, second * _SECOND) for second in (9, 9, 10, 10, 15, 15)
    ]
    _, refusal = provider.connect("10.0.0.1", 12 * _SECOND)
    _, welcome = provider.connect("10.0.0.1", 15 * _SECOND)

    assert [reply is None for reply in replies] == [True, True, True, False, True, True]
    assert refusal is not None
    assert welcome is None
    assert provider.total.exceeded() == provider.clients["10.0.0.1"].exceeded() == []


def test_duplicates_are_counted_by_message_and_recipient():
    provider = _provider(keep_messages=2)
    connection, _ = provider.connect("10.0.0.1", 0)
    message = ReceivedMessage(client="", sender="", recipients=("a@x.y", "b@x.y"), content=b"")

    provider.accept(connection, "1", message)
    provider.accept(connection, "2", message)
    provider.accept(connection, "1", message)

    assert provider.identities.duplicates == 2
    assert provider.identities.seen["1 a@x.y"] == 2
    assert provider.total.messages_accepted == 3
    assert provider.total.recipients_accepted == 6
    assert len(provider.messages) == 2


@given(
    st.lists(
        st.tuples(st.sampled_from(["open", "close", "send"]), st.integers(0, 2), st.integers(0, 9)),
        max_size=60,
    )
)
def test_tallies_of_clients_add_up_to_the_providers(steps):
    provider = _provider(limits={"client_max_connections": 2, "client_max_message_rate": "2/s"})
    open_now: list[Connection] = []
    now = 0
    for step, client, tenths in steps:
        now += tenths * _SECOND // 10
        if step == "open":
            open_now.append(provider.connect(f"10.0.0.{client}", now)[0])
        elif open_now and step == "close":
            provider.disconnect(open_now.pop(client % len(open_now)))
        elif open_now:
            provider.begin_message(open_now[client % len(open_now)], now)

        clients = provider.clients.values()
        assert provider.total.open_connections == len(open_now)
        assert sum(tally.open_connections for tally in clients) == len(open_now)
        assert sum(t.messages_offered for t in clients) == provider.total.messages_offered
