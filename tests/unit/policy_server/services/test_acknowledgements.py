"""What was acknowledged and refused, whatever a client says and in whatever order."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy_server.services.acknowledgements import Acknowledgements

_keys = st.frozensets(st.sampled_from(["a", "b", 1, 2]), max_size=3)
_names = st.lists(st.sampled_from(["a", "b", "1", "2", "other"]), max_size=2)
_nonces = st.one_of(
    st.integers(0, 12).map(str), st.sampled_from(["", "-1", "x", "9" * 30, "\u0662", "1e3"])
)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), _keys, st.booleans()),
        st.tuples(st.just("hear"), _nonces, _names, st.booleans()),
        st.tuples(st.just("forget"), _keys),
    ),
    max_size=40,
)


@given(_steps)
def test_nothing_is_applied_that_was_not_sent_and_acknowledged_and_is_not_refused(steps):
    sent = Acknowledgements()
    completes: dict[int, int] = {}
    keys_sent: set[object] = set()
    heard_up_to = revision = 0
    for step in steps:
        applied_before = sent.applied
        match step:
            case ("send", keys, is_complete):
                revision += 1
                nonce = sent.note_sent(0.0, keys, completes=revision if is_complete else 0)
                completes[nonce] = revision if is_complete else 0
                keys_sent |= keys
                assert sent.applied == applied_before
            case ("hear", nonce, names, is_refusal):
                heard = sent.hear(nonce, names, is_refusal=is_refusal)
                for one in heard:
                    assert one.nonce > heard_up_to, "a nonce counts once"
                    heard_up_to = one.nonce
                assert sent.hear(nonce, names, is_refusal=is_refusal) == ()
            case ("forget", keys):
                sent.forget(keys)
                assert sent.refused.isdisjoint(keys)
        assert sent.waiting == len(completes) - heard_up_to
        assert sent.refused <= keys_sent
        assert sent.applied >= applied_before
        if sent.applied != applied_before:
            assert not sent.refused
            assert sent.applied in {completes[one] for one in range(1, heard_up_to + 1)}


@pytest.mark.parametrize(
    ("rejected", "refused"),
    [
        pytest.param([], {"a", 7}, id="all of it where nothing is named"),
        pytest.param(["a"], {"a"}, id="a path by its name"),
        pytest.param(["7"], {7}, id="an action by its number"),
        pytest.param(["other"], set(), id="nothing that was not in it"),
    ],
)
def test_a_refusal_names_what_is_not_applied_until_it_is_replaced(rejected, refused):
    sent = Acknowledgements()
    nonce = sent.note_sent(0.0, frozenset({"a", 7}), completes=3)

    sent.hear(str(nonce), rejected, is_refusal=True)
    assert sent.refused == refused
    assert sent.applied == (0 if refused else 3)

    better = sent.note_sent(1.0, frozenset({"a", 7}), completes=4)
    sent.hear(str(better))
    assert sent.refused == frozenset()
    assert sent.applied == 4
