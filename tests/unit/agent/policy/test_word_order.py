"""Which word on an action is late."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.answer import Suspension
from agent.policy.word_order import WordOrder

ACTION = Suspension(action_id=7, tenant="acme", reason="test", expire_time=1000.0)
LONGER = replace(ACTION, expire_time=2000.0)


def _heard(*revisions: int) -> WordOrder:
    order = WordOrder()
    for revision in revisions:
        order.note(ACTION.action_id, revision)
    return order


@pytest.mark.parametrize(
    ("word", "revision", "is_late"),
    [
        pytest.param(ACTION, 5, True, id="as it was"),
        pytest.param(LONGER, 6, True, id="the newest that was heard"),
        pytest.param(LONGER, 7, False, id="in force anew"),
        pytest.param(LONGER, 0, False, id="a server that does not tell"),
    ],
)
def test_what_was_taken_back_comes_back_by_a_newer_word_alone(word, revision, is_late):
    order = _heard(5, 6)
    order.note_lifted(ACTION.action_id)

    assert order.is_late(word, revision, None) is is_late


def test_an_older_word_on_what_is_held_is_late_unless_it_says_the_same():
    order = _heard(5, 6)

    assert order.is_late(ACTION, 5, LONGER)
    assert not order.is_late(replace(LONGER, expire_time=2000.2), 5, LONGER)
    assert not order.is_late(ACTION, 6, LONGER), "of one revision, the one that comes later counts"
    pinned = replace(ACTION, expire_time=math.inf)
    assert not order.is_late(pinned, 5, pinned)
    assert order.is_late(pinned, 5, LONGER)


def test_an_action_that_ended_by_itself_is_not_remembered():
    order = _heard(5)
    order.note_ended(ACTION.action_id)

    assert len(order) == 0
    assert not order.is_late(LONGER, 5, None)


def test_another_history_is_believed():
    order = _heard(5)
    order.note_lifted(ACTION.action_id)
    order.forget()

    assert not order.is_late(ACTION, 2, None)


@given(lifted=st.lists(st.integers(1, 50)), most=st.integers(1, 10))
def test_what_is_remembered_is_bounded(lifted, most):
    order = WordOrder(most)
    for action_id in lifted:
        order.note(action_id, 3)
        order.note_lifted(action_id)

    assert len(order) <= most


@pytest.mark.parametrize("held", [0, 5])
def test_a_word_up_to_the_revision_that_says_it_is_gone_is_late(held):
    order = _heard(held)
    order.note_lifted(ACTION.action_id, 8)
    # Said again, by a server that has not heard as much.
    order.note_lifted(ACTION.action_id, 7)

    assert order.is_late(ACTION, 6, None)
    assert order.is_late(ACTION, 8, None)
    assert not order.is_late(ACTION, 9, None)


def test_that_an_action_is_gone_is_late_if_a_newer_word_says_it_is_there():
    order = _heard(8)

    assert order.is_late_removal(ACTION.action_id, 7)
    assert not order.is_late_removal(ACTION.action_id, 8)
    assert not order.is_late_removal(ACTION.action_id, 0), "the server does not tell"
    assert not order.is_late_removal(ACTION.action_id + 1, 7), "nothing is held"
