"""What is measured of simulated fleets, beside that they keep what is promised."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.lease_world.fairness import share_fairly
from benchmarks.lease_world.scenario import SECOND, Scenario
from benchmarks.lease_world.world import LeaseWorld
from policy_server.limits.shares import Claimant, divide
from policy_server.limits.spec import Earning, LimitSpec
from tests.simulation.wrong_books import HastyBook

_CONNECTIONS = Scenario(spec=LimitSpec(units=40), agents=10, wants=(0, 20), seconds=240)
_RATE = replace(_CONNECTIONS, spec=LimitSpec(units=40, earning=Earning(count=40, period_ns=SECOND)))


@given(
    units=st.integers(1, 200),
    wants=st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 100), min_size=1),
)
def test_the_server_divides_fairly_within_a_unit(units: int, wants: dict[str, int]) -> None:
    given_out = divide(units, [Claimant(name=name, wants=one) for name, one in wants.items()])

    for name, fair in share_fairly(units, wants).items():
        assert given_out[name] > fair - 1


@pytest.mark.parametrize("scenario", [_CONNECTIONS, _RATE], ids=["connections", "rate"])
def test_a_fleet_has_what_is_fair_soon_after_it_wants_something_else(scenario: Scenario) -> None:
    stepped = replace(scenario, step_seconds=15, loss=0, doubled=0, delay=(0.05, 0.05))

    findings = LeaseWorld(stepped, 0, is_measured=True).run()

    assert len(findings.convergence) == 12
    assert max(findings.convergence) < 5
    assert findings.fairness > 0.98


@pytest.mark.parametrize("scenario", [_CONNECTIONS, _RATE], ids=["connections", "rate"])
def test_the_time_above_a_limit_is_measured(scenario: Scenario) -> None:
    # What is asked back is in use for a while, as it takes long to hear of it.
    slow = replace(scenario, loss=0.3, delay=(0.1, 5))
    kept = LeaseWorld(slow, 1).run()
    broken = LeaseWorld(slow, 1, make_book=HastyBook).run()

    assert kept.seconds_above == 0
    assert 0 < broken.seconds_above < scenario.seconds
