"""
Relax: a pattern for RE2 that matches wherever a pattern with look-around does, and elsewhere too.

Look-around only narrows down what the rest of a pattern matches, so without it the rest matches
all the same texts and more. Matching tries this first, together with all other patterns; only
where it is found the slow pattern is tried.

1. That holds for texts of printable ASCII alone: beyond it RE2 and the `regex` package have other
   notions of digits, spaces and words.
2. A pattern with anything that the two read differently has no relaxed form; it is always tried.
"""

import re

#: An escape, a class, a repeat, a way to open a group, or one sign.
_PIECE = re.compile(
    r"\\.|\[\^?\]?(?:\\.|\[:\w+:\]|[^\]\\])*\]|\{[0-9]+(?:,[0-9]*)?\}"
    r"|\(\?<?[=!]|\(\?:|\(\?P<|\(\?|.",
    re.DOTALL,
)
_LOOKS = frozenset({"(?=", "(?!", "(?<=", "(?<!"})
_GROUPS = frozenset({"(", "(?:", "(?P<"})
#: In the place of look-around, so that what stands around it does not come together.
_NOTHING = "(?:)"
_IGNORE_CASE = "(?i)"
#: What the two read differently: quoted text, ends of a text, references, repeats from nothing.
_AMBIGUOUS = re.compile(r"\\[0-9QECzZ]|\{")


def is_relaxable(text: str) -> bool:
    """Whether relaxed patterns say anything about *text*."""
    return text.isascii() and text.isprintable()


def relax_pattern(pattern: str) -> str | None:
    """
    Leave out the look-around of *pattern*; None where the rest may mean something else to RE2.

    >>> relax_pattern("^(?!.*our own).*RL[0-9]+(?<!00)$")
    '^(?:).*RL[0-9]+(?:)$'
    """
    if not is_relaxable(pattern):
        return None
    flags = _IGNORE_CASE if pattern.startswith(_IGNORE_CASE) else ""
    kept: list[str] = []
    #: Of each open group: whether it is look-around.
    groups: list[bool] = []
    for piece in _PIECE.findall(pattern, len(flags)):
        if piece.startswith("("):
            if piece not in _GROUPS | _LOOKS:
                return None
            if piece in _LOOKS and not any(groups):
                kept.append(_NOTHING)
            groups.append(piece in _LOOKS)
        if any(groups):
            if piece == ")":
                groups.pop()
            continue
        if _AMBIGUOUS.fullmatch(piece):
            return None
        if piece == ")":
            if not groups:
                return None
            groups.pop()
        kept.append(piece)
    return flags + "".join(kept) if not groups else None
