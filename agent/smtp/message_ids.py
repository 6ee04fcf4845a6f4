"""Ids of messages: unique on every host, and in the order of arrival where sorted as text."""

from collections.abc import Callable

_DIGITS = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80


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
        fresh = int(now * 1000) << _RANDOM_BITS | self._random_bits(_RANDOM_BITS)
        is_later = fresh >> _RANDOM_BITS > self._last >> _RANDOM_BITS
        self._last = fresh if is_later else self._last + 1
        number, digits = self._last, []
        for _ in range(26):
            digits.append(_DIGITS[number & 31])
            number >>= 5
        return "".join(reversed(digits))
