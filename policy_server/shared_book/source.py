"""
The source of the script that is the book: its parts, in the order in which they build on each
other.
"""

from importlib.resources import files

_PARTS = ("numbers", "shares", "clock", "state", "deal", "book", "promises", "calls")


def read_source(*, clock: str | None = None) -> str:
    """
    Read the script; *clock* takes the place of the clock that it goes by, for tests on virtual
    time.
    """
    folder = files(__package__)
    texts = {part: (folder / f"{part}.lua").read_text(encoding="utf-8") for part in _PARTS}
    if clock is not None:
        texts["clock"] = clock
    return "\n".join(texts.values())
