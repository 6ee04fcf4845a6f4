"""
Waits: what mail waits for, as values for people and programs, and the plain words for each.

What is decided elsewhere is only told here. No input or output; times are arguments.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from agent.dispatch.holds import MailHold


class WaitReason(StrEnum):
    """Why mail waits."""

    RETRY = "retry"
    ACTION = "action"
    ORDER = "order"
    MX = "mx"
    POLICY = "policy"
    READY_QUEUE_FULL = "ready_queue_full"
    SELECTION_RATE = "selection_rate"
    MESSAGE_RATE = "message_rate"
    CONNECTION_RATE = "connection_rate"
    CONNECTION_LIMIT = "connection_limit"
    LEASE = "lease"
    SPOOL = "spool"
    SOURCE = "source"
    CONNECTING = "connecting"
    TURN = "turn"
    UNDER_WAY = "under_way"


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueWait:
    """One thing that mail waits for."""

    reason: WaitReason
    #: In plain words, on one line.
    text: str
    #: When it ends by itself, seconds since the epoch; None: not known.
    until: float | None = None
    #: Of the action or the order that holds; 0: neither.
    id: int = 0
    #: Empty: whichever.
    source: str = ""


SPOOL = QueueWait(
    reason=WaitReason.SPOOL,
    text="the spool can't be written, so nothing more is sent until it can",
)
UNDER_WAY = QueueWait(
    reason=WaitReason.UNDER_WAY, text="it is being sent, or its outcome is being stored"
)


def held(hold: MailHold, *, source: str = "", what: str = "it") -> QueueWait:
    """*what* is held by an action or an order."""
    if hold.is_fault:
        text = f"{what} waits, for the source can't be used: {hold.reason}"
        return QueueWait(reason=WaitReason.SOURCE, text=text, until=hold.until, source=source)
    reason, number = WaitReason.ACTION, hold.action_id
    by = f"action {number} of the policy server"
    if not number:
        reason, number = WaitReason.ORDER, hold.order_id
        by = f"order {number} of an operator" if number else "an operation on the queues"
    because = f": {hold.reason}" if hold.reason else ""
    until = None if hold.until == float("inf") else hold.until
    return QueueWait(
        reason=reason,
        text=f"{what} is held by {by}{because}",
        until=until,
        id=number,
        source=source,
    )


def retry(attempts: int, due: float) -> QueueWait:
    """The time of the next attempt has not come."""
    if not attempts:
        return QueueWait(reason=WaitReason.RETRY, text="its first attempt is later", until=due)
    times = "once" if attempts == 1 else f"{attempts} times"
    text = f"it was put off {times}; the next attempt is later"
    return QueueWait(reason=WaitReason.RETRY, text=text, until=due)


def soon() -> QueueWait:
    """Due, but put off for a moment: mail comes faster than it can be looked at, or it failed."""
    return QueueWait(reason=WaitReason.TURN, text="it is due, and is looked at within a minute")


def mx_lookup(domain: str) -> QueueWait:
    """The way is being looked up."""
    return QueueWait(reason=WaitReason.MX, text=f"the MX hosts of {domain} are being looked up")


def policy_unknown(domain: str, source: str, until: float | None) -> QueueWait:
    """How the path may be used is not known."""
    text = f"how mail to {domain} may leave from {source} is being asked of the policy server"
    if until is not None:
        text = (
            f"how mail to {domain} may leave from {source} is not known, and the policy server "
            "does not answer"
        )
    return QueueWait(reason=WaitReason.POLICY, text=text, until=until, source=source)


def ready_queue_full(path_name: str, max_ready: int, source: str) -> QueueWait:
    """There is no room on the path."""
    text = f"the ready queue of {path_name} is full (max_ready {max_ready})"
    return QueueWait(reason=WaitReason.READY_QUEUE_FULL, text=text, source=source)


def selection_rate(source: str, rates: Mapping[str, object], until: float | None) -> QueueWait:
    """The source may not be chosen yet."""
    text = f"source {source} may not be chosen yet ({_listed(rates)})"
    return QueueWait(reason=WaitReason.SELECTION_RATE, text=text, until=until, source=source)


def message_rate(rates: Mapping[str, object], until: float | None) -> QueueWait:
    """The path's messages are paced."""
    text = f"the message rate is used up ({_listed(rates)})"
    return QueueWait(reason=WaitReason.MESSAGE_RATE, text=text, until=until)


def connection_rate(rates: Mapping[str, object], until: float | None) -> QueueWait:
    """The path's connections are paced."""
    text = f"the connection rate is used up ({_listed(rates)})"
    return QueueWait(reason=WaitReason.CONNECTION_RATE, text=text, until=until)


def connection_limit(name: str, limit: int) -> QueueWait:
    """No further connection may be opened."""
    text = f"all connections that may be open are open ({name}: {limit})"
    return QueueWait(reason=WaitReason.CONNECTION_LIMIT, text=text)


def lease(key: str, limit: int, *, lent: int, since: float | None = None) -> QueueWait:
    """No more is lent of a limit that agents share than *lent* units; *since* epoch seconds."""
    text = f"no more is lent to this agent of a limit that the fleet shares ({key}: "
    text += f"{lent} of {limit})"
    if since is not None:
        text += f", since {datetime.fromtimestamp(since, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return QueueWait(reason=WaitReason.LEASE, text=text)


def connecting(site_name: str, failures: int) -> QueueWait:
    """A connection is on its way."""
    text = f"a connection to {site_name} is being opened"
    if failures:
        times = "once" if failures == 1 else f"{failures} times in a row"
        text += f"; it failed {times} before"
    return QueueWait(reason=WaitReason.CONNECTING, text=text)


def turn(path_name: str, queued: int) -> QueueWait:
    """Other mail of the path goes first."""
    text = f"it is in the ready queue of {path_name}, which holds {queued}; others go first"
    return QueueWait(reason=WaitReason.TURN, text=text)


def due_turn() -> QueueWait:
    """Due and free to go, but not looked at yet."""
    return QueueWait(reason=WaitReason.TURN, text="it is due; other mail is looked at first")


def _listed(rates: Mapping[str, object]) -> str:
    return ", ".join(f"{name}: {rate}" for name, rate in rates.items())
