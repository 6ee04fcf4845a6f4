import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sink.provider import ProviderState
from agent.sink.session import Session, Step
from agent.sink.settings import parse_sink_settings


def _session(**content) -> Session:
    settings = parse_sink_settings({"provider": [{"name": "p", "keep_messages": 9, **content}]})
    provider = ProviderState(
        settings.provider[0], chance=random.Random(1), started=0, max_identities=100
    )
    return Session(provider, "10.0.0.1", now=0)


def _talk(session: Session, data: bytes = b"") -> list[Step]:
    session.feed(data)
    steps = []
    while (step := session.next_step(0)) is not None:
        steps.append(step)
        if step.silent:
            break
    return steps


def _codes(steps: list[Step]) -> list[int]:
    return [int(step.reply[:3]) for step in steps if step.reply]


_MESSAGE = b"Message-ID: <1@x>\r\n\r\nhello\r\n.\r\n"
_TRANSACTION = b"MAIL FROM:<a@b.c>\r\nRCPT TO:<x@y.z>\r\nDATA\r\n"


def test_whole_dialogue_pipelined():
    session = _session()

    codes = _codes(_talk(session))
    codes += _codes(_talk(session, b"EHLO me\r\n"))
    codes += _codes(_talk(session, _TRANSACTION))
    codes += _codes(_talk(session, _MESSAGE + b"RSET\r\nNOOP\r\n"))
    last = _talk(session, b"QUIT\r\n")[-1]

    assert codes == [220, 250, 250, 250, 354, 250, 250, 250]
    assert last.reply.startswith(b"221")
    assert last.close
    assert session.provider.identities.seen == {"1@x x@y.z": 1}
    assert session.provider.total.protocol_violations == 0


@given(st.lists(st.integers(1, 40), max_size=30))
def test_bytes_may_arrive_in_any_pieces(sizes):
    session = _session()
    data = b"EHLO me\r\n" + _TRANSACTION + b"a\r\n..\r\n..b\r\nc\r\n.\r\nQUIT\r\n"
    steps = _talk(session)

    for size in sizes:
        steps += _talk(session, data[:size])
        data = data[size:]
    steps += _talk(session, data)

    assert _codes(steps) == [220, 250, 250, 250, 354, 250, 221]
    assert session.provider.messages[0].content == b"a\r\n.\r\n.b\r\nc\r\n"


@given(st.binary(max_size=300))
def test_any_bytes_are_answered_without_an_exception(data):
    session = _session()

    steps = _talk(session, data)

    assert all(step.reply.endswith(b"\r\n") for step in steps if step.reply)


@pytest.mark.parametrize(
    ("sent", "codes"),
    [
        pytest.param(b"MAIL FROM:<a@b.c>\r\n", [503], id="MAIL before EHLO"),
        pytest.param(b"EHLO\r\n", [501], id="EHLO without a name"),
        pytest.param(b"HELO me\r\nRCPT TO:<x@y.z>\r\n", [250, 503], id="RCPT before MAIL"),
        pytest.param(b"HELO me\r\nDATA\r\n", [250, 503], id="DATA before MAIL"),
        pytest.param(b"HELO me\r\nMAIL FROM:<>\r\nDATA\r\n", [250, 250, 554], id="no recipient"),
        pytest.param(b"HELO me\r\nMAIL FROM:a@b.c\r\n", [250, 501], id="no angle brackets"),
        pytest.param(b"HELO me\r\nMAIL TO:<a@b.c>\r\n", [250, 501], id="TO for FROM"),
        pytest.param(b"HELO me\r\n" + b"MAIL FROM:<>\r\n" * 2, [250, 250, 503], id="MAIL twice"),
        pytest.param(b"HELO me\r\nMAIL FROM:<>\r\nRCPT TO:<>\r\n", [250, 250, 501], id="RCPT <>"),
        pytest.param(b"HELO me\r\nMAIL FROM:<> SIZE=99999999\r\n", [250, 552], id="SIZE too large"),
        pytest.param(b"mail from:<a@b.c>\r\nWHAT\r\n\r\n", [503, 500, 500], id="unknown command"),
        pytest.param(b"STARTTLS\r\n", [502], id="STARTTLS that is not offered"),
        pytest.param(b"VRFY me\r\n", [252], id="VRFY"),
        pytest.param(b"x" * 5000, [500], id="endless line"),
        pytest.param(b"x" * 5000 + b"\r\nNOOP\r\n", [500], id="long line closes"),
    ],
)
def test_command_out_of_order_or_malformed_is_refused(sent, codes):
    session = _session()
    _talk(session)

    assert _codes(_talk(session, sent)) == codes


