from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import TryLater
from agent.smtp.session import Reply, Session, SessionLimits, Submission, most_received

LIMITS = SessionLimits(hostname="mta.example", max_message_size=1000, max_recipients=3)
WITH_TLS = replace(LIMITS, offers_tls=True)
HELLO = b"EHLO client.example\r\n"
ENVELOPE = HELLO + b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\nDATA\r\n"


def room() -> None:
    """There is room."""


def no_room() -> None:
    raise TryLater("too little free disk space", code=452, enhanced_code="4.3.1")


def talk(*pieces: bytes, check_room=room, limits=LIMITS) -> tuple[list[str], list[Submission]]:
    """What a session replies, and the messages it hands out; TLS begins where it is asked for."""
    session = Session(limits, check_room)
    replies: list[str] = []
    taken: list[Submission] = []
    for piece in pieces:
        session.feed(piece)
        while (action := session.next_action()) is not None:
            if isinstance(action, Submission):
                taken.append(action)
                assert session.next_action() is None
                action = session.answer("250 2.0.0 queued")
            if action.starts_tls:
                assert session.next_action() is None
                session.tls_started()
            replies.append(action.text + ("!" if action.closes else ""))
    return replies, taken


def codes(*pieces: bytes, check_room=room) -> list[str]:
    return [text[:3] for text in talk(*pieces, check_room=check_room)[0]]


def test_a_message_is_taken_with_its_envelope():
    replies, taken = talk(ENVELOPE, b"A: 1\r\n\r\n..dot\r\n.\r\nQUIT\r\n")

    assert [text[:3] for text in replies] == ["250", "250", "250", "354", "250", "221"]
    assert taken == [
        Submission(
            sender="a@x.example",
            recipients=("b@y.example",),
            content=b"A: 1\r\n\r\n.dot\r\n",
            has_dots=True,
            protocol="ESMTP",
            smtp_utf8=False,
            helo="client.example",
        )
    ]


def test_what_is_offered_is_what_works():
    (reply,), _ = talk(HELLO)

    offered = {line[4:] for line in reply.split("\r\n")[1:]}
    assert offered == {"PIPELINING", "SIZE 1000", "8BITMIME", "ENHANCEDSTATUSCODES", "SMTPUTF8"}


