"""
Who calls: while no certificates or tokens are configured, whom the caller says it is.
"""

from typing import Any

from policy_server.errors import InvalidRequest
from policy_server.rules.values import has_control

_KEY = "penstock-agent"
_WORKER_KEY = "penstock-worker"
_LONGEST = 255


def read_caller(context: Any) -> str:
    """
    Read the name that the caller gave itself in the call's metadata; empty for none. Errors:
    `InvalidRequest`.
    """
    return _read(context)[0]


def read_process(context: Any) -> str:
    """
    Name the process that calls: an agent of several says which of them it is, and each holds what
    it was told for itself. Such as "mta-1", or "mta-1/worker-1"; empty for none. Errors:
    `InvalidRequest`.
    """
    agent, worker = _read(context)
    return f"{agent}/{worker}"[:_LONGEST] if agent and worker else agent


def _read(context: Any) -> tuple[str, str]:
    """Read agent and worker: of each the first that is said."""
    agent = worker = ""
    for key, value in context.invocation_metadata() or ():
        if key == _KEY:
            agent = agent or _read_name(key, value)
        elif key == _WORKER_KEY:
            worker = worker or _read_name(key, value)
    return agent, worker


def _read_name(key: str, value: Any) -> str:
    if not isinstance(value, str):
        return ""
    if has_control(value):
        raise InvalidRequest(f"{key} has a control character", field=key)
    return value[:_LONGEST]
