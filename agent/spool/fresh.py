"""
Fresh messages: what was stored a moment ago is still in memory, so that its first delivery need not
read it from disk. The disk has it all; what does not fit here is read from there.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from agent.queue.entry import Entry
from agent.spool.messages import NewMessage, SpooledMessage

#: Most octets of bodies that are kept.
MOST_BYTES = 32 * 1024 * 1024
#: A body that is a larger part of all is not kept: it would drive out too many others.
_LARGEST_PART = 64
#: What an entry costs besides its body, about.
_OVERHEAD = 1024


class FreshMessages:
    """Messages by entry, each handed out once; the oldest go where there are too many."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._by_entry: OrderedDict[int, SpooledMessage] = OrderedDict()
        #: Octets that are kept, a body counted once for each entry.
        self.size = 0

    def add(self, messages: Iterable[NewMessage], entries: Sequence[Entry]) -> None:
        """Keep *messages*, which became *entries*: one for each destination, in order."""
        ids = iter(entries)
        for message in messages:
            for destination in message.destinations:
                entry = next(ids)
                if len(message.body) > self._most_bytes // _LARGEST_PART:
                    continue
                self._keep(
                    SpooledMessage(
                        entry_id=entry.id,
                        message_id=message.id,
                        sender=message.sender,
                        recipients=destination.recipients,
                        body=message.body,
                        is_plain=message.is_plain,
                        created=message.created,
                        tenant=message.tenant,
                        campaign=message.campaign,
                        reception_protocol=message.reception_protocol,
                    )
                )

    def take(self, entry_id: int) -> SpooledMessage | None:
        """Hand a message out and keep it no longer; None: read it from disk."""
        message = self._by_entry.pop(entry_id, None)
        if message is not None:
            self.size -= _size(message)
        return message

    def _keep(self, message: SpooledMessage) -> None:
        self._by_entry[message.entry_id] = message
        self.size += _size(message)
        while self.size > self._most_bytes:
            _, oldest = self._by_entry.popitem(last=False)
            self.size -= _size(oldest)


def _size(message: SpooledMessage) -> int:
    return len(message.body) + _OVERHEAD
