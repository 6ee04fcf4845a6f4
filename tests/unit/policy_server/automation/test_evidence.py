"""What is kept of replies: never the part of an address before the "@"."""

from hypothesis import given
from hypothesis import strategies as st

from policy_server.automation.outcomes import (
    MAX_REPLY_LENGTH,
    Reply,
    cut_bare,
    evidence_text,
    remove_local_parts,
)

#: Not found in the words around.
_MARK = "Qz7Q"
_ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~.\\"
_words = st.text(st.sampled_from(_ATEXT + "äßдな😀\u0301"), max_size=12)
_quoted = st.lists(
    st.one_of(
        st.sampled_from([r"\"", r"\\", r"\@", " ", "@", ",", ">", "<", ":", "(", ")", "="]),
        st.sampled_from("ab.ä"),
    ),
    max_size=8,
).map("".join)


@st.composite
def _local_parts(draw):
    """Dot-atoms, quoted strings and mixtures of both, each with the mark in it."""
    plain = f"{draw(_words)}{_MARK}{draw(_words)}"
    quoted = f'"{draw(_quoted)}{_MARK}{draw(_quoted)}"'
    return draw(st.sampled_from([plain, quoted, f"{plain}.{quoted}", f"{quoted}.{plain}"]))


_around = st.sampled_from(
    [
        ("550 <", ">: unknown"),
        ("to ", ", gone"),
        ("mailto:", " no"),
        ("(", ")"),
        ("[", "]"),
        ("see;", ";"),
        ("", ""),
        ("<a@x.example> and <", "> and <b@x.example>"),
    ]
)


@given(_local_parts(), _around)
def test_no_local_part_is_kept(local, around):
    before, after = around

    shown = remove_local_parts(f"{before}{local}@mx.example{after}")

    assert _MARK not in shown
    assert "@mx.example" in shown


@given(st.text(max_size=200))
def test_any_text_is_taken_and_loses_nothing_but_what_stands_before_an_at_sign(text):
    shown = remove_local_parts(text)

    assert shown.count("@") <= text.count("@")
    if "@" not in text:
        assert shown == text
    assert remove_local_parts(shown) == shown


@given(_local_parts(), st.integers(0, 40))
def test_no_address_is_cut_before_its_at_sign(local, left):
    reply = Reply(code=550, content=f"{'x' * (MAX_REPLY_LENGTH - left)} <{local}@mx.example>")

    shown = evidence_text(reply)

    assert len(shown) <= MAX_REPLY_LENGTH
    assert _MARK not in shown


@given(st.lists(_local_parts(), min_size=1, max_size=5))
def test_many_addresses_do_not_bring_the_end_into_sight(locals_):
    content = " ".join(f"<{local}@x.example>" for local in locals_ * 60)

    assert _MARK not in evidence_text(Reply(code=550, content=content))


@given(st.integers(1, 60), st.integers(0, 64), st.integers(1, 80))
def test_no_address_is_cut_before_its_at_sign_however_much_was_removed_before(count, size, longest):
    text = f"<{_MARK}{'y' * size}@d.test> " * count

    shown = cut_bare(text, longest=longest * 10)

    assert _MARK not in shown
    assert "y" not in shown
    assert len(shown) <= longest * 10
