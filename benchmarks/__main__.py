"""All benchmarks, or those named: `python -m benchmarks [answers] [imports] …`."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from benchmarks import (
    answering,
    answers,
    changes,
    fan_out,
    hot_paths,
    imports,
    leases,
    limits,
    matching,
    outcomes,
    queue_scale,
    relaying,
    shared_book,
)
from benchmarks.report import Report

_BENCHMARKS: Mapping[str, Callable[[], Report]] = {
    "answers": answers.measure,
    "answering": answering.measure,
    "imports": imports.measure,
    "changes": changes.measure,
    "fan_out": fan_out.measure,
    "hot_paths": hot_paths.measure,
    "leases": leases.measure,
    "limits": limits.measure,
    "matching": matching.measure,
    "outcomes": outcomes.measure,
    "queue_scale": queue_scale.measure,
    "shared_book": shared_book.measure,
    "relaying": relaying.measure,
}


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(tuple(_BENCHMARKS)))
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write results there.")
@click.option(
    "--small", is_flag=True, help="Leave out millions of blocks and messages, which take minutes."
)
def main(names: tuple[str, ...], json_path: Path | None, small: bool) -> None:
    """Measure, and print one table a benchmark."""
    results = []
    for name in names or tuple(_BENCHMARKS):
        if name == "answers" and small:
            report = answers.measure(answers.SIZES[:-1])
        elif name == "fan_out" and small:
            report = fan_out.measure(fan_out.SMALL)
        elif name == "limits" and small:
            report = limits.measure(limits.WORKERS // 10)
        elif name == "queue_scale" and small:
            report = queue_scale.measure(queue_scale.MESSAGES // 10)
        else:
            report = _BENCHMARKS[name]()
        report.show()
        results.append(report.to_json())
    if json_path is not None:
        json_path.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
