"""Work: an entry in the hands of a session, and what became of its recipients so far."""

from collections.abc import Sequence

import msgspec

from agent.delivery import internal
from agent.delivery.batches import RecipientBatches
from agent.delivery.classify import RecipientResult, Result, result_of
from agent.delivery.envelope import is_sendable, wire_form
from agent.delivery.plan import Candidate
from agent.delivery.record import Response
from agent.dispatch.settling import Way
from agent.queue.entry import Entry
from agent.queue.names import QueueName
from agent.spool.messages import SpooledMessage


class Work(msgspec.Struct, kw_only=True):
    """One attempt to deliver an entry."""

    entry: Entry
    queue: QueueName
    message: SpooledMessage
    batches: RecipientBatches
    content: bytes
    is_8bit: bool
    #: What no further transaction of this attempt will change.
    results: list[RecipientResult]
    #: Over which connection.
    way: Way
    #: Where the message was sent to in this attempt.
    tried: set[Candidate]

    @property
    def put_off(self) -> tuple[str, ...]:
        """Recipients that this attempt leaves for another."""
        transient = [each.recipient for each in self.results if each.result is Result.TRANSIENT]
        return (*transient, *self.batches.waiting)


def begin_work(entry: Entry, queue: QueueName, message: SpooledMessage, way: Way) -> Work:
    """Begin an attempt; recipients that no command can name have their result at once."""
    unsendable = [each for each in message.recipients if not is_sendable(each)]
    return Work(
        entry=entry,
        queue=queue,
        message=message,
        batches=RecipientBatches(
            [each for each in message.recipients if each not in unsendable]
            if unsendable
            else message.recipients
        ),
        content=wire_form(message.body, is_plain=message.is_plain),
        is_8bit=not message.body.isascii(),
        results=give_all(unsendable, internal.UNSENDABLE_ADDRESS),
        way=way,
        tried=set(),
    )


def give_all(recipients: Sequence[str], response: Response) -> list[RecipientResult]:
    """Give every recipient the same response."""
    return [
        RecipientResult(recipient=each, result=result_of(response), response=response)
        for each in recipients
    ]
