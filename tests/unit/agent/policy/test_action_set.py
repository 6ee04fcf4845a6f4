"""Suspensions and bounces, found by the mail that they hold for."""

import math

from hypothesis import given
from hypothesis import strategies as st

from agent.policy.action_set import ActionSet
from agent.policy.answer import Bounce, Scope, Suspension, covers

NOW = 1000.0
MAIL = Scope("ip-1", "mx.foo", "foo.example", "acme", "news")


def _suspension(action_id: int, end: float = NOW + 60, **scope: str) -> Suspension:
    return Suspension(action_id=action_id, reason="test", expire_time=end, **scope)


def _set(*actions: Suspension) -> ActionSet[Suspension]:
    held = ActionSet[Suspension](100)
    for action in actions:
        held.put(action)
    return held


def test_of_several_the_one_that_ends_last_is_told():
    held = _set(*(_suspension(number, NOW + end) for number, end in ((1, 30), (2, 90), (3, 60))))

    found = held.of(MAIL, NOW)

    assert found is not None
    assert found.action_id == 2
    assert held.of(MAIL, NOW + 90) is None
    assert held.next_end() == NOW + 30
    assert sorted(one.action_id for one in held.pop_ended(NOW + 60)) == [1, 3]
    assert len(held) == 1


def test_a_pinned_one_never_ends():
    held = _set(_suspension(1, math.inf))

    assert held.of(MAIL, NOW + 10**9) is not None
    assert held.next_end() == math.inf
    assert held.pop_ended(NOW + 10**9) == []


def test_one_that_moved_leaves_nothing_behind():
    held = _set(_suspension(1))

    held.put(_suspension(1, site_name="other"))

    assert held.of(MAIL, NOW) is None
    assert held.remove(1)
    assert not held.remove(1)
    assert len(held) == 0


def test_the_set_is_bounded_but_takes_news_of_what_it_holds():
    held = ActionSet[Bounce](1)

    assert held.put(Bounce(action_id=1, reason="", expire_time=NOW + 1))
    assert not held.put(Bounce(action_id=2, reason="", expire_time=NOW + 1))
    assert held.put(Bounce(action_id=1, reason="", expire_time=NOW + 9))


_part = st.sampled_from(["", "a", "b"])
_actions = st.lists(
    st.builds(
        Suspension,
        action_id=st.integers(1, 8),
        egress_source=_part,
        site_name=_part,
        routing_domain=_part,
        tenant=_part,
        campaign=_part,
        reason=st.just(""),
        expire_time=st.sampled_from([NOW - 1, NOW, NOW + 1, NOW + 2, math.inf]),
    ),
    max_size=12,
)


@given(
    actions=_actions,
    gone=st.sets(st.integers(1, 8)),
    mail=st.builds(Scope, _part, _part, _part, _part, _part),
)
def test_what_is_found_is_what_a_look_at_every_action_finds(actions, gone, mail):
    held = ActionSet[Suspension](100)
    model: dict[int, Suspension] = {}
    for action in actions:
        held.put(action)
        model[action.action_id] = action
    for action_id in gone:
        assert held.remove(action_id) == (model.pop(action_id, None) is not None)

    found = held.of(mail, NOW)

    expected = [one for one in model.values() if covers(one, mail, NOW)]
    assert (found is None) == (not expected)
    if found is not None:
        assert found.expire_time == max(one.expire_time for one in expected)
    ended = {one.action_id for one in held.pop_ended(NOW)}
    assert ended == {one.action_id for one in model.values() if one.expire_time <= NOW}
