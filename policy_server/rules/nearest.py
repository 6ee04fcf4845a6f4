"""The nearest known name to a misspelt one."""

import difflib
from collections.abc import Iterable


def find_nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like *name*, or None if none is like it."""
    by_folded = {entry.casefold(): entry for entry in known}
    # Names beyond any known length are not compared: the cost grows with the square of it.
    close = difflib.get_close_matches(name.casefold()[:100], by_folded, n=1, cutoff=0.6)
    return by_folded[close[0]] if close else None


def suggest(name: str, known: Iterable[str]) -> str:
    """
    Return a question to end a message with, empty if no known name is near.

    >>> suggest("Suspnd", ["Suspend", "Bounce"])
    '; did you mean Suspend?'
    """
    nearest = find_nearest(name, known)
    return f"; did you mean {nearest}?" if nearest else ""
