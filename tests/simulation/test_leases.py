"""
Limits hold over a fleet at every instant, whatever is lost, late, cut off, frozen or changed.

Each seed is a fleet of its own; PENSTOCK_SEEDS="from-to" runs others, or more of them.
"""

import os
from dataclasses import replace

import pytest

from benchmarks.lease_world.scenario import (
    SECOND,
    Scenario,
    draw_lasting_scenario,
    draw_scenario,
)
from benchmarks.lease_world.shrink import explain
from benchmarks.lease_world.world import LeaseWorld
from policy_server.limits.spec import Earning, LimitSpec

_AT_ONCE = 100
#: Of which there are further fleets that run for a minute only.
_MORE = 1700
_FIRST, _LAST = map(int, os.environ.get("PENSTOCK_SEEDS", "0-300").split("-"))

_CONNECTIONS = Scenario(spec=LimitSpec(units=100), agents=30, wants=(0, 20))
_RATE = Scenario(
    spec=LimitSpec(units=100, earning=Earning(count=100, period_ns=SECOND)),
    agents=20,
    wants=(50, 100),
)
_FAULTS = {
    "cut_off_every": 400,
    "crash_every": 900,
    "server_crash_every": 300,
    "seconds": 900,
}


@pytest.mark.parametrize("first", range(_FIRST, _LAST, _AT_ONCE))
def test_every_fleet_keeps_what_is_promised(first: int) -> None:
    broken = [
        seed
        for seed in range(first, min(first + _AT_ONCE, _LAST))
        if LeaseWorld(draw_scenario(seed), seed).run().violations
    ]

    assert not broken, explain(draw_scenario(broken[0]), broken[0])


@pytest.mark.parametrize("first", range(_LAST, _LAST + _MORE, _AT_ONCE))
def test_very_many_fleets_keep_it_for_a_minute(first: int) -> None:
    """A fleet runs for so long as most faults need, and so very many are tried in little time."""
    scenarios = {
        seed: replace(draw_scenario(seed), seconds=60, calm_seconds=0)
        for seed in range(first, first + _AT_ONCE)
    }

    broken = [
        seed for seed, scenario in scenarios.items() if LeaseWorld(scenario, seed).run().violations
    ]

    assert not broken, explain(scenarios[broken[0]], broken[0])


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(102835, id="an agent earned while it stood still, after its lease was over"),
    ],
)
def test_a_fleet_that_was_above_its_limit_once_is_no_more(seed: int) -> None:
    # As it was drawn then.
    scenario = replace(draw_lasting_scenario(seed), server_freeze_every=0)

    assert not LeaseWorld(scenario, seed).run().violations


@pytest.mark.parametrize(
    ("scenario", "least"),
    [
        pytest.param(_CONNECTIONS, 0.95, id="connections, no faults"),
        pytest.param(_RATE, 0.95, id="rate, no faults"),
        pytest.param(replace(_CONNECTIONS, **_FAULTS), 0.85, id="connections, faults"),
        pytest.param(replace(_RATE, **_FAULTS), 0.8, id="rate, faults"),
        pytest.param(
            replace(_CONNECTIONS, spec=LimitSpec(units=5), agents=12, wants=(1, 3)),
            0.9,
            id="fewer connections than agents",
        ),
        pytest.param(
            replace(
                _RATE,
                spec=LimitSpec(units=1, earning=Earning(count=1, period_ns=60 * SECOND)),
                agents=8,
                wants=(1, 1),
                seconds=3600,
            ),
            0.9,
            id="one message a minute for eight agents",
        ),
    ],
)
def test_nearly_all_of_a_limit_is_used(scenario: Scenario, least: float) -> None:
    """Virtual time, so no machine is too slow for it: the parts are exact for these seeds."""
    runs = [LeaseWorld(scenario, seed).run() for seed in range(3)]

    assert not [run.violations[0] for run in runs if run.violations]
    assert sum(run.used for run in runs) / sum(run.wanted for run in runs) >= least