@pytest.mark.parametrize(
    ("commands", "expected"),
    [
        pytest.param(b"MAIL FROM:<a@x.example>\r\n", "503 5.5.1", id="before EHLO"),
        pytest.param(HELLO + b"RCPT TO:<a@x.example>\r\n", "503 5.5.1", id="RCPT before MAIL"),
        pytest.param(HELLO + b"DATA\r\n", "503 5.5.1", id="DATA before RCPT"),
        pytest.param(HELLO + b"MAIL FROM:<>\r\n", "250 2.1.0", id="null sender"),
        pytest.param(HELLO + b"MAIL FROM: <a@x.example>\r\n", "250 2.1.0", id="blank after colon"),
        pytest.param(HELLO + b"mail from:<a@x.example>\r\n", "250 2.1.0", id="small letters"),
        pytest.param(HELLO + b"MAIL FROM:a@x.example\r\n", "501 5.5.4", id="no brackets"),
        pytest.param(HELLO + b"MAIL FROM:<a>\r\n", "553 5.1.7", id="sender without a domain"),
        pytest.param(HELLO + b"MAIL FROM:<a@x.y> SIZE=1000\r\n", "250 2.1.0", id="just fits"),
        pytest.param(
            HELLO + b"MAIL FROM:<a@x.y> SIZE=1001\r\n", "552 5.3.4", id="announced too big"
        ),
        pytest.param(HELLO + b"MAIL FROM:<a@x.y> SIZE=x\r\n", "501 5.5.4", id="bad size"),
        pytest.param(HELLO + b"MAIL FROM:<a@x.y> BODY=8BITMIME\r\n", "250 2.1.0", id="8 bit"),
        pytest.param(HELLO + b"MAIL FROM:<a@x.y> BODY=BINARYMIME\r\n", "501 5.5.4", id="binary"),
        pytest.param(HELLO + b"MAIL FROM:<a@x.y> RET=HDRS\r\n", "555 5.5.4", id="not offered"),
        pytest.param(b"HELO c\r\nMAIL FROM:<a@x.y> SIZE=1\r\n", "555 5.5.4", id="without EHLO"),
        pytest.param(HELLO + "MAIL FROM:<ü@x.y>\r\n".encode(), "553 5.1.7", id="needs SMTPUTF8"),
        pytest.param(HELLO + "MAIL FROM:<ü@x.y> SMTPUTF8\r\n".encode(), "250 2.1.0", id="utf-8"),
        pytest.param(HELLO + b"MAIL FROM:<\xff@x.y> SMTPUTF8\r\n", "500 5.5.2", id="no utf-8"),
        pytest.param(
            HELLO + b"MAIL FROM:<a@x.y>\r\nMAIL FROM:<a@x.y>\r\n", "503 5.5.1", id="nested MAIL"
        ),
        pytest.param(
            HELLO + b"MAIL FROM:<a@x.y>\r\nRSET\r\nMAIL FROM:<a@x.y>\r\n", "250 2.1.0", id="RSET"
        ),
        pytest.param(
            HELLO + b"MAIL FROM:<>\r\nRCPT TO:<b>\r\n", "553 5.1.3", id="recipient without domain"
        ),
        pytest.param(
            HELLO + b"MAIL FROM:<>\r\nRCPT TO:<b@y.z> NOTIFY=NEVER\r\n", "555 5.5.4", id="no DSN"
        ),
        pytest.param(
            HELLO + b"MAIL FROM:<>\r\n" + 4 * b"RCPT TO:<b@y.z>\r\n", "452 4.5.3", id="too many"
        ),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n", "500 5.5.1", id="a browser is sent away"),
        pytest.param(HELLO + b"BOGUS\r\n", "500 5.5.1", id="unknown"),
        pytest.param(HELLO + b"\r\n", "500 5.5.1", id="empty line"),
        pytest.param(HELLO + b"STARTTLS\r\n", "502 5.5.1", id="not offered here"),
        pytest.param(HELLO + b"VRFY x\r\n", "252 2.1.5", id="VRFY"),
        pytest.param(HELLO + b"NOOP anything\r\n", "250 2.0.0", id="NOOP"),
        pytest.param(HELLO + b"x" * 3000, "500 5.5.2", id="endless line"),
    ],
)
def test_the_last_command_is_answered(commands, expected):
    replies, taken = talk(commands)

    assert replies[-1][:9] == expected
    assert not taken


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        pytest.param(b"\n.\n", [], id="LF.LF"),
        pytest.param(b"\n.\r\n", [], id="LF.CRLF"),
        pytest.param(b"\r\n.\n", [], id="CRLF.LF"),
        pytest.param(b"\r.\r", [], id="CR.CR"),
        pytest.param(b"\r\n.\r", [], id="CRLF.CR"),
        pytest.param(b"\r\r\n.\r\r\n", [], id="CRCRLF.CRCRLF"),
        pytest.param(b"\r\n\x00.\r\n", [], id="NUL before the dot"),
        pytest.param(b"\r\n.\r\n", ["250"], id="the true end"),
    ],
)
def test_only_a_dot_between_full_line_ends_ends_a_message(end, expected):
    smuggled = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@y.example>\r\nDATA\r\nforged"

    replies, _ = talk(ENVELOPE, b"A: 1\r\n\r\nhello" + end + smuggled)

    assert [text[:3] for text in replies[4:]] == expected + (
        ["250", "250", "354"] if expected else []
    )


@pytest.mark.parametrize("line", [b"NOOP\n", b"NO\rOP\r\n", b"\nNOOP\r\n"])
def test_a_command_that_ends_otherwise_ends_the_session(line):
    replies, _ = talk(HELLO + line + b"NOOP\r\n")

    assert replies[-1].startswith("500 5.5.2 lines must end with CRLF")
    assert replies[-1].endswith("!")
    assert len(replies) == 2


@pytest.mark.parametrize(
    ("size", "code"), [(1000, "250"), (1001, "552"), (5000, "552"), (200_000, "552")]
)
def test_a_message_beyond_the_size_is_read_to_its_end_and_refused(size, code):
    body = b"x" * (size - 2) + b"\r\n"
    pieces = [body[place : place + 700] for place in range(0, size, 700)]

    replies, taken = talk(ENVELOPE, *pieces, b".\r\nNOOP\r\n")

    assert [text[:3] for text in replies[4:]] == [code, "250"]
    assert len(taken) == (code == "250")


def test_a_message_of_dots_alone_fits_in_whatever_pieces_it_comes():
    limits = replace(LIMITS, max_message_size=30_000)
    content = b"..\r\n" * 10_000 + b".\r\n"
    pieces = [content[place : place + 999] for place in range(0, len(content), 999)]

    replies, taken = talk(ENVELOPE, *pieces, limits=limits)

    assert replies[-1].startswith("250")
    assert len(taken[0].content) == 30_000


