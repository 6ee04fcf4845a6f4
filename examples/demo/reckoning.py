"""
Reckoning: whether the run held what it promises. Pure: facts in, findings out.
"""

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Any

from examples.demo.load import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known at the end."""

    #: By message id: what the agents took over.
    injected: Mapping[str, Message]
    #: Messages that no agent took.
    not_taken: int
    #: By message id: how often a provider accepted it.
    accepted: Mapping[str, int]
    #: Message ids that an agent reported as bounced, by its delivery log.
    bounced: Set[str]
    #: Message ids that the agents' spools still hold.
    queued: Set[str]
    #: The sink's own report.
    report: Mapping[str, Any]
    sources: Set[str]
    #: Sources whose agent showed a suspension, and showed its end.
    suspended: Set[str]
    lifted: Set[str]
    pushed_back: bool
    #: Sources that the server's ledger has a suspension for.
    suspended_in_ledger: Set[str]
    #: Exit statuses of the programs, by name.
    ended: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    most_seconds: float = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One promise, and whether it was held."""

    text: str
    holds: bool
    details: tuple[str, ...] = field(default=())


def reckon(facts: Facts) -> tuple[Finding, ...]:
    """Hold the facts against every promise."""
    return (
        _accounted(facts),
        _bounced_rightly(facts),
        _limits(facts),
        _suspension(facts),
        _ended_well(facts),
        Finding(
            text=f"ended by itself after {facts.seconds:.0f} s (at most {facts.most_seconds:.0f})",
            holds=facts.seconds <= facts.most_seconds,
        ),
    )


def _accounted(facts: Facts) -> Finding:
    injected, accepted = set(facts.injected), set(facts.accepted)
    rest = injected - accepted - facts.bounced
    details = []
    if unknown := (accepted | facts.bounced) - injected:
        details.append(f"{len(unknown)} delivered or bounced that were never injected")
    if both := accepted & facts.bounced:
        details.append(f"{len(both)} both delivered and bounced: {_some(both)}")
    if lost := rest - facts.queued:
        details.append(f"{len(lost)} neither delivered nor bounced nor queued: {_some(lost)}")
    if facts.not_taken:
        details.append(f"{facts.not_taken} not taken over by any agent")
    duplicates = sum(facts.accepted.values()) - len(accepted)
    text = (
        f"{len(injected)} injected = {len(accepted)} delivered + {len(facts.bounced)} bounced"
        f" + {len(rest)} still queued; {duplicates} duplicates"
    )
    holds = not details and bool(injected)
    return Finding(text=text, holds=holds, details=tuple(details))


def _bounced_rightly(facts: Facts) -> Finding:
    gone = {key for key, message in facts.injected.items() if message.is_to_bounce}
    wrong = facts.bounced - gone
    details = [f"bounced without reason: {_some(wrong)}"] if wrong else []
    if delivered := gone & set(facts.accepted):
        details.append(f"delivered to nobody: {_some(delivered)}")
    return Finding(
        text=f"{len(facts.bounced & gone)} of {len(gone)} messages to unknown users bounced,"
        " and no others",
        holds=not details,
        details=tuple(details),
    )


def _limits(facts: Facts) -> Finding:
    details = list(facts.report["exceeded"])
    for name, counts in facts.report["providers"].items():
        if counts["total"]["protocol_violations"]:
            details.append(f"{name}: {counts['total']['protocol_violations']} protocol violations")
    return Finding(
        text="no limit of a provider was exceeded in any window, as the provider counted it",
        holds=not details,
        details=tuple(details),
    )


def _suspension(facts: Facts) -> Finding:
    details = []
    if not facts.pushed_back:
        details.append("the provider did not push back")
    for what, sources in (
        ("no suspension in the server's ledger", facts.suspended_in_ledger),
        ("the agent did not show the suspension", facts.suspended),
        ("the agent did not show the end of the suspension", facts.lifted),
    ):
        if missing := facts.sources - sources:
            details.append(f"{what}: {', '.join(sorted(missing))}")
    return Finding(
        text=f"push-back suspended the path on {len(facts.suspended)} agents,"
        f" lifted on {len(facts.lifted)}",
        holds=not details,
        details=tuple(details),
    )


def _ended_well(facts: Facts) -> Finding:
    details = [
        f"{name} was killed by signal {-status}" if status < 0 else f"{name} exited with {status}"
        for name, status in facts.ended.items()
        if status
    ]
    return Finding(
        text=f"{len(facts.ended)} programs ended as they were told to",
        holds=not details,
        details=tuple(details),
    )


def merge_accepted(by_provider: Mapping[str, Mapping[str, int]]) -> Counter[str]:
    """Count acceptances by message id over all providers, from "message-id recipient" keys."""
    merged: Counter[str] = Counter()
    for identities in by_provider.values():
        for identity, times in identities.items():
            merged[identity.split(" ", 1)[0]] += times
    return merged


def _some(ids: Set[str]) -> str:
    shown = ", ".join(sorted(ids)[:5])
    return shown + (", …" if len(ids) > 5 else "")
