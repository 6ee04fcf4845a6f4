"""
SourcePool: which egress source the next message leaves from.

Smooth weighted round robin: at each choice every usable source gains its weight, the one with the
most is taken and pays the sum of the weights. One pool serves the whole agent, so that queues of a
few messages add up to the weights as well.
"""

from collections.abc import Callable, Mapping


class SourcePool:
    """Sources by weight; a source of weight 0 is never chosen."""

    __slots__ = ("_credit", "_weights")

    def __init__(self, weights: Mapping[str, int]) -> None:
        self._weights = {name: weight for name, weight in weights.items() if weight > 0}
        self._credit = dict.fromkeys(self._weights, 0)

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources that can be chosen at all."""
        return tuple(self._weights)

    def choose(self, is_usable: Callable[[str], bool]) -> str | None:
        """
        The source for the next message, or None while none is usable. One that is not usable
        neither gains nor pays, so it does not catch up with a burst afterwards.
        """
        usable = [name for name in self._weights if is_usable(name)]
        if len(usable) < 2:
            # Alone it pays what it gains.
            return usable[0] if usable else None
        for name in usable:
            self._credit[name] += self._weights[name]
        chosen = max(usable, key=self._credit.__getitem__)
        self._credit[chosen] -= sum(self._weights[name] for name in usable)
        return chosen