@pytest.mark.parametrize(
    ("content", "stored"),
    [
        pytest.param(b".\r\n", b"", id="empty"),
        pytest.param(b"..\r\n.\r\n", b".\r\n", id="a dot"),
        pytest.param(b"a\n.\nb\r\n.\r\n", b"a\n.\nb\r\n", id="bare line feeds end nothing"),
        pytest.param(b"a\r\n.\nb\r\n.\r\n", b"a\r\n.\nb\r\n", id="half a line break ends nothing"),
    ],
)
def test_message_is_unstuffed_and_ends_at_its_dot(content, stored):
    session = _session()

    steps = _talk(session, b"EHLO me\r\n" + _TRANSACTION)
    steps += _talk(session, content)

    assert _codes(steps)[-1] == 250
    assert session.provider.messages[0].content == stored


@pytest.mark.parametrize(
    ("settings", "content", "code"),
    [
        pytest.param({"max_message_size": 100}, b"x\r\n" * 40 + b".\r\n", 552, id="too large"),
        pytest.param({}, b"x" * 999 + b"\r\n.\r\n", 550, id="line too long"),
        pytest.param({"max_line_length": 0}, b"x" * 5000 + b"\r\n.\r\n", 250, id="any line"),
    ],
)
def test_message_over_a_size_is_refused(settings, content, code):
    session = _session(**settings)

    _talk(session, b"EHLO me\r\n" + _TRANSACTION)
    pieces = [content[start : start + 50] for start in range(0, len(content), 50)]
    codes = [code for piece in pieces for code in _codes(_talk(session, piece))]

    assert codes == [code]


@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail", "rcpt", "data"])
def test_push_back_answers_421_and_closes(stage):
    session = _session(push_back=[{"duration": "1s", "at": stage, "reply": "421 4.7.0 [TS01] no"}])

    steps = _talk(session, b"EHLO me\r\n" + _TRANSACTION)

    assert steps[-1] == Step(reply=b"421 4.7.0 [TS01] no\r\n", close=True)
    assert session.provider.total.deferred == 1
    assert session.provider.total.messages_offered == (stage not in ("banner", "ehlo"))


@pytest.mark.parametrize("stage", ["banner", "ehlo", "mail", "rcpt", "data", "data_end", "quit"])
@pytest.mark.parametrize(
    ("misbehaviour", "expected"),
    [
        ({"action": "drop"}, Step(close=True)),
        ({"action": "silence"}, Step(silent=True)),
        (
            {"action": "reply", "reply": "554 5.0.0 go", "close": True},
            Step(reply=b"554 5.0.0 go\r\n", close=True),
        ),
    ],
)
def test_misbehaviour_at_any_stage(stage, misbehaviour, expected):
    session = _session(misbehave=[{"at": stage, **misbehaviour}])

    steps = _talk(session, b"EHLO me\r\n" + _TRANSACTION + _MESSAGE + b"QUIT\r\n")

    assert steps[-1] == expected


def test_421_may_leave_the_connection_open():
    session = _session(misbehave=[{"at": "mail", "action": "reply", "reply": "421 4.3.2 busy"}])

    steps = _talk(session, b"EHLO me\r\nMAIL FROM:<>\r\nNOOP\r\n")

    assert _codes(steps) == [220, 250, 421, 250]
    assert not any(step.close for step in steps)


def test_garbage_is_no_reply():
    session = _session(misbehave=[{"at": "ehlo", "action": "garbage"}])

    steps = _talk(session, b"EHLO me\r\n")

    assert not steps[-1].reply[:3].isdigit()


def test_251_accepts_the_recipient():
    session = _session(recipient=[{"pattern": "^fwd", "reply": "251 2.1.5 will forward"}])

    steps = _talk(session, b"EHLO me\r\nMAIL FROM:<>\r\nRCPT TO:<fwd@y.z>\r\nDATA\r\n.\r\n")

    assert _codes(steps) == [220, 250, 250, 251, 354, 250]
    assert session.provider.messages[0].recipients == ("fwd@y.z",)


@pytest.mark.parametrize(
    ("sent", "violations"),
    [
        (b"EHLO me\r\nMAIL FROM:<>\r\n", 1),
        (b"EHLO me\r\n", 0),
        (b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<a@b.c>\r\n", 0),
        (b"NOOP\r\nRSET\r\n", 1),
    ],
)
def test_command_sent_too_early_is_counted(sent, violations):
    session = _session()
    _talk(session)

    _talk(session, sent)

    assert session.provider.total.protocol_violations == violations


def test_tls_forgets_what_was_said_in_the_clear():
    session = _session(certificate="unused.pem")
    steps = _talk(session, b"EHLO me\r\n")
    assert b"STARTTLS" in steps[-1].reply
    session.feed(b"STARTTLS\r\nMAIL FROM:<injected@b.c>\r\n")
    step = session.next_step(0)
    assert step is not None
    assert step.start_tls

    session.tls_started()

    assert _codes(_talk(session, b"MAIL FROM:<a@b.c>\r\n")) == [503]
    assert b"STARTTLS" not in _talk(session, b"EHLO me\r\n")[0].reply


def test_message_without_an_id_has_one_of_its_own():
    session = _session()

    _talk(session, b"EHLO me\r\n" + 2 * (_TRANSACTION + b".\r\n"))

    assert len(session.provider.identities.seen) == 2
    assert session.provider.identities.duplicates == 0
