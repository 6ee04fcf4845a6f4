"""Octets become replies, or an error."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.replies import MAX_LINE, NotAReply, Reply, ReplyParser


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
