"""
Counts: what a provider saw of its clients, and whether any limit was exceeded.

Everything offered is counted, what was refused too: a limit holds for what a client does, not for
what the provider lets it do. Time is an argument, in nanoseconds.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from agent.sink.meter import RateMeter, SinkRate, SlidingSecond


@dataclass(slots=True, kw_only=True)
class Tally:
    """Counts of one client address, or of a provider as a whole."""

    messages: RateMeter | None = None
    connections: RateMeter | None = None
    max_connections: int | None = None
    max_messages_per_connection: int | None = None
    open_connections: int = 0
    peak_connections: int = 0
    total_connections: int = 0
    most_messages_per_connection: int = 0
    messages_offered: int = 0
    messages_accepted: int = 0
    recipients_accepted: int = 0
    #: Replies of 4xx and 5xx given, whatever the command.
    deferred: int = 0
    refused: int = 0
    #: Commands sent where RFC 2920 demands to wait for a reply.
    protocol_violations: int = 0
    busiest_second: SlidingSecond = field(default_factory=SlidingSecond)

    def open(self, now: int) -> tuple[bool, bool]:
        """Count a connection; whether the number open and the rate of opening are allowed."""
        self.open_connections += 1
        self.total_connections += 1
        self.peak_connections = max(self.peak_connections, self.open_connections)
        fits = self.max_connections is None or self.open_connections <= self.max_connections
        return fits, self.connections is None or self.connections.arrive(now)

    def close(self) -> None:
        """Count the end of a connection."""
        self.open_connections -= 1

    def message(self, now: int, *, on_connection: int) -> tuple[bool, bool]:
        """Count a message offered, the n-th on its connection; whether number and rate allow it."""
        self.messages_offered += 1
        self.busiest_second.arrive(now)
        self.most_messages_per_connection = max(self.most_messages_per_connection, on_connection)
        limit = self.max_messages_per_connection
        fits = limit is None or on_connection <= limit
        return fits, self.messages is None or self.messages.arrive(now)

    def accept(self, recipients: int) -> None:
        """Count a message accepted for *recipients* of them."""
        self.messages_accepted += 1
        self.recipients_accepted += recipients

    def reply(self, code: int) -> None:
        """Count a negative reply."""
        self.deferred += 400 <= code < 500
        self.refused += code >= 500

    def exceeded(self) -> list[str]:
        """Name every limit that was exceeded, in a sentence each."""
        sentences = []
        for name, limit, seen in (
            ("connections", self.max_connections, self.peak_connections),
            (
                "messages on one connection",
                self.max_messages_per_connection,
                self.most_messages_per_connection,
            ),
        ):
            if limit is not None and seen > limit:
                sentences.append(f"{seen} {name}, limit {limit}")
        for name, meter in (("messages", self.messages), ("connections", self.connections)):
            if meter is not None and meter.exceeds:
                rate = _rate_text(meter.rate)
                sentences.append(f"{name} exceeded {rate} by {meter.excess:.2f} in some window")
        return sentences

    def as_json(self) -> dict[str, Any]:
        """Put the counts in a JSON-ready form."""
        return {
            "connections": {
                "open": self.open_connections,
                "peak": self.peak_connections,
                "limit": self.max_connections,
                "total": self.total_connections,
                "rate": _meter_json(self.connections),
            },
            "messages_per_connection": {
                "most": self.most_messages_per_connection,
                "limit": self.max_messages_per_connection,
            },
            "messages_offered": self.messages_offered,
            "messages_accepted": self.messages_accepted,
            "busiest_second": self.busiest_second.peak,
            "message_rate": _meter_json(self.messages),
            "recipients_accepted": self.recipients_accepted,
            "deferred": self.deferred,
            "refused": self.refused,
            "protocol_violations": self.protocol_violations,
            "exceeded": self.exceeded(),
        }


@dataclass(slots=True, kw_only=True)
class Identities:
    """Which (message, recipient) pairs were accepted, and how often; at most *most* of them."""

    most: int
    seen: Counter[str] = field(default_factory=Counter)
    #: Pairs not kept because there was no room.
    dropped: int = 0

    def add(self, message_id: str, recipient: str) -> None:
        """Count one acceptance."""
        key = f"{message_id} {recipient}"
        if key in self.seen or len(self.seen) < self.most:
            self.seen[key] += 1
        else:
            self.dropped += 1

    @property
    def duplicates(self) -> int:
        """Acceptances beyond the first of each pair."""
        return self.seen.total() - len(self.seen)


def _rate_text(rate: SinkRate) -> str:
    return f"{rate.count} per {rate.period / 10**9:g} s (burst {rate.burst})"


def _meter_json(meter: RateMeter | None) -> dict[str, Any] | None:
    if meter is None:
        return None
    return {"limit": _rate_text(meter.rate), "excess": round(meter.excess, 6)}
