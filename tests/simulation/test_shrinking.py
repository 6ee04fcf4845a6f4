"""A book that is wrong is found out, and what it does wrong is told in few lines."""

import subprocess
import sys
from functools import partial

import pytest

from benchmarks.lease_world.scenario import Scenario, draw_scenario
from benchmarks.lease_world.shrink import explain, shrink
from benchmarks.lease_world.world import LeaseWorld
from policy_server.limits.book import LeaseBook
from tests.simulation.wrong_books import ForgetfulBook, HastyBook, StubbornBook

_SEEDS = range(100)
_MOST_LINES = 100


def _run(scenario: Scenario, seed: int, *, make_book):
    return LeaseWorld(scenario, seed, make_book=make_book, is_traced=True).run()


@pytest.mark.parametrize(
    "make_book",
    [
        pytest.param(HastyBook, id="lends twice"),
        pytest.param(ForgetfulBook, id="forgets"),
        pytest.param(StubbornBook, id="knows no change"),
    ],
)
def test_a_wrong_book_is_found_and_explained_in_few_lines(make_book) -> None:
    seed, scenario = next(
        (seed, scenario)
        for seed in _SEEDS
        if LeaseWorld((scenario := draw_scenario(seed)), seed, make_book=make_book).run().violations
    )
    run = partial(_run, seed=seed, make_book=make_book)

    smallest, findings = shrink(scenario, run)

    assert smallest.agents <= 3
    assert len(findings.faults) <= 1
    assert "VIOLATION" in findings.trace[-1]
    assert len(findings.trace) <= _MOST_LINES
    assert explain(smallest, seed, run).endswith(findings.trace[-1])


def test_what_does_not_fail_is_not_shrunk() -> None:
    with pytest.raises(ValueError, match="nothing fails"):
        shrink(draw_scenario(0), partial(_run, seed=0, make_book=LeaseBook))


def test_the_command_runs_the_seeds_that_are_named_with_the_standard_library_alone() -> None:
    # Without the packages that are installed: other interpreters run it as well.
    command = [sys.executable, "-S", "-m", "benchmarks.lease_world", "0-3", "7"]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.stdout == "0 of 4 fleets failed\n"
    assert ended.returncode == 0
