"""
View: the run as it looks, a table that lives on a terminal, plain lines elsewhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from examples.demo.reckoning import Finding
from examples.demo.watch import ProviderView


def build_table(views: Sequence[ProviderView], *, phase: str, elapsed: float) -> Group:
    """Draw the live view; it fits 80 columns."""
    table = Table(title="Penstock on loopback: one server, two agents, three providers")
    table.add_column("provider", no_wrap=True)
    for heading in ("queued", "delivered", "5xx", "msgs/s", "connections"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("says", width=7, no_wrap=True)
    for view in views:
        table.add_row(
            view.name,
            str(view.queued),
            str(view.delivered),
            str(view.refused),
            f"{view.rate:.0f} of {_limit(view.rate_limit)}",
            f"{view.connections} of {_limit(view.connection_limit)}",
            Text("421", style="bold red") if view.is_pushing_back else Text("welcome"),
        )
    table.caption = (
        "5xx: replies, of which a mail that bounces may meet two;\n"
        "msgs/s: over the last two seconds, with what bursts the rules allow"
    )
    actions = [f"{view.name}: {action}" for view in views for action in view.actions]
    return Group(
        table,
        Text("Actions in force", style="bold"),
        Text("\n".join(actions) or "none", style="yellow"),
        Text(f"\n{elapsed:5.1f} s  {phase}"),
    )


def build_line(views: Sequence[ProviderView], *, phase: str, elapsed: float) -> str:
    """Say the same in one line."""
    parts = []
    for view in views:
        part = (
            f"{view.name}: queued {view.queued} delivered {view.delivered} 5xx {view.refused}"
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
    table = Table(
        title="What the providers counted, for each address that mail came from",
        box=box.SIMPLE,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for heading in ("provider", "client"):
        table.add_column(heading)
    for heading in ("accepted", "4xx", "5xx", "conns", "on one", "peak/s", "spare"):
        table.add_column(heading, justify="right")
    for name, provider in report["providers"].items():
        for client, counts in sorted(provider["clients"].items()):
            connections, each = counts["connections"], counts["messages_per_connection"]
            rate = counts["message_rate"]
            table.add_row(
                name,
                client,
                str(counts["recipients_accepted"]),
                str(counts["deferred"]),
                str(counts["refused"]),
                f"{connections['peak']}/{_limit(connections['limit'])}",
                f"{each['most']}/{_limit(each['limit'])}",
                str(counts["busiest_second"]),
                "" if rate is None else f"{-rate['excess']:.1f}",
            )
    table.caption = (
        "4xx, 5xx: replies; conns: most connections at once; on one: most messages on one;\n"
        "spare: of the rate and its burst, in the worst window, messages left"
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
