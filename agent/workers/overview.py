"""
Overview: one view of an agent out of what each of its processes says. Pure.

Metrics keep apart by the label `worker`; who wants the agent's sum them. The status is added up,
path by path.
"""

from collections.abc import Mapping, Sequence
from typing import Any

#: What of a path is the sum over the processes; of the rest the first process speaks.
_SUMMED = ("queued", "connections", "delivered", "transient", "bounced")


def merge_metrics(texts: Mapping[str, str]) -> str:
    """
    Join expositions in the text format of Prometheus, by worker; each sample gets its worker.

    >>> text = "# HELP up Is up.\\n# TYPE up gauge\\nup 1.0\\n"
    >>> print(merge_metrics({"0": text, "1": text}))
    # HELP up Is up.
    # TYPE up gauge
    up{worker="0"} 1.0
    up{worker="1"} 1.0
    <BLANKLINE>
    """
    families: dict[str, tuple[list[str], list[str]]] = {}
    for worker, text in texts.items():
        comments, samples = families.setdefault("", ([], []))
        for line in text.splitlines():
            if line.startswith("# "):
                name = line.split(" ", 3)[2]
                comments, samples = families.setdefault(name, ([], []))
                if line not in comments:
                    comments.append(line)
            elif line:
                samples.append(_with_worker(line, worker))
    lines = [line for comments, samples in families.values() for line in (*comments, *samples)]
    return "\n".join(lines) + "\n"


def merge_status(
    workers: Sequence[Mapping[str, Any]], statuses: Mapping[int, Any]
) -> dict[str, Any]:
    """
    The agent's status: *workers* describes the processes, *statuses* holds what those that answer
    say, by number. What is not added up is what the process says that heard from the policy server
    the longest ago.
    """
    answers = sorted((statuses[number] for number in sorted(statuses)), key=_age, reverse=True)
    merged = dict(answers[0]) if answers else {}
    for key in ("queues", "held"):
        merged[key] = _sum([answer[key] for answer in answers])
    merged["held_queues"] = _merge(
        [one for answer in answers for one in answer["held_queues"]],
        "queue_name",
        ("due", "scheduled"),
    )
    merged["paths"] = _merge(
        [path for answer in answers for path in answer["paths"]], "path_name", _SUMMED
    )
    if answers:
        merged["leases"] = _merge_leases([answer["leases"] for answer in answers])
    merged["workers"] = list(workers)
    return merged


def _age(status: Mapping[str, Any]) -> float:
    age = status["policy"]["age_seconds"]
    return float("inf") if age is None else float(age)


def _with_worker(sample: str, worker: str) -> str:
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = sample.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'


def _sum(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    names = dict.fromkeys(name for one in counts for name in one)
    return {name: sum(one.get(name, 0) for one in counts) for name in names}


def _merge(
    rows: Sequence[Mapping[str, Any]], key: str, summed: Sequence[str]
) -> list[dict[str, Any]]:
    """One row for each *key*, in its order: of the *summed* the sums, else what the first says."""
    by_key: dict[str, dict[str, Any]] = {}
    for row in rows:
        known = by_key.get(row[key])
        if known is None:
            by_key[row[key]] = dict(row)
            continue
        for name in summed:
            known[name] += row[name]
        for name, value in row.items():
            if known.get(name) is None:
                known[name] = value
    return [by_key[name] for name in sorted(by_key)]


def _merge_leases(leases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        **leases[0],
        "connected": all(one["connected"] for one in leases),
        "limits": _merge(
            [limit for one in leases for limit in one["limits"]],
            "limit",
            ("units", "floor", "in_use", "wants"),
        ),
    }
