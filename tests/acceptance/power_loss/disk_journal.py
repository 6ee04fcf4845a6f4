"""
What a program did to the files of one directory, written down by `disk_journal.c`, which has the
program tell it.
"""

import shutil
import struct
import subprocess
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("disk_journal.c")
_LINE = struct.Struct("<BQQII")


class Op(IntEnum):
    """What was done."""

    CREATE = 1
    MKDIR = 2
    WRITE = 3
    TRUNCATE = 4
    SYNC = 5
    SYNC_DIRECTORY = 6
    RENAME = 7
    UNLINK = 8


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that was done."""

    op: Op
    #: Of the file; a number is used again once its file is gone.
    inode: int
    #: Where it was written, or the new size.
    offset: int
    #: The path; empty where the inode says it.
    name: str
    #: What was written, or the new path.
    data: bytes
    #: Where the journal ends with this line.
    end: int


def journal_environment(root: Path, journal: Path, directory: Path) -> dict[str, str]:
    """
    What has a program write down what it does under *root*. The library for it is built in
    *directory*; without a C compiler the test is skipped.
    """
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler (Debian: gcc)")
    library = directory / "disk_journal.so"
    command = [compiler, "-shared", "-fPIC", "-O2", "-o", str(library)]
    subprocess.run([*command, str(_SOURCE), "-lpthread"], check=True, timeout=60)
    return {
        "LD_PRELOAD": str(library),
        "DISK_JOURNAL_ROOT": str(root),
        "DISK_JOURNAL_FILE": str(journal),
    }


def read_journal(path: Path) -> list[Line]:
    """All of it, in order."""
    whole, at, lines = path.read_bytes(), 0, []
    while at < len(whole):
        op, inode, offset, name_size, data_size = _LINE.unpack_from(whole, at)
        at += _LINE.size
        name = whole[at : at + name_size].decode()
        at += name_size + data_size
        lines.append(Line(Op(op), inode, offset, name, whole[at - data_size : at], at))
    return lines
