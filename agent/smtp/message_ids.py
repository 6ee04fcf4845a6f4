"""Ids of messages: unique on every host, and in the order of arrival where sorted as text."""

from collections.abc import Callable

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80
#: Ten bits each, as an id has 26 characters of five.
_PAIRS = tuple(first + second for first in _DIGITS for second in _DIGITS)
_SHIFTS = tuple(range(120, -1, -10))


class MessageIds:
    """
    Makes ids of 26 characters: milliseconds since the epoch, then random bits. Within one
    millisecond the bits are counted up from the last id, so that the order holds there too.
    """

    def __init__(self, random_bits: Callable[[int], int]) -> None:
        self._random_bits = random_bits
        self._last = 0

    def next(self, now: float) -> str:
        """An id that sorts after every one before it; *now* in seconds since the epoch."""
        milliseconds = int(now * 1000)
        if milliseconds > self._last >> _RANDOM_BITS:
            self._last = milliseconds << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        else:
            self._last += 1
        return "".join([_PAIRS[self._last >> shift & 1023] for shift in _SHIFTS])
