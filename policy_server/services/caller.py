"""
Who calls: while no certificates or tokens are configured, whom the caller says it is.
"""

from typing import Any

_KEY = "penstock-agent"
_LONGEST = 255


def read_caller(context: Any) -> str:
    """Read the name that the caller gave itself in the call's metadata; empty for none."""
    for key, value in context.invocation_metadata() or ():
        if key == _KEY and isinstance(value, str) and value:
            return value[:_LONGEST]
    return ""
