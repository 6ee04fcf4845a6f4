"""What goes into the spool and comes out of it."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from agent.delivery.record import Record, Response
from agent.queue.entry import Entry

#: No id is larger.
LAST_ENTRY = 2**63 - 1


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """The recipients of a message that go to one scheduled queue."""

    queue_name: str
    recipients: tuple[str, ...]


class NewMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message that was received and is to be made safe."""

    id: str
    sender: str
    destinations: tuple[Destination, ...]
    body: bytes
    #: Every line ends with CRLF and none begins with a dot, as is known: it is sent as it is.
    is_plain: bool = False
    #: Seconds since the epoch.
    created: float
    tenant: str = ""
    campaign: str = ""
    #: "ESMTP", "gRPC" or "DSN".
    reception_protocol: str = ""


class SpooledMessage(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery needs of one entry."""

    entry_id: int
    message_id: str
    sender: str
    #: Recipients still to do.
    recipients: tuple[str, ...]
    body: bytes
    #: Every line ends with CRLF and none begins with a dot, as is known: it is sent as it is.
    is_plain: bool = False
    created: float
    tenant: str = ""
    campaign: str = ""
    reception_protocol: str = ""


class LastReply(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """What put an entry off, for people."""

    response: Response
    #: Seconds since the epoch.
    time: float
    #: The host that said it; empty: none did.
    peer: str = ""


class Settlement(msgspec.Struct, frozen=True, kw_only=True):
    """What a delivery attempt changes; written in one transaction with its records."""

    entry_id: int
    #: Recipients still to do; empty: the entry is finished and removed.
    remaining: tuple[str, ...]
    due: float = 0.0
    attempts: int = 0
    #: What happened; records of reported types are put in the outbox.
    records: tuple[Record, ...] = ()
    #: Small messages that this brings about: stored with it, or neither is.
    new_messages: tuple[NewMessage, ...] = ()
    #: Kept with what remains; None: what was kept before stays.
    last_reply: LastReply | None = None


class StoredEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry as it is on disk."""

    entry_id: int
    queue_name: str
    #: Recipients still to do.
    recipients: tuple[str, ...]
    #: Seconds since the epoch.
    due: float
    attempts: int
    last_reply: LastReply | None = None


class StoredMessage(msgspec.Struct, frozen=True, kw_only=True):
    """A message as it is on disk, without its body."""

    id: str
    sender: str
    #: Seconds since the epoch.
    created: float
    tenant: str
    campaign: str
    reception_protocol: str
    #: Of the body, in octets.
    size: int
    entries: tuple[StoredEntry, ...]


class Move(msgspec.Struct, frozen=True, kw_only=True):
    """An entry that is to wait in another queue."""

    entry_id: int
    queue_name: str
    #: Seconds since the epoch.
    due: float


class PendingRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record in the outbox."""

    seq: int
    record: Record


class Spool(Protocol):
    """
    Mail and outcomes, safe on disk. What a method returns is there only after what it changed is
    durable; concurrent calls share one transaction and one fsync. What `add` and `settle` were
    given is written even if nobody waits for it. Errors: `SpoolUnavailable`.
    """

    def add(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Entry]]:
        """Store *messages*; return one entry a destination, due at once, in order."""

    async def load(self, entry_id: int) -> SpooledMessage | None:
        """Read what a delivery needs; None if the entry is finished."""

    def settle(self, settlements: Sequence[Settlement]) -> asyncio.Future[list[Entry]]:
        """
        Strike delivered recipients, set due times, write records and store new messages, all in
        one transaction; return the entries of the new messages. Repeated, it stores none twice.
        """

    async def postpone(self, due_by_entry: Sequence[tuple[int, float]]) -> None:
        """Set new due times without using an attempt."""

    async def rebind(self, moves: Sequence[Move]) -> list[StoredMessage]:
        """
        Put entries into other queues, all of them or none; return each that is here, in order, as
        a message with that one entry.
        """

    async def find(self, message_id: str) -> StoredMessage | None:
        """Look a message up; None: it is not here, or all its entries are finished."""

    async def entries(
        self, after: int = 0, up_to: int = LAST_ENTRY, limit: int = LAST_ENTRY
    ) -> list[Entry]:
        """
        Entries with their due times and attempts, oldest first: at most *limit* with an id above
        *after* and at most *up_to*.
        """

    async def pending_records(self, after_seq: int, limit: int) -> list[PendingRecord]:
        """The next records of the outbox, oldest first."""

    async def forget_records(self, seqs: Sequence[int]) -> None:
        """Remove these records from the outbox: they are safe elsewhere."""
