"""How the log of `serve` and of commands looks: one line an event on stderr, facts at its end."""

import logging
import sys
from datetime import UTC, datetime

_PLAIN_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class FactsFormatter(logging.Formatter):
    """Writes `time level logger: message key=value …`, in UTC, as the agent does."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = "".join(
            f" {key}={value!r}" for key, value in vars(record).items() if key not in _PLAIN_RECORD
        )
        level = record.levelname.lower()
        line = f"{time} {level} {record.name}: {record.getMessage()}{facts}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start_log(level: str) -> None:
    """Log to stderr from *level* on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FactsFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # It tells every step; what came of them is logged by us.
    logging.getLogger("alembic").setLevel(logging.WARNING)
