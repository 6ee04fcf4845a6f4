"""
From a run that fails to the smallest that still does, and what happened in it.

Greedy, and the same at every try: one part after the other is left out, and stays so if what
remains fails in the same way; until nothing more can be.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from math import ceil
from typing import Any

from benchmarks.lease_world.findings import Findings
from benchmarks.lease_world.scenario import Scenario
from benchmarks.lease_world.world import LeaseWorld

#: Runs a scenario up to its first violation, each message noted.
Runner = Callable[[Scenario], Findings]

#: What a scenario may do without, and what it is then.
_PLAIN: dict[str, Any] = {
    "server_freeze_every": 0,
    "server_crash_every": 0,
    "freeze_every": 0,
    "crash_every": 0,
    "cut_off_every": 0,
    "long_cut_off_every": 0,
    "restart_every": 0,
    "stop_every": 0,
    "release_every": 0,
    "change_every": 0,
    "doubled": 0,
    "loss": 0,
    "drift": 0,
    "delay": (0.05, 0.05),
    "floor_seconds": 1200,
    "wants_every": 1000,
}
_MOST_RUNS = 500
_LATEST_LINES = 60


def explain(scenario: Scenario, seed: int, run: Runner | None = None) -> str:
    """Shrink a run that fails, and tell what happens in it up to its first violation."""
    runner = run or (lambda one: LeaseWorld(one, seed, is_traced=True).run())
    smallest, findings = shrink(scenario, runner)
    trace = findings.trace[-_LATEST_LINES:]
    left_out = len(findings.trace) - len(trace)
    lines = [f"seed {seed}: {describe(smallest)}"]
    lines += [f"({left_out} lines before)"] if left_out else []
    return "\n".join(lines + trace)


def describe(scenario: Scenario) -> str:
    """Write a scenario as it is made, without what is as it always is."""
    said = [
        f"{one.name}={value!r}"
        for one in fields(Scenario)
        if (value := getattr(scenario, one.name)) != one.default
    ]
    return f"Scenario({', '.join(said)})"


def shrink(scenario: Scenario, run: Runner) -> tuple[Scenario, Findings]:
    """Find the smallest scenario that fails as *scenario* does, and what it shows."""
    findings = run(scenario)
    if not findings.violations:
        raise ValueError("nothing fails")
    kind, runs = _kind(findings), 0
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _smaller(scenario, findings):
            tried = run(candidate)
            runs += 1
            if runs > _MOST_RUNS:
                return scenario, findings
            if tried.violations and _kind(tried) == kind:
                scenario, findings, is_smaller = candidate, tried, True
                break
    return scenario, findings


def _smaller(scenario: Scenario, findings: Findings) -> Iterator[Scenario]:
    """What to try next, that which leaves out most first."""
    last = ceil(float(findings.violations[0].split(":")[0]))
    yield from _shorter(scenario, last)
    for agents in range(1, scenario.agents):
        yield replace(scenario, agents=agents)
    for name, plain in _PLAIN.items():
        if getattr(scenario, name) != plain:
            yield replace(scenario, **{name: plain})
    yield from _with_less(scenario)
    yield from _with_fewer_faults(scenario, findings.faults)


def _shorter(scenario: Scenario, last: int) -> Iterator[Scenario]:
    if last < scenario.seconds:
        yield replace(scenario, seconds=last, calm_seconds=0)
    elif last < scenario.seconds + scenario.calm_seconds:
        yield replace(scenario, calm_seconds=last - scenario.seconds)
    if scenario.calm_seconds:
        for part in (2, 4):
            yield replace(scenario, seconds=scenario.seconds - scenario.seconds // part)


def _with_less(scenario: Scenario) -> Iterator[Scenario]:
    least, most = scenario.wants
    if least != most:
        yield replace(scenario, wants=(most, most))
    if most > 1:
        yield replace(scenario, wants=(min(least, most // 2), most // 2))
    if (units := scenario.spec.units) > 1:
        yield replace(scenario, spec=replace(scenario.spec, units=units // 2))


def _with_fewer_faults(scenario: Scenario, happened: list[int]) -> Iterator[Scenario]:
    """Half of them, a quarter, and so on down to one."""
    size = len(happened)
    while size:
        for first in range(0, len(happened), size):
            more = scenario.left_out.union(happened[first : first + size])
            yield replace(scenario, left_out=more)
        size //= 2


def _kind(findings: Findings) -> str:
    """What is violated, whoever does and by how much."""
    return re.sub(r"[\d.]+", "", findings.violations[0].split(":", 1)[1])
