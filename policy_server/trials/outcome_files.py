"""
Outcome files: lines of outcomes from a file, plain or compressed, one at a time.

All mistakes of all files are gathered, up to a bound; then nothing is run.
"""

import gzip
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import BinaryIO, cast

from policy_server.rules.issues import quote_value
from policy_server.rules.layers import Issue
from policy_server.trials.outcome_lines import BadLine, OutcomeLine, read_line

#: Longest line taken, in bytes.
MAX_LINE = 16 * 1024 * 1024
#: After so many mistakes, no more are looked for.
MAX_MISTAKES = 100
#: Standard input.
STDIN = "-"


class OutcomeFiles:
    """Reads the lines of files, and gathers what is wrong with them."""

    def __init__(self, files: Sequence[str], *, time: datetime) -> None:
        self._files = files
        #: For lines without a time: that of the line before.
        self._time = time
        self.issues: list[Issue] = []
        #: Lines of logs that are no outcomes.
        self.passed_over = 0

    def read(self) -> Iterator[OutcomeLine]:
        """Read line after line, leaving out those that are wrong."""
        for file in self._files:
            try:
                with _open(file) as lines:
                    yield from self._read_lines(file, lines)
            except (OSError, EOFError, zlib.error) as error:
                reason = getattr(error, "strerror", None) or str(error)
                self._note(file, None, f"cannot be read: {reason}", code="unreadable_file")
            if len(self.issues) >= MAX_MISTAKES:
                return

    def _read_lines(self, file: str, lines: BinaryIO) -> Iterator[OutcomeLine]:
        number = 0
        while line := lines.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                message = f"the line is longer than {MAX_LINE // (1024 * 1024)} MiB: shorten it"
                self._note(file, number, message)
                return
            if line.isspace():
                continue
            read = self._read_line(file, number, line)
            if read is not None:
                yield read
            if len(self.issues) >= MAX_MISTAKES:
                message = f"there are {MAX_MISTAKES} mistakes; the rest was not read"
                self._note(file, number, message, code="too_many_mistakes")
                return

    def _read_line(self, file: str, number: int, line: bytes) -> OutcomeLine | None:
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            self._note(file, number, f"byte {line[error.start]:#04x} is not UTF-8")
            return None
        try:
            read = read_line(text, event_id=f"{file}:{number}"[-255:], time=self._time)
        except BadLine as error:
            for mistake in error.mistakes:
                shown = "" if mistake.value is None else f" {quote_value(mistake.value)}"
                name = f"{mistake.field}{shown}: " if mistake.field else ""
                self._note(file, number, name + mistake.message, field=mistake.field)
            return None
        if read is None:
            self.passed_over += 1
        else:
            self._time = read.outcome.event_time
        return read

    def _note(
        self, file: str, line: int | None, message: str, *, code: str = "bad_line", field: str = ""
    ) -> None:
        self.issues.append(Issue(code=code, message=message, file=file, line=line, option=field))


@contextmanager
def _open(file: str) -> Iterator[BinaryIO]:
    if file == STDIN:
        yield sys.stdin.buffer
        return
    with open(file, "rb") as lines:
        if file.lower().endswith(".gz"):
            with gzip.open(lines) as unpacked:
                yield cast(BinaryIO, unpacked)
        else:
            yield lines
