"""
Who calls: while no certificates or tokens are configured, whom the caller says it is.
"""

from typing import Any

_KEY = "penstock-agent"
_WORKER_KEY = "penstock-worker"
_LONGEST = 255


def read_caller(context: Any) -> str:
    """Read the name that the caller gave itself in the call's metadata; empty for none."""
    return _read(context, _KEY)


def read_process(context: Any) -> str:
    """
    Name the process that calls: an agent of several says which of them it is, and each holds what
    it was told for itself. Such as "mta-1", or "mta-1/worker-1"; empty for none.
    """
    agent, worker = _read(context, _KEY), _read(context, _WORKER_KEY)
    return f"{agent}/{worker}"[:_LONGEST] if agent and worker else agent


def _read(context: Any, wanted: str) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == wanted and isinstance(value, str) and value:
            return value[:_LONGEST]
    return ""
