"""Octets become replies, or an error."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.classify import Result, parse_reply, result_of
from agent.delivery.record import Record, RecordType, Response
from agent.delivery.replies import MAX_LINE, MAX_REPLY, NotAReply, Reply, ReplyParser
from agent.outcomes.lines import format_line
from agent.spool.records import decode_record, encode_record


def _parse(chunks: list[bytes]) -> tuple[list[Reply], bool]:
    """Parse chunks; the replies, and whether something was none."""
    parser, replies = ReplyParser(), []
    try:
        for chunk in chunks:
            # What came before the mistake counts, however the octets were cut.
            replies += parser.feed(chunk)
    except NotAReply:
        return replies, True
    return replies, False


@pytest.mark.parametrize(
    ("octets", "replies"),
    [
        (b"250 ok\r\n", [(250, "ok")]),
        (b"250-a\r\n250-b\r\n250 c\r\n", [(250, "a\nb\nc")]),
        (b"250\r\n", [(250, "")]),
        (b"220 x\r\n250 y\r\n354 z\r\n", [(220, "x"), (250, "y"), (354, "z")]),
        pytest.param(b"250 ok\n", [(250, "ok")], id="a bare line feed ends a line"),
        pytest.param(b"550Go away\r\n", [(550, "Go away")], id="the blank is missing"),
        pytest.param(b"250-a\r\n550 b\r\n", [(550, "a\nb")], id="the last code holds"),
        pytest.param(b"550 \xff\r\n", [(550, "\udcff")], id="no UTF-8"),
    ],
)
def test_replies(octets: bytes, replies: list[Reply]) -> None:
    assert _parse([octets]) == (replies, False)


@pytest.mark.parametrize(
    "octets",
    [
        b"hello\r\n",
        b"\r\n",
        b"2x0 ok\r\n",
        b"-50 ok\r\n",
        b" 50 ok\r\n",
        pytest.param(b"250 " + b"a" * MAX_LINE + b"\r\n", id="a long line"),
        pytest.param(b"a" * (MAX_LINE + 1), id="a line without end"),
        pytest.param(b"250-" + b"a" * 1000 + b"\r\n" + b"250-a\r\n" * 20_000, id="lines for ever"),
    ],
)
def test_what_is_no_reply_is_an_error(octets: bytes) -> None:
    assert _parse([octets])[1]


_lines = st.builds(
    lambda code, mark, text: b"%03d" % code + mark + text.replace(b"\n", b"") + b"\r\n",
    st.integers(0, 999),
    st.sampled_from([b" ", b"-", b""]),
    st.binary(max_size=20),
)


@given(
    octets=st.lists(_lines, max_size=8).map(b"".join) | st.binary(max_size=200),
    cuts=st.lists(st.integers(0, 200), max_size=10),
)
def test_how_octets_are_cut_changes_nothing(octets: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(octets)]
    chunks = [octets[begin:end] for begin, end in pairwise(places)]
    whole, cut = _parse([octets]), _parse(chunks)

    assert cut[1] == whole[1]
    if not whole[1]:
        assert cut[0] == whole[0]


@given(
    octets=st.lists(_lines | st.binary(max_size=300), max_size=30).map(b"".join),
    cuts=st.lists(st.integers(1, 300), max_size=20),
)
def test_any_octets_give_replies_of_a_bounded_size_that_classify(
    octets: bytes, cuts: list[int]
) -> None:
    """What is made of them can be logged, stored and quoted in a notice."""
    chunks, place = [], 0
    for cut in cuts:
        chunks.append(octets[place : place + cut])
        place += cut
    replies, _ = _parse([*chunks, octets[place:]])

    for code, text in replies:
        assert 0 <= code <= 999
        assert len(text) <= MAX_REPLY
        response = parse_reply(code, text, "RCPT TO")
        assert result_of(response) in Result
        assert len(response.content) <= 1024
        response.content.encode()
        assert len(response.content.splitlines()) <= 1
        assert not set(response.content) & {
            chr(number) for number in (*range(32), *range(127, 160))
        }
        record = _record(response)
        assert decode_record(encode_record(record)) == record
        assert format_line(record, node_id="n").count(b"\n") == 1


def _record(response: Response) -> Record:
    return Record(
        type=RecordType.BOUNCE,
        event_id="e",
        timestamp=1.0,
        id="m",
        sender="a@x.example",
        recipients=("b@y.example",),
        response=response,
        created=1.0,
    )


@pytest.mark.parametrize(
    ("octets", "code", "enhanced", "content"),
    [
        (b"550 5.1.1 no such user\r\n", 550, (5, 1, 1), "no such user"),
        (b"550-5.7.26 a\r\n550-5.7.26 b\r\n550 5.7.26 c\r\n", 550, (5, 7, 26), "a b c"),
        pytest.param(
            b"550-first\r\n550 5.1.1 second\r\n", 550, (5, 1, 1), "first second", id="late"
        ),
        pytest.param(
            b"550-5.1.1 a\r\n550 5.2.2 b\r\n", 550, (5, 1, 1), "a b", id="the first holds"
        ),
        pytest.param(b"450-4.2.0 a\r\n550 5.1.1 b\r\n", 550, (4, 2, 0), "a b", id="codes disagree"),
        pytest.param(b"550 5.1.1\r\n", 550, (5, 1, 1), "", id="no text"),
        pytest.param(b"550 5.1.1-x y\r\n", 550, None, "5.1.1-x y", id="no enhanced code"),
        pytest.param(b"550 5.1.1234 x\r\n", 550, None, "5.1.1234 x", id="too many digits"),
        pytest.param(b"550 3.1.1 x\r\n", 550, None, "3.1.1 x", id="no such class"),
        pytest.param(b"550 a\0b\x1b[31mc\r\n", 550, None, "a b [31mc", id="controls"),
        pytest.param("550 caf\u00e9\r\n".encode(), 550, None, "caf\u00e9", id="UTF-8"),
        pytest.param(b"550 caf\xe9!\r\n", 550, None, "caf !", id="Latin-1"),
        pytest.param("550 a\u2028b\x85c\r\n".encode(), 550, None, "a b c", id="odd line ends"),
        pytest.param(b"550 " + b"x" * 5000 + b"\r\n", 550, None, "x" * 1024, id="long"),
        pytest.param(b"550\r\n", 550, None, "", id="code alone"),
    ],
)
def test_what_is_made_of_a_reply(
    octets: bytes, code: int, enhanced: tuple[int, int, int] | None, content: str
) -> None:
    ((number, text),) = ReplyParser().feed(octets)

    response = parse_reply(number, text)

    assert (response.code, response.enhanced_code, response.content) == (code, enhanced, content)