def test_dots_added_for_transparency_do_not_count():
    line = b".." + b"\r\n"

    replies, taken = talk(ENVELOPE, line * 250 + b"x" * 248 + b"\r\n.\r\n")

    assert replies[-1].startswith("250")
    assert len(taken[0].content) == 1000


def test_mail_is_refused_at_once_while_there_is_no_room():
    assert codes(HELLO, b"MAIL FROM:<>\r\n", b"NOOP\r\n", check_room=no_room)[1:] == ["452", "250"]


def test_a_client_that_only_makes_mistakes_is_sent_away():
    replies, _ = talk(HELLO + b"BOGUS\r\n" * 50)

    assert replies[-1].startswith("421 4.7.0")
    assert len(replies) == 22


@given(st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_how_the_bytes_are_cut_makes_no_difference(cuts):
    stream = ENVELOPE + b"A: 1\r\n\r\n..x\r\n.\r\n" + ENVELOPE[len(HELLO) :] + b".\r\nQUIT\r\n"
    pieces, place = [], 0
    for cut in cuts:
        pieces.append(stream[place : place + cut])
        place += cut
    pieces.append(stream[place:])

    assert talk(*pieces) == talk(stream)


def test_tls_is_offered_until_it_has_begun_and_the_session_begins_anew():
    replies, _ = talk(HELLO, b"STARTTLS\r\n", b"MAIL FROM:<>\r\n", HELLO, limits=WITH_TLS)

    assert "STARTTLS" in replies[0]
    assert replies[1] == "220 2.0.0 begin TLS"
    assert replies[2].startswith("503 5.5.1 send EHLO")
    assert "STARTTLS" not in replies[3]


@pytest.mark.parametrize(
    ("envelope", "expected"),
    [
        (ENVELOPE, "ESMTPS"),
        (ENVELOPE.replace(b"EHLO", b"HELO"), "SMTP"),
        (ENVELOPE.replace(b"<a@x.example>", b"<a@x.example> SMTPUTF8"), "UTF8SMTPS"),
    ],
)
def test_a_message_over_tls_says_so(envelope, expected):
    _, taken = talk(HELLO, b"STARTTLS\r\n", envelope, b".\r\n", limits=WITH_TLS)

    assert [message.protocol for message in taken] == [expected]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([HELLO, b"STARTTLS now\r\n"], "501 5.5.4", id="argument"),
        pytest.param([b"STARTTLS\r\n"], "503 5.5.1 send", id="before EHLO"),
        pytest.param([b"HELO c\r\n", b"STARTTLS\r\n"], "503 5.5.1 send", id="after HELO"),
        pytest.param([HELLO, b"STARTTLS\r\n", HELLO, b"STARTTLS\r\n"], "503 5.5.1 TLS", id="twice"),
    ],
)
def test_starttls_is_refused(pieces, expected):
    replies, _ = talk(*pieces, limits=WITH_TLS)

    assert replies[-1].startswith(expected)


def test_the_envelope_given_in_clear_is_forgotten():
    given_in_clear = b"MAIL FROM:<a@x.example>\r\nRCPT TO:<b@y.example>\r\n"
    replies, taken = talk(
        HELLO + given_in_clear, b"STARTTLS\r\n", HELLO + b"DATA\r\n", limits=WITH_TLS
    )

    assert replies[-1].startswith("503 5.5.1 send MAIL")
    assert not taken


@given(st.binary(min_size=1, max_size=60), st.integers(0, 60))
@example(b"MAIL FROM:<evil@x.example>\r\n", 60)
def test_nothing_that_comes_in_clear_behind_starttls_is_done(behind, cut):
    """What comes with the command ends the session; what comes later goes to the handshake."""
    session = Session(WITH_TLS, room)
    session.feed(HELLO + b"STARTTLS\r\n" + behind[: cut + 1])

    first, second = session.next_action(), session.next_action()
    session.feed(behind[cut + 1 :])

    assert isinstance(first, Reply)
    assert first.text.startswith("250-")
    assert second == Reply("554 5.5.1 nothing may follow STARTTLS in clear; goodbye", closes=True)
    assert session.next_action() is None
    assert session.buffered == 0


