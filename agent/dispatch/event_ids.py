"""Event ids: what a record is known by, so that it counts once however often it is told."""

from collections.abc import Callable
from itertools import count


class EventIds:
    """Makes ids of 32 hexadecimal digits: chance that this maker alone has, and a number."""

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._prefix = f"{random_bits(64):016x}"
        self._numbers = count()

    def next(self) -> str:
        """An id that nothing else has."""
        return f"{self._prefix}{next(self._numbers):016x}"
