"""
ActionSet: suspensions, bounces or orders, found by the mail that they hold for.

An action holds for mail that agrees with every part of its scope that is not empty. Actions are
kept by *which* parts those are, and then by the parts themselves. So a look costs one look into a
dictionary for each combination of parts in use, of which there are few, however many actions
there are. No input or output and no clock: time is an argument.
"""

import math
from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar


class InForce(Protocol):
    """Something that holds for some mail until a time."""

    @property
    def action_id(self) -> int:
        """Its key."""

    @property
    def scope(self) -> tuple[str, ...]:
        """The mail that it holds for, by parts; an empty one limits nothing."""

    @property
    def expire_time(self) -> float:
        """When it ends, seconds since the epoch; infinity: never."""


A = TypeVar("A", bound=InForce)

#: Places of the parts of a scope that are not empty.
_Places = tuple[int, ...]
_Parts = tuple[str, ...]

#: A heap of up to this many ends is left as it is, those of gone actions and all.
_SMALL_HEAP = 1024


class ActionSet(Generic[A]):
    """The actions of one kind that are in force."""

    def __init__(self, capacity: int) -> None:
        """Hold at most *capacity* actions."""
        self._capacity = capacity
        self._by_id: dict[int, A] = {}
        self._by_scope: dict[_Places, dict[_Parts, dict[int, A]]] = {}
        #: Ends and ids, those of gone or changed actions among them.
        self._ends: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[A]:
        return iter(self._by_id.values())

    def get(self, action_id: int) -> A | None:
        """Return the action, if it is held."""
        return self._by_id.get(action_id)

    def put(self, action: A) -> bool:
        """Add or replace; False if there is no room."""
        if action.action_id not in self._by_id and len(self._by_id) >= self._capacity:
            return False
        self.remove(action.action_id)
        self._by_id[action.action_id] = action
        places, parts = _file_under(action.scope)
        by_parts = self._by_scope.setdefault(places, {})
        by_parts.setdefault(parts, {})[action.action_id] = action
        if action.expire_time < math.inf:
            heappush(self._ends, (action.expire_time, action.action_id))
            self._tidy()
        return True

    def remove(self, action_id: int) -> bool:
        """Remove the action; False if it was not held."""
        gone = self._by_id.pop(action_id, None)
        if gone is None:
            return False
        places, parts = _file_under(gone.scope)
        by_parts = self._by_scope[places]
        del by_parts[parts][action_id]
        if not by_parts[parts]:
            del by_parts[parts]
        if not by_parts:
            del self._by_scope[places]
        return True

    def of(self, mail: tuple[str, ...], now: float) -> A | None:
        """Return what is in force for *mail* at *now*, the one that ends last."""
        last: A | None = None
        for places, by_parts in self._by_scope.items():
            for action in by_parts.get(tuple([mail[place] for place in places]), {}).values():
                if now < action.expire_time and (
                    last is None or action.expire_time > last.expire_time
                ):
                    last = action
        return last

    def pop_ended(self, now: float) -> list[A]:
        """Remove and return those whose time is over."""
        ended = []
        while self._ends and self._ends[0][0] <= now:
            item = heappop(self._ends)
            if self._is_current(item):
                ended.append(self._by_id[item[1]])
                self.remove(item[1])
        return ended

    def next_end(self) -> float:
        """Return when the next one ends; else infinity."""
        while self._ends and not self._is_current(self._ends[0]):
            heappop(self._ends)
        return self._ends[0][0] if self._ends else math.inf

    def _is_current(self, item: tuple[float, int]) -> bool:
        held = self._by_id.get(item[1])
        return held is not None and held.expire_time == item[0]

    def _tidy(self) -> None:
        if len(self._ends) > max(_SMALL_HEAP, 2 * len(self._by_id)):
            self._ends = [
                (held.expire_time, held.action_id)
                for held in self._by_id.values()
                if held.expire_time < math.inf
            ]
            heapify(self._ends)


def _file_under(scope: tuple[str, ...]) -> tuple[_Places, _Parts]:
    """
    Tell the parts of *scope* that are not empty, and where in it they are.

    >>> _file_under(("", "", "foo.com", "acme"))
    ((2, 3), ('foo.com', 'acme'))
    """
    places = tuple(place for place, part in enumerate(scope) if part)
    return places, tuple(scope[place] for place in places)
