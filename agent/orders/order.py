"""
Order: an operator's word that some mail is held or bounces, until a time.

An order is meant for mail that agrees with every part of its scope that is not empty; an order
without any is meant for all mail. No input or output, no clock.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from agent.queue.names import QueueName


class QueueScope(NamedTuple):
    """
    What an order is limited to, or what is known of some mail. An empty part limits nothing; of
    mail it is a part that it lacks, or that is not decided yet.
    """

    queue_name: str = ""
    #: Of the recipients.
    domain: str = ""
    #: Whose MX hosts take the mail.
    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""
    egress_source: str = ""
    path_name: str = ""

    @property
    def needs_path(self) -> bool:
        """Whether it is about the way that mail takes, which only its choice decides."""
        return bool(self.egress_source or self.path_name)

    def covers(self, mail: "QueueScope") -> bool:
        """Whether *mail* agrees with every part."""
        return all(limit in ("", part) for limit, part in zip(self, mail, strict=True))


def scope_of_queue(queue: QueueName, *, source: str = "", path_name: str = "") -> QueueScope:
    """What is known of a queue's mail; *source* and *path_name* once its way is chosen."""
    return QueueScope(
        queue_name=str(queue),
        domain=queue.domain,
        routing_domain=queue.next_domain,
        tenant=queue.tenant,
        campaign=queue.campaign,
        egress_source=source,
        path_name=path_name,
    )


class OrderKind(StrEnum):
    """What an order does."""

    SUSPEND = "suspend"
    BOUNCE = "bounce"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """An order that is to be given."""

    kind: OrderKind
    scope: QueueScope
    #: For people, on one line.
    reason: str
    #: Seconds since the epoch.
    create_time: float
    expire_time: float
    #: What it bounces makes no record.
    is_silent: bool = False
    #: Chosen by the client; empty: none.
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order(NewOrder):
    """An order that was given."""

    order_id: int

    @property
    def action_id(self) -> int:
        """The key of the order among those in force."""
        return self.order_id
