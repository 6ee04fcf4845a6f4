"""What a benchmark found, as a table for people and as JSON for programs."""

import importlib.metadata
import os
import platform
import sqlite3
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.table import Table

_PACKAGES = ("sqlalchemy", "psycopg", "protobuf", "grpcio")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One table: a row for each case, and what has to be said about it."""

    name: str
    title: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def show(self) -> None:
        """Print the table, and under it machine and versions."""
        table = Table(title=self.title, title_justify="left", caption_justify="left")
        for column in self.columns:
            table.add_column(column, justify="left" if column == self.columns[0] else "right")
        for row in self.rows:
            table.add_row(*(_spell(row.get(column)) for column in self.columns))
        console = Console(width=None if os.isatty(1) else 120)
        console.print(table)
        for note in (*self.notes, describe_machine()):
            click.echo(note)
        click.echo()

    def to_json(self) -> dict[str, Any]:
        """Return the report made of JSON's types."""
        return {
            "name": self.name,
            "title": self.title,
            "rows": self.rows,
            "notes": self.notes,
            "machine": describe_machine(),
        }


def describe_machine() -> str:
    """Name the machine and the versions that numbers were measured with."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return (
        f"{_processor()}, {os.cpu_count()} CPUs, {platform.system()} {platform.release()}; "
        f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, "
        f"{', '.join(versions)}; load {os.getloadavg()[0]:.1f}"
    )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            return next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _spell(value: Any) -> str:
    match value:
        case None:
            return "-"
        case float():
            return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.3g}"
        case int():
            return f"{value:,}"
        case _:
            return str(value)
