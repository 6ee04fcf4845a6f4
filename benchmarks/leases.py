"""How well a fleet shares a limit over a bad network, and whether it is ever above it."""

from dataclasses import replace
from typing import Any

from benchmarks.lease_world.findings import Findings
from benchmarks.lease_world.scenario import SECOND, Scenario
from benchmarks.lease_world.world import LeaseWorld
from benchmarks.report import Report
from policy_server.limits.spec import Earning, LimitSpec

_SEEDS = 10
_CONNECTIONS = Scenario(spec=LimitSpec(units=100), agents=30, wants=(0, 20), seconds=900)
_RATE = Scenario(
    spec=LimitSpec(units=100, earning=Earning(count=100, period_ns=SECOND)),
    agents=20,
    wants=(50, 100),
    seconds=900,
)
_SLOW = Scenario(
    spec=LimitSpec(units=1, earning=Earning(count=1, period_ns=60 * SECOND)),
    agents=8,
    wants=(1, 1),
    seconds=3600,
)
_FEW = Scenario(spec=LimitSpec(units=5), agents=12, wants=(1, 3), seconds=900)


def _with_faults(scenario: Scenario) -> Scenario:
    return replace(scenario, cut_off_every=400, crash_every=900, server_crash_every=300)


_CASES = {
    "100 connections, 30 agents": _CONNECTIONS,
    "the same, faults": _with_faults(_CONNECTIONS),
    "5 connections, 12 agents": _FEW,
    "the same, faults ": _with_faults(_FEW),
    "100/s, 20 agents": _RATE,
    "the same, faults  ": _with_faults(_RATE),
    "1/m, 8 agents": _SLOW,
    "the same, faults   ": _with_faults(_SLOW),
}

_COLUMNS = ("case", "limit", "peak", "time above", "used", "fairness", "converged", "bad network")
#: Messages neither get lost nor overtake each other.
_ORDERLY: dict[str, Any] = {"loss": 0, "doubled": 0, "delay": (0.05, 0.05)}


def measure() -> Report:
    """Run every case under some seeds, on a virtual clock."""
    report = Report(
        name="leases",
        title=f"Limits shared by a fleet, {_SEEDS} seeds each",
        columns=_COLUMNS,
        notes=[
            "5 % of messages lost, delays of 5 to 400 ms, clocks wrong by up to 0.1 %.",
            "Faults: each agent cut off every 400 s for 3 to 90 s and crashed every 900 s; the",
            "server crashed every 300 s for 1 to 40 s.",
            "Peak of a rate: most events beyond its steady part in any window.",
            "Time above: the share of time with more in use than the limit.",
            "Used: the share of what was wanted and could be had.",
            "Fairness: Jain's index of what each agent had of its max-min fair share over the run;",
            "1 if all had the same part of it. The mean and the lowest of the seeds.",
            "Converged: seconds from a change of what all agents want at once (0 to 20 each) until",
            "nobody has more than one unit less than is fair; p50 and p99, without faults: where",
            "messages take 50 ms and none is lost, as on a connection that stands, and as above.",
        ],
    )
    for name, scenario in _CASES.items():
        runs = [LeaseWorld(scenario, seed, is_measured=True).run() for seed in range(_SEEDS)]
        report.rows.append(_row(name.strip(), scenario, runs))
    return report


def _row(name: str, scenario: Scenario, runs: list[Findings]) -> dict[str, object]:
    used = sum(run.used for run in runs) / sum(run.wanted for run in runs)
    above = sum(run.seconds_above for run in runs) / (scenario.seconds * len(runs))
    fairness = [run.fairness for run in runs]
    return {
        "case": name,
        "limit": scenario.spec.units,
        "peak": max(run.peak for run in runs),
        "time above": f"{above:.1%}",
        "used": f"{used:.1%}",
        "fairness": f"{sum(fairness) / len(fairness):.3f} ({min(fairness):.3f})",
        "converged": _measure_convergence(replace(scenario, **_ORDERLY)),
        "bad network": _measure_convergence(scenario),
    }


def _measure_convergence(scenario: Scenario) -> str:
    """Where there are more units than agents: elsewhere nobody's fair share is a whole one."""
    if scenario.crash_every or scenario.spec.units <= scenario.agents:
        return "-"
    stepped = replace(scenario, wants=(0, 20), step_seconds=15, seconds=600)
    runs = [LeaseWorld(stepped, seed, is_measured=True).run() for seed in range(_SEEDS)]
    spans = sorted(span for run in runs for span in run.convergence)
    return f"{spans[len(spans) // 2]:.1f} s, {spans[len(spans) * 99 // 100]:.1f} s"
