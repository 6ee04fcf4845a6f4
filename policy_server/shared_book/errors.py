"""
Why the shared book can't be used.

    PolicyServerError
    ├── Unavailable
    │   ├── BookLost      Valkey has lost what was in it, or may have
    │   └── BookFenced    the book has been begun anew, and this server does not know it yet
    └── UnfitValkey       change how Valkey is configured
"""

from policy_server.errors import PolicyServerError, Unavailable


class BookLost(Unavailable):
    """The book of limits has been lost and is begun anew; try again."""


class BookFenced(Unavailable):
    """The book of limits has been begun anew by another server; try again."""

    def __init__(self, epoch: int = 0) -> None:
        super().__init__()
        #: The one that is there; 0: not known.
        self.epoch = epoch


class UnfitValkey(PolicyServerError):
    """This Valkey can't keep the book of limits."""

    def __init__(self, why: str) -> None:
        super().__init__(f"limits.state: this Valkey or Redis can't keep the book: {why}")
