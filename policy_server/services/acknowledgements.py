"""
What one client was sent and has acknowledged, what it refused, and how far it has come.

1. An acknowledgement holds for its response and all before it; a nonce counts once.
2. What is refused counts as not applied until a later response that replaces it is acknowledged,
   or until the client does not watch it any more.
3. A response *completes* a revision if nothing that concerns the client was left out of it and of
   those before it. The client has applied that revision once it has acknowledged the response
   while nothing is refused.

Pure; times are the caller's.
"""

from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

#: What a resource is known by: the name of a path, or the number of an action.
ResourceKey = str | int
#: Numbers of actions, and nonces, have fewer digits.
_MOST_DIGITS = 18
_NONE: frozenset[ResourceKey] = frozenset()


class SentResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response that is to be acknowledged."""

    nonce: int
    at: float
    keys: frozenset[ResourceKey]
    #: What the client has applied once it acknowledges; 0: more is to follow.
    completes: int
    #: When the change that it tells of was heard of; None if it tells of none.
    since: float | None


class Acknowledgements:
    """The window of one stream; memory is bounded by it and by what the client watches."""

    def __init__(self) -> None:
        self._sent: deque[SentResponse] = deque()
        self._nonce = 0
        self._refused: set[ResourceKey] = set()
        #: Up to which revision the client has applied all that concerns it.
        self.applied = 0

    @property
    def waiting(self) -> int:
        """How many responses wait to be acknowledged."""
        return len(self._sent)

    @property
    def oldest_at(self) -> float | None:
        """When the oldest of them was sent."""
        return self._sent[0].at if self._sent else None

    @property
    def refused(self) -> frozenset[ResourceKey]:
        """What is refused and was not replaced since."""
        return frozenset(self._refused)

    def note_sent(
        self,
        at: float,
        keys: frozenset[ResourceKey] = _NONE,
        *,
        completes: int = 0,
        since: float | None = None,
    ) -> int:
        """Note a response; return its nonce."""
        self._nonce += 1
        self._sent.append(
            SentResponse(nonce=self._nonce, at=at, keys=keys, completes=completes, since=since)
        )
        return self._nonce

    def note_current(self, revision: int) -> None:
        """Nothing is left to be sent that *revision* has: the client has it if all was applied."""
        if not self._sent and not self._refused:
            self.applied = max(self.applied, revision)

    def hear(
        self, nonce: str, rejected: Iterable[str] = (), *, is_refusal: bool = False
    ) -> tuple[SentResponse, ...]:
        """
        Take in an acknowledgement; return the responses that it is the first one of.

        A refusal that names nothing is one of everything in its response.
        """
        number = _read_number(nonce)
        if number is None or number > self._nonce:
            return ()
        heard = []
        while self._sent and self._sent[0].nonce <= number:
            heard.append(self._sent.popleft())
        if not heard:
            return ()
        for sent in heard:
            self._refused -= sent.keys
        if is_refusal:
            self._refused |= _choose(heard[-1].keys, rejected)
        if not self._refused:
            for sent in heard:
                self.applied = max(self.applied, sent.completes)
        return tuple(heard)

    def forget(self, keys: frozenset[ResourceKey]) -> None:
        """The client does not watch these any more, or asks for them anew."""
        self._refused -= keys
        for index, sent in enumerate(self._sent):
            if not keys.isdisjoint(sent.keys):
                self._sent[index] = replace(sent, keys=sent.keys - keys)

    def begin_anew(self) -> None:
        """Revisions and actions of before are of another past; what is known of paths stays."""
        self.applied = 0
        self._refused = {key for key in self._refused if isinstance(key, str)}
        self._sent = deque(
            replace(sent, completes=0, keys=frozenset(k for k in sent.keys if isinstance(k, str)))
            for sent in self._sent
        )


def _choose(keys: frozenset[ResourceKey], rejected: Iterable[str]) -> frozenset[ResourceKey]:
    """Choose those of *keys* that *rejected* names; all of them where it names nothing."""
    names: set[ResourceKey] = set(rejected)
    if not names:
        return keys
    numbers = {number for name in names if (number := _read_number(str(name))) is not None}
    return keys & (names | numbers)


def _read_number(text: str) -> int | None:
    if not text.isdecimal() or len(text) > _MOST_DIGITS:
        return None
    return int(text)
