"""
Where a message ends, in and out: no octets that a client sends are a second message to us, and none
that we send are one to whoever reads more loosely than RFC 5321 has it.
"""

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.delivery.envelope import wire_form
from agent.smtp.content import has_bare_line_end
from tests.unit.agent.smtp.test_session import ENVELOPE, talk

_FORGED = b"MAIL FROM:<evil@x.example>\r\nRCPT TO:<v@y.example>\r\nDATA\r\nforged"
_ENDS = [
    b"",
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\r\n",
    b"\n\r",
    b"\r\n\r",
    b"\r\n\x00",
    b"\x00\r\n",
    b"\n\n",
]
_DOTS = [b".", b"..", b".\x00", b"\x00.", b". "]

#: How hosts have been seen to look for the end of a message.
_LOOSE_ENDS = {
    "CRLF.CRLF": rb"\r\n\.\r\n",
    "LF.LF": rb"\n\.\n",
    "LF.CRLF": rb"\n\.\r\n",
    "CRLF.LF": rb"\r\n\.\n",
    "CR.CR": rb"\r\.\r",
    "CRLF.CR": rb"\r\n\.\r",
    "CR.LF": rb"\r\.\n",
    "CR.CRLF": rb"\r\.\r\n",
    "any line ends": rb"[\r\n]\.[\r\n]",
    "any run of them": rb"[\r\n]+\.[\r\n]+",
}


def _is_taken(content: bytes) -> bool:
    """Whether the intake would take it (`test_intake_smtp` has that it asks so)."""
    return not has_bare_line_end(content) and b"\0" not in content


@pytest.mark.parametrize("dot", _DOTS)
@pytest.mark.parametrize("before", _ENDS)
def test_a_message_ends_at_crlf_dot_crlf_alone_however_it_is_cut(before: bytes, dot: bytes):
    for after in _ENDS:
        around = before + dot + after
        data = b"A: 1\r\n\r\nhello" + around + _FORGED + b"\r\n.\r\n"
        first, _, rest = (b"\r\n" + data).partition(b"\r\n.\r\n")
        is_true_end = b"\r\n.\r\n" in around
        begin = len(ENVELOPE) + data.index(around)
        stream = ENVELOPE + data

        whole = talk(stream)
        for cut in range(begin - 2, begin + len(around) + 3):
            assert talk(stream[:cut], stream[cut:]) == whole
        assert talk(*(bytes([byte]) for byte in stream)) == whole

        contents = [message.content for message in whole[1]]
        assert contents[0] == (first + b"\r\n").replace(b"\r\n.", b"\r\n")[2:]
        assert len(contents) == (2 if is_true_end and rest.startswith(b"MAIL") else 1)
        for message in whole[1]:
            if _is_taken(message.content):
                sent = wire_form(message.content, is_plain=not message.has_dots)
                assert sent == wire_form(message.content)
                _assert_ends_but_once(sent)


def _assert_ends_but_once(sent: bytes) -> None:
    octets = b"\r\n" + sent
    for name, pattern in _LOOSE_ENDS.items():
        found = re.search(pattern, octets)
        assert found is None or found.end() >= len(octets) - 1, name
    assert re.search(_LOOSE_ENDS["CRLF.CRLF"], octets)


_pieces = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\r\n", b".", b"..", b"\r\n.\r\n", b"\n.\n", b"\r.\r", b"a", b" "]
    )
    | st.binary(max_size=4).map(lambda octets: octets.replace(b"\0", b"")),
    max_size=30,
).map(b"".join)


@given(_pieces)
@example(b".")
@example(b".\r\n")
@example(b"\n.\r")
@example(b"a\r.\rb")
@example(b"a\r\n.\nMAIL FROM:<>\n")
def test_what_we_send_ends_where_we_end_it_to_whoever_reads_it(body: bytes):
    _assert_ends_but_once(wire_form(body))


@given(_pieces)
def test_what_came_in_goes_out_as_it_came(text: bytes):
    content = re.sub(rb"\r\n|\r|\n", b"\r\n", text) + b"\r\n"
    stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:] + b".\r\n"

    _, taken = talk(ENVELOPE, stuffed)

    assert [message.content for message in taken] in ([content], [])
    for message in taken:
        assert wire_form(message.content) == stuffed
        assert wire_form(message.content, is_plain=not message.has_dots) == stuffed


@pytest.mark.parametrize(
    ("first", "second"),
    list(itertools.permutations([b"a\r\n.\r\n", b"..\r\n.\r\n", b"\r\n.\r\n"], 2)),
)
def test_one_message_after_another_in_one_piece(first: bytes, second: bytes):
    again = ENVELOPE.partition(b"\r\n")[2]

    replies, taken = talk(ENVELOPE + first + again + second + b"QUIT\r\n")

    assert len(taken) == 2
    assert [text[:3] for text in replies[4:]] == ["250", "250", "250", "354", "250", "221"]
