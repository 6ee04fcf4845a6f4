"""How much of a limit a fleet uses, and whether it is ever above it, over a bad network."""

from dataclasses import replace

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


def measure() -> Report:
    """Run every case under some seeds, on a virtual clock."""
    report = Report(
        name="leases",
        title=f"Limits shared by a fleet, {_SEEDS} seeds each",
        columns=("case", "limit", "peak", "above it", "capacity used"),
        notes=[
            "5 % of messages lost, delays of 5 to 400 ms, clocks wrong by up to 0.1 %.",
            "Faults: each agent cut off every 400 s for 3 to 90 s and crashed every 900 s; the",
            "server crashed every 300 s for 1 to 40 s.",
            "Peak of a rate: most events beyond its steady part in any window.",
        ],
    )
    for name, scenario in _CASES.items():
        runs = [LeaseWorld(scenario, seed).run() for seed in range(_SEEDS)]
        report.rows.append(_row(name.strip(), scenario, runs))
    return report


def _row(name: str, scenario: Scenario, runs: list[Findings]) -> dict[str, object]:
    used = sum(run.used for run in runs) / sum(run.wanted for run in runs)
    return {
        "case": name,
        "limit": scenario.spec.units,
        "peak": max(run.peak for run in runs),
        "above it": sum(bool(run.violations) for run in runs),
        "capacity used": f"{used:.1%}",
    }
