"""What becomes of a change of rules depends on the agents that were told of it first."""

from datetime import UTC, datetime

import pytest

from policy_server.services.canary import CanaryRound, Verdict, judge

_REFUSED = datetime(2026, 1, 1, tzinfo=UTC)
_UNTIL = 30.0


class _Watcher:
    def __init__(self, applied=0, rejected_at=None):
        self.agent, self.reject_reason = "mta-1", ""
        self.applied_revision, self.rejected_at = applied, rejected_at
        self.is_held_back = False

    def hold_rules(self, change):
        return self.is_held_back

    def release_rules(self):
        """Nothing is held back."""


@pytest.mark.parametrize(
    ("present", "gone", "now", "verdict"),
    [
        pytest.param([_Watcher(7), _Watcher(9)], [], 1, Verdict.APPLIED, id="all have it"),
        pytest.param([_Watcher(7), _Watcher(6)], [], 1, Verdict.WAIT, id="one has not"),
        pytest.param([_Watcher(7), _Watcher(6)], [], _UNTIL, Verdict.SILENT, id="for too long"),
        pytest.param([_Watcher(7)], [_Watcher(0)], 1, Verdict.APPLIED, id="who left is not asked"),
        pytest.param([], [_Watcher(7)], 1, Verdict.GONE, id="what who left applied counts not"),
        pytest.param(
            [_Watcher(7), _Watcher(7, _REFUSED)], [], _UNTIL, Verdict.REFUSED, id="one refuses"
        ),
    ],
)
def test_a_change_goes_on_when_those_that_are_there_have_applied_it(present, gone, now, verdict):
    tried = CanaryRound(revision=7, until=_UNTIL, canaries=dict.fromkeys([*present, *gone]))

    assert judge(tried, present, now=now) is verdict


def test_a_refusal_of_before_is_not_held_against_a_change():
    watcher = _Watcher(7, _REFUSED)
    tried = CanaryRound(revision=7, until=_UNTIL, canaries={watcher: _REFUSED})

    assert judge(tried, [watcher], now=1) is Verdict.APPLIED
