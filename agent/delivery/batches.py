"""
Batches: the recipients of one entry, divided into transactions.

A peer may find a transaction too full; those recipients go into a further one at once. The first
recipient of a transaction can't be one too many, so each transaction settles at least one and
their number is bounded. A recipient that may only seem to be one too many gets one second try.
"""

from collections.abc import Sequence

from agent.delivery.classify import RecipientResult, Result


class RecipientBatches:
    """Recipients still to be named in a transaction of this attempt."""

    __slots__ = ("_suspected", "_waiting")

    def __init__(self, recipients: Sequence[str]) -> None:
        self._waiting = tuple(recipients)
        self._suspected: frozenset[str] = frozenset()

    @property
    def waiting(self) -> tuple[str, ...]:
        """Recipients that no transaction of this attempt has settled."""
        return self._waiting

    @property
    def suspected(self) -> frozenset[str]:
        """Recipients that have been put back once."""
        return self._suspected

    def peek(self, most: int) -> tuple[str, ...]:
        """The recipients of the next transaction, left in place until they are settled."""
        return self._waiting[: max(1, most)]

    def settle(self, results: Sequence[RecipientResult]) -> list[RecipientResult]:
        """Take out what is settled; return that. Recipients to be sent again stay."""
        settled = [each for each in results if each.result is not Result.AGAIN]
        if len(settled) < len(results):
            again = {each.recipient for each in results if each.result is Result.AGAIN}
            self._suspected |= again
        done = {each.recipient for each in settled}
        self._waiting = tuple([each for each in self._waiting if each not in done])
        return settled
