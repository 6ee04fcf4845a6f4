"""
A disk that loses its power: what was synced is there; of the rest anything may be, or nothing.

As POSIX promises, and no more than that: a file's content is safe once the file was synced, its
name once its directory was. Writes that were not synced may each have happened or not, in whole
sectors, in any order. Names of one directory change in order, as all journals of file systems have
it, but those of another directory, and contents, may be ahead or behind.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.power_loss.disk_journal import Line, Op

#: What a disk writes as a whole.
_SECTOR = 512


@dataclass(slots=True, eq=False)
class File:
    """A file: what of it is safe, and what was done since, as (offset, data or None: its size)."""

    safe: bytearray = field(default_factory=bytearray)
    unsafe: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        """Make all of it safe."""
        for offset, data in self.unsafe:
            _write(self.safe, offset, data)
        self.unsafe.clear()

    def after_loss(self, dice: random.Random) -> bytes:
        """What is found when the power is back."""
        found, share = bytearray(self.safe), dice.choice((0.0, 0.5, 0.9, 1.0))
        for offset, data in self.unsafe:
            if dice.random() >= share:
                continue
            if data is not None and dice.random() < 0.1:
                data = data[: _sectors(offset, len(data), dice)]
            _write(found, offset, data)
        return bytes(found)


@dataclass(slots=True, eq=False)
class Directory:
    """A directory: the names that are safe, and how they changed since; None: removed."""

    safe: dict[str, "Node"] = field(default_factory=dict)
    unsafe: list[dict[str, "Node | None"]] = field(default_factory=list)

    def sync(self) -> None:
        """Make all names safe."""
        self.safe = self._after(len(self.unsafe))
        self.unsafe.clear()

    def after_loss(self, dice: random.Random) -> "dict[str, Node]":
        """The names that are found when the power is back."""
        count = dice.choice((0, dice.randint(0, len(self.unsafe)), len(self.unsafe)))
        return self._after(count)

    def _after(self, count: int) -> "dict[str, Node]":
        names: dict[str, Node | None] = dict(self.safe)
        for change in self.unsafe[:count]:
            names |= change
        return {name: node for name, node in names.items() if node is not None}


Node = File | Directory


class Disk:
    """A directory with all that is in it, made by the lines of a journal."""

    def __init__(self, root: Path) -> None:
        self._root = Directory()
        self._nodes: dict[Path, Node] = {root: self._root}
        self._files: dict[int, File] = {}

    def apply(self, line: Line) -> None:
        """Have happened what *line* says."""
        match line.op:
            case Op.CREATE:
                # An inode that is used again is another file.
                self._files[line.inode] = file = File()
                self._change({Path(line.name): file})
            case Op.MKDIR:
                self._change({Path(line.name): Directory()})
            case Op.WRITE:
                self._files[line.inode].unsafe.append((line.offset, line.data))
            case Op.TRUNCATE:
                self._files[line.inode].unsafe.append((line.offset, None))
            case Op.SYNC:
                self._files[line.inode].sync()
            case Op.SYNC_DIRECTORY:
                self._nodes[Path(line.name)].sync()
            case Op.RENAME:
                old = Path(line.name)
                self._change({old: None, Path(line.data.decode()): self._nodes[old]})
            case Op.UNLINK:
                self._change({Path(line.name): None})

    def lose_power(self, target: Path, dice: random.Random) -> None:
        """Write what is found afterwards to *target*, which is empty."""
        places: list[tuple[Directory, Path]] = [(self._root, target)]
        while places:
            directory, place = places.pop()
            for name, node in directory.after_loss(dice).items():
                if isinstance(node, Directory):
                    (place / name).mkdir()
                    places.append((node, place / name))
                elif not name.endswith("-shm"):
                    # SQLite's index of the log is mapped, and made anew by who opens it first.
                    (place / name).write_bytes(node.after_loss(dice))

    def _change(self, names: dict[Path, Node | None]) -> None:
        for path, node in names.items():
            if node is None:
                del self._nodes[path]
            else:
                self._nodes[path] = node
        parents = {path.parent for path in names}
        for parent in parents:
            directory = self._nodes[parent]
            assert isinstance(directory, Directory)
            directory.unsafe.append(
                {path.name: node for path, node in names.items() if path.parent == parent}
            )


def disk_at(root: Path, lines: Iterable[Line]) -> Disk:
    """The disk after *lines*."""
    disk = Disk(root)
    for line in lines:
        disk.apply(line)
    return disk


def _write(content: bytearray, offset: int, data: bytes | None) -> None:
    end = offset + len(data or b"")
    if len(content) < end:
        content.extend(bytes(end - len(content)))
    if data is None:
        del content[offset:]
    else:
        content[offset:end] = data


def _sectors(offset: int, size: int, dice: random.Random) -> int:
    """How much of a write comes to be that is broken off between two sectors."""
    ends = range(_SECTOR - offset % _SECTOR, size, _SECTOR)
    return dice.choice(ends) if ends else 0