words = st.sampled_from(
    [
        HELLO,
        ENVELOPE,
        b"\r\n",
        b".",
        b"\r\n.\r\n",
        b"\n",
        b"MAIL FROM:<",
        b">",
        b"RSET\r\n",
        b"DATA\r\n",
        b".\r\n",
        b"..\r\n" * 200,
        b"x" * 700,
        b"QUIT\r\n",
    ]
)
streams = st.lists(words | st.binary(max_size=30), max_size=25)


@given(streams, st.lists(st.integers(1, 50), max_size=30))
def test_how_any_bytes_are_cut_makes_no_difference(stream, cuts):
    whole = b"".join(stream)
    pieces, place = [], 0
    for cut in cuts:
        pieces.append(whole[place : place + cut])
        place += cut
    pieces.append(whole[place:])

    assert talk(*pieces) == talk(whole)
    assert talk(*(bytes([byte]) for byte in whole)) == talk(whole)


@given(streams)
def test_no_bytes_break_a_session_that_offers_tls(pieces):
    replies, _ = talk(*pieces, b"STARTTLS\r\n", *pieces, limits=WITH_TLS)

    assert all(text[:3].isdecimal() for text in replies)


@given(streams)
def test_no_bytes_break_a_session(pieces):
    replies, taken = talk(*pieces)

    assert all(text[:3].isdecimal() for text in replies)
    for message in taken:
        assert message.content == b"" or message.content.endswith(b"\r\n")
        assert message.recipients


@given(st.binary(max_size=300))
def test_content_comes_through_unchanged(content):
    content = content.replace(b"\r", b"").replace(b"\n", b"\r\n") + b"\r\n"

    _, taken = talk(ENVELOPE, (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n")

    assert taken[0].content == content


def test_a_client_that_sends_no_mail_is_sent_away_in_the_end():
    replies, _ = talk(HELLO + b"NOOP\r\n" * 200)
    with_mail, taken = talk(*((ENVELOPE + b".\r\n" + b"NOOP\r\n" * 98) for _ in range(5)))

    assert replies[-1].startswith("421 4.7.0 too many commands")
    assert len(replies) == 101
    assert len(taken) == 5
    assert with_mail[-1].startswith("250")


@given(streams, st.integers(1, 400))
def test_no_bytes_take_more_memory_than_a_message_may(pieces, size):
    limits = replace(LIMITS, max_message_size=size)
    session = Session(limits, room)
    for piece in pieces:
        session.feed(piece)
        while (action := session.next_action()) is not None:
            if isinstance(action, Submission):
                assert len(action.content) <= size
                session.answer("250 2.0.0 queued")
        assert session.buffered <= most_received(size) + 2048 + len(piece)


commands = st.sampled_from(
    [
        HELLO,
        b"HELO client.example\r\n",
        b"MAIL FROM:<a@x.example>\r\n",
        b"MAIL FROM:<> BODY=8BITMIME SIZE=10\r\n",
        b"MAIL FROM:<> SIZE=99999\r\n",
        b"RCPT TO:<b@y.example>\r\n",
        b"RCPT TO:<nobody>\r\n",
        b"DATA\r\n",
        b"DATA now\r\n",
        b"RSET\r\n",
        b"NOOP\r\n",
        b"BOGUS\r\n",
    ]
)


@given(st.lists(commands, max_size=40))
def test_a_session_keeps_the_order_of_commands(lines):
    """MAIL after a greeting and once, RCPT after MAIL, DATA after RCPT, a message after DATA."""
    session = Session(LIMITS, room)
    has_greeted, senders, recipients = False, 0, 0
    for line in lines:
        session.feed(line)
        reply = session.next_action()
        assert isinstance(reply, Reply)
        assert session.next_action() is None, "one reply for each command"
        if reply.closes:
            break
        is_good = reply.text[0] in "23"
        match line[:4]:
            case b"EHLO" | b"HELO":
                assert is_good
                has_greeted, senders, recipients = True, 0, 0
            case b"MAIL":
                assert not is_good or (has_greeted and not senders)
                senders += is_good
            case b"RCPT":
                assert not is_good or senders
                recipients += is_good
            case b"RSET":
                senders = recipients = 0
            case b"DATA" if is_good:
                assert recipients
                session.feed(b"x\r\n.\r\n")
                taken = session.next_action()
                assert isinstance(taken, Submission)
                assert len(taken.recipients) == recipients
                session.answer("250 2.0.0 queued")
                senders = recipients = 0


def test_replies_are_encoded_with_their_line_end():
    assert Reply("250 ok").encode() == b"250 ok\r\n"
