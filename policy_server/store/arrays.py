"""
Arrays as PostgreSQL reads them: a whole column of many rows in one value.

The driver writes an array element by element, which takes ten to seventy times as long; at
thousands of rows a second that was a third of all work.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any


def write_arrays(rows: Iterable[Sequence[Any]]) -> tuple[str, ...]:
    """Write each column of *rows*, of which there is at least one, as an array."""
    return tuple(map(write_array, zip(*rows, strict=True)))


def write_array(values: Sequence[Any]) -> str:
    """
    Write texts, times, numbers or booleans, and nothing but one kind of them.

    >>> write_array([7, 8]), write_array(["a", 'b"c'])
    ('{7,8}', '{"a","b\\\\"c"}')
    """
    if not values:
        return "{}"
    if isinstance(values[0], str):
        return _write_texts(values)
    if isinstance(values[0], datetime):
        values = [value.isoformat() for value in values]
    return f"{{{','.join(map(str, values))}}}"


def _write_texts(values: Sequence[str]) -> str:
    joined = '","'.join(values)
    # Hardly any column has a text with a sign that has to be marked.
    if "\\" in joined or joined.count('"') != 2 * (len(values) - 1):
        joined = '","'.join(value.replace("\\", "\\\\").replace('"', '\\"') for value in values)
    return f'{{"{joined}"}}'
