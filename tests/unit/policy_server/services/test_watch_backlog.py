"""What a client has yet to be told is kept as names, once each, however much changes."""

from hypothesis import given
from hypothesis import strategies as st

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import ActionScope
from policy_server.rules.book import RuleBook, RulesChange
from policy_server.rules.resolve import Question
from policy_server.services.action_changes import ActionChanges
from policy_server.services.watch_backlog import MAX_CHANGED, NEVER, WatchBacklog
from policy_server.services.watch_timing import WatchTiming
from policy_server.services.watched_paths import WatchedPath, WatchedPaths

_TYPES = (pb.ResourceType.RESOURCE_TYPE_SUSPENSION,)
_TIMING = WatchTiming(extension=0.5, debounce=0.1, debounce_most=1.0)
_WIDE = RulesChange(after=RuleBook().compile(0).after, is_wide=True)
_OF_NOBODY = RulesChange(after=RuleBook().compile(0).after, sites=frozenset({"elsewhere"}))


def _backlog(paths: int = 1) -> WatchBacklog:
    watched = WatchedPaths()
    for number in range(paths):
        name = f"d{number}.example"
        path = WatchedPath(
            name=name, routing_domain=name, egress_source="ip-1", site_name="site", mx_hosts=()
        )
        watched.put(path)
        watched.settle(path, Question(routing_domain=name, egress_source="ip-1", site_name="site"))
    return WatchBacklog(watched, _TIMING)


def _began(*ids: int) -> ActionChanges:
    return ActionChanges(held=dict.fromkeys(ids, _TYPES), begun=frozenset(ids))


def _ended(*ids: int) -> ActionChanges:
    return ActionChanges(held=dict.fromkeys(ids, _TYPES), ended=frozenset(ids))


def _extended(*ids: int) -> ActionChanges:
    return ActionChanges(extended=dict.fromkeys(ids, _TYPES))


def test_an_action_that_came_and_went_is_not_told():
    backlog = _backlog()

    backlog.note_actions(_began(1), now=1.0)
    backlog.note_actions(_ended(1), now=2.0)

    assert not backlog.is_urgent
    assert backlog.is_empty


def test_the_end_of_one_that_the_client_knows_is_told():
    backlog = _backlog()
    backlog.note_actions(_began(1), now=1.0)
    assert backlog.take_action() == (1, _TYPES)

    backlog.note_actions(_ended(1), now=2.0)
    backlog.note_actions(_began(1), now=2.5)
    backlog.note_actions(_ended(1), now=3.0)

    assert backlog.take_action() == (1, _TYPES)
    assert backlog.take_action() is None


def test_what_another_server_may_have_told_is_not_left_out():
    backlog = _backlog()
    backlog.begin({1: _TYPES}, is_snapshot=False)

    backlog.note_actions(_ended(1), now=1.0)

    assert backlog.take_action() == (1, _TYPES)


def test_what_only_lasts_longer_waits_but_no_longer_for_being_repeated():
    backlog = _backlog()

    backlog.note_actions(_extended(1), now=1.0)
    backlog.note_actions(_extended(1, 2), now=1.4)

    assert not backlog.is_urgent
    assert backlog.extended_due == 1.5
    backlog.take_extended()
    assert [backlog.take_action(), backlog.take_action()] == [(1, _TYPES), (2, _TYPES)]
    assert backlog.extended_due == NEVER


def test_few_touched_paths_are_sent_and_many_are_compared():
    site = ActionChanges(scopes=(ActionScope(egress_source="ip-1", site_name="site"),))
    few, many = _backlog(MAX_CHANGED), _backlog(MAX_CHANGED + 1)

    few.note_actions(site, now=1.0)
    many.note_actions(site, now=1.0)

    assert few.is_urgent
    assert few.rules_due == NEVER
    few.take_touched()
    assert few.take_path() == "d0.example"
    assert not many.is_urgent
    assert many.rules_due < 1.0
    names, touched = many.take_comparison()
    assert len(names) == len(touched) == MAX_CHANGED + 1
    assert many.rules_due == NEVER


def test_changes_of_rules_are_debounced_but_not_for_ever():
    backlog = _backlog()

    for tenth in range(20):
        backlog.note_rules(_WIDE, now=10 + tenth / 20)

    assert backlog.rules_due == 11.0
    assert backlog.since == 10.0


def test_changes_of_other_rules_are_nothing():
    backlog = _backlog()

    backlog.note_rules(_OF_NOBODY, now=1.0)

    assert backlog.is_empty
    assert not backlog.hold_rules(_OF_NOBODY, now=1.0)


def test_rules_held_back_are_compared_once_released():
    backlog = _backlog()

    assert backlog.hold_rules(_WIDE, now=1.0)
    assert (backlog.rules_due, backlog.is_empty) == (NEVER, False)
    assert backlog.release_rules(now=5.0)
    assert backlog.rules_due == 5.1
    assert backlog.since == 1.0
    assert not backlog.release_rules(now=6.0)


_IDS = st.integers(1, 6)
_CHANGES = st.tuples(st.sampled_from([_began, _ended, _extended]), _IDS)


@given(st.lists(st.one_of(_CHANGES, st.none())))
def test_a_client_that_takes_all_knows_what_is_in_force(steps):
    """Whenever it takes something: None stands for it."""
    backlog = _backlog()
    in_force: set[int] = set()
    known: set[int] = set()

    def take() -> None:
        while (taken := backlog.take_action()) is not None:
            if taken[0] in in_force:
                known.add(taken[0])
            else:
                known.discard(taken[0])

    for now, step in enumerate(steps):
        if step is None:
            take()
            continue
        change, action_id = step
        if (change is _began) == (action_id in in_force):
            continue
        if change is not _extended:
            in_force ^= {action_id}
        backlog.note_actions(change(action_id), now=float(now))
        assert len(backlog) <= 3 * 6
    backlog.take_extended()
    take()

    assert known == in_force
    assert backlog.is_empty
