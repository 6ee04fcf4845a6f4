"""
How tables are shown: whole, whatever the width of the terminal.
"""

import sys

from rich import box
from rich.console import Console
from rich.table import Table

#: Wide enough for any row: what is piped is searched and cut by columns, so rows stay on a line.
_PIPE_COLUMNS = 2_000


def open_console() -> Console:
    """Open standard output, as wide as the terminal, or as any row needs where there is none."""
    return Console() if sys.stdout.isatty() else Console(width=_PIPE_COLUMNS)


def build_table(*headings: str, whole: tuple[str, ...] = ()) -> Table:
    """Make a table that folds what is too long and cuts nothing; columns in *whole* never fold."""
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    for heading in headings:
        table.add_column(heading, overflow="fold", no_wrap=heading in whole)
    return table


def plain(text: str) -> str:
    """Keep brackets from being read as mark-up."""
    return text.replace("[", r"\[")
