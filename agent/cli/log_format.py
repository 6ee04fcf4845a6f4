"""How the agent's own log looks: one line an event on stderr, facts after the message."""

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class FactsFormatter(logging.Formatter):
    """Writes `time level logger: message key=value …`."""

    def __init__(self, facts: Mapping[str, object] | None = None) -> None:
        """*facts* stand in every line."""
        super().__init__()
        self._facts = dict(facts or {})

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with the traceback if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        facts = "".join(
            f" {name}={_text(value)}"
            for name, value in (self._facts | record.__dict__).items()
            if name not in _STANDARD
        )
        level = record.levelname.lower()
        line = f"{time} {level} {record.name}: {record.getMessage()}{facts}"
        if record.exc_info:
            line = f"{line}\n{self.formatException(record.exc_info)}"
        return line


def start_log(level: str, **facts: object) -> None:
    """Log to stderr from *level* on, with *facts* in every line."""
    handler = logging.StreamHandler()
    handler.setFormatter(FactsFormatter(facts))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def _text(value: object) -> str:
    text = str(value)
    # One event stays on one line, whatever a peer replied.
    return repr(text) if not text or not text.isprintable() or " " in text else text
