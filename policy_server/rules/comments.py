"""
Comments of rule files: what each belongs to, and how it is kept as one text.

A text keeps the place of its lines as well: every line that ends in a line break stands above
its key or table, and what follows the last break stands on the same line as it. Which characters
begin a comment is known to the readers and writers of files alone.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: A place in a document: keys, and positions in lists.
Path = tuple[str | int, ...]

#: Keys of a block whose comments are the block's own.
_OF_BLOCK = frozenset({"mx_rollup", "replace_base", "enabled", "match", "sources", "unset"})


@dataclass(frozen=True, slots=True)
class Comment:
    """One run of comment lines, in reading order."""

    #: What it stands above, or on the same line as.
    path: Path
    lines: tuple[str, ...]
    is_trailing: bool = False


def join_comments(path: Path, comments: Iterable[Comment]) -> str:
    """
    Make one text of all that belongs to *path*.

    >>> join_comments(("a",), [Comment(("a",), ("why",)), Comment(("a",), ("how",), True)])
    'why\\nhow'
    """
    found = list(comments)
    trailing = ""
    if found and found[-1].is_trailing and found[-1].path == path:
        trailing = found.pop().lines[0]
    return "".join(f"{line}\n" for comment in found for line in comment.lines) + trailing


def split_comment(text: str) -> tuple[tuple[str, ...], str]:
    """
    Return the lines of a text that stand above, and the one on the same line.

    >>> split_comment("why\\nhow")
    (('why',), 'how')
    """
    *above, trailing = text.split("\n")
    return tuple(above), trailing


def sort_comments(
    comments: Iterable[Comment], unset: Mapping[Path, tuple[str, ...]]
) -> Mapping[Path, str]:
    """
    Give each comment to the block, option, match or automation rule that it belongs to.

    *unset* has the option names that stand in each list of that key. What belongs to none of
    them is found under the empty path.
    """
    found: dict[Path, list[Comment]] = {}
    for comment in comments:
        owner = _find_owner(comment.path, unset)
        # An entry of `unset` is an option: a comment on its line is one on the option's.
        is_own = comment.path == owner or comment.path[-2:-1] == ("unset",)
        kept = Comment(owner, comment.lines, comment.is_trailing and is_own)
        found.setdefault(owner, []).append(kept)
    return {path: join_comments(path, group) for path, group in found.items()}


def _find_owner(path: Path, unset: Mapping[Path, tuple[str, ...]]) -> Path:
    block = _find_block(path)
    rest = path[len(block) :]
    if not rest or not block:
        return block
    key, *entry = rest
    if key == "unset" and entry and isinstance(entry[0], int):
        names = unset.get((*block, "unset"), ())
        return (*block, names[entry[0]]) if entry[0] < len(names) else block
    if key == "automation" or (key == "match" and entry):
        return (*block, key, *entry[:1])
    return block if key in _OF_BLOCK else (*block, key)


def _find_block(path: Path) -> Path:
    length = 2 if path[:1] == ("provider",) else 1
    if len(path) < length:
        return ()
    if path[length : length + 1] == ("sources",) and len(path) > length + 1:
        length += 2
    return path[:length]
