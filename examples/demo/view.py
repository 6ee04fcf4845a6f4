"""
View: the run as it looks, a table that lives on a terminal, plain lines elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

from examples.demo.reckoning import Finding
from examples.demo.watch import ProviderView


def build_table(views: Sequence[ProviderView], *, phase: str, elapsed: float) -> Group:
    """Draw the live view."""
    table = Table(title="Penstock on loopback: one server, two agents, three providers")
    for heading in ("provider", "queued", "delivered", "bounced"):
        table.add_column(heading, justify="left" if heading == "provider" else "right")
    table.add_column("messages/s of limit", justify="right")
    table.add_column("connections of limit", justify="right")
    table.add_column("provider says", width=11)
    table.add_column("actions in force", width=42)
    for view in views:
        table.add_row(
            view.name,
            str(view.queued),
            str(view.delivered),
            str(view.bounced),
            f"{view.rate:5.1f} of {_limit(view.rate_limit)}",
            f"{view.connections} of {_limit(view.connection_limit)}",
            Text("421 TS01", style="bold red") if view.is_pushing_back else Text("welcome"),
            Text("\n".join(view.actions), style="yellow"),
        )
    return Group(table, Text(f"{elapsed:5.1f} s  {phase}"))


def build_line(views: Sequence[ProviderView], *, phase: str, elapsed: float) -> str:
    """Say the same in one line."""
    parts = []
    for view in views:
        part = (
            f"{view.name}: queued {view.queued} delivered {view.delivered} bounced {view.bounced}"
            f" rate {view.rate:.0f}/{_limit(view.rate_limit)}"
            f" connections {view.connections}/{_limit(view.connection_limit)}"
        )
        if view.is_pushing_back:
            part += " PUSHES BACK"
        if view.actions:
            part += f" [{'; '.join(view.actions)}]"
        parts.append(part)
    return f"{elapsed:5.1f}s {phase} | " + " | ".join(parts)


def build_counts(report: Mapping[str, Any]) -> Table:
    """Show what each provider counted of each client against what it bears."""
    table = Table(title="What the providers counted, for each address that mail came from")
    for heading in ("provider", "client", "accepted", "deferred", "refused", "connections"):
        table.add_column(heading, justify="left" if heading in ("provider", "client") else "right")
    table.add_column("messages on one", justify="right")
    table.add_column("busiest second", justify="right")
    table.add_column("rate", justify="right")
    for name, provider in report["providers"].items():
        for client, counts in sorted(provider["clients"].items()):
            connections, each = counts["connections"], counts["messages_per_connection"]
            table.add_row(
                name,
                client,
                str(counts["recipients_accepted"]),
                str(counts["deferred"]),
                str(counts["refused"]),
                f"{connections['peak']} of {_limit(connections['limit'])}",
                f"{each['most']} of {_limit(each['limit'])}",
                str(counts["messages"]["busiest_second"]),
                _rate(counts["messages"]["rate"]),
            )
    return table


def build_findings(findings: Sequence[Finding]) -> Text:
    """List the promises, held or not."""
    text = Text()
    for finding in findings:
        style = "green" if finding.holds else "bold red"
        text.append("  ok    " if finding.holds else "  FAIL  ", style=style)
        text.append(finding.text + "\n")
        for detail in finding.details:
            text.append(f"          {detail}\n", style=style)
    return text


def _limit(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:g}"


def _rate(rate: Mapping[str, Any] | None) -> str:
    if rate is None:
        return "any"
    spare = -rate["excess"]
    return f"{rate['limit']}: " + (
        f"{spare:.1f} to spare" if spare >= 0 else f"over by {-spare:.1f}"
    )
