"""
Provider: what one simulated mailbox provider decides at each step of a client's session.

Pure but for its own state: time is an argument (nanoseconds of a steady clock) and chance comes
from a generator given at the start. Every client address has its own tally; so has the provider as
a whole. Limits are checked in the order: connections open, connection rate, messages on one
connection, message rate; the first one exceeded gives the reply.
"""

import random
import re
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.sink.counts import Identities, Tally
from agent.sink.meter import RateMeter
from agent.sink.settings import Limits, Misbehaviour, Provider, PushBack

#: Greylisted triples and client addresses remembered, oldest forgotten first.
_MOST_REMEMBERED = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedMessage:
    """One message that was accepted."""

    client: str
    sender: str
    recipients: tuple[str, ...]
    content: bytes


@dataclass(slots=True, kw_only=True)
class Connection:
    """One client's connection, as the provider knows it."""

    client: str
    messages: int = 0
    is_open: bool = True


@dataclass(slots=True)
class _Window:
    push_back: PushBack
    start: int | None
    tallies: dict[str, Tally] = field(default_factory=dict)

    def covers(self, now: int) -> bool:
        return self.start is not None and self.start <= now < self.start + self.push_back.duration


class ProviderState:
    """One provider at work."""

    def __init__(
        self, settings: Provider, *, chance: random.Random, started: int, max_identities: int
    ) -> None:
        """Begin at *started*, with *chance* deciding latency and probabilities."""
        self.settings = settings
        self.identities = Identities(most=max_identities)
        self.total = _tally(settings.limits, client=False)
        self.clients: dict[str, Tally] = {}
        self.messages: deque[ReceivedMessage] = deque(maxlen=settings.keep_messages)
        self._chance = chance
        self._started = started
        self._first_message: int | None = None
        self._windows = [_Window(push_back, None) for push_back in settings.push_back]
        self._first_seen: dict[tuple[str, str, str], int] = {}
        self._schedule("start", started)

    def connect(self, client: str, now: int) -> tuple[Connection, str | None]:
        """Count a new connection; with it the reply that refuses it, if any."""
        if client not in self.clients and len(self.clients) >= _MOST_REMEMBERED:
            idle = next(key for key, tally in self.clients.items() if not tally.open_connections)
            del self.clients[idle]
        self.clients.setdefault(client, _tally(self.settings.limits, client=True))
        verdicts = [tally.open(now) for tally in self._tallies(client)]
        limits = self.settings.limits
        reply = _first_refusal(verdicts, limits.connections_reply, limits.connection_rate_reply)
        for window in self._lowered(now):
            lowered = window.push_back.limits or limits
            verdict = self._lowered_connect(window, lowered, client=client, now=now)
            reply = reply or _first_refusal(
                verdict, lowered.connections_reply, lowered.connection_rate_reply
            )
        return Connection(client=client), reply and self._fill(reply, client)

    def disconnect(self, connection: Connection) -> None:
        """Count the end of a connection; a second time changes nothing."""
        if connection.is_open:
            connection.is_open = False
            for tally in self._tallies(connection.client):
                tally.close()

    def begin_message(self, connection: Connection, now: int) -> str | None:
        """Count a message offered (MAIL); the reply that refuses it, if any."""
        if self._first_message is None:
            self._first_message = now
            self._schedule("first_message", now)
        connection.messages += 1
        number = connection.messages
        client = connection.client
        verdicts = [t.message(now, on_connection=number) for t in self._tallies(client)]
        limits = self.settings.limits
        reply = _first_refusal(verdicts, limits.messages_reply, limits.rate_reply)
        for window in self._lowered(now):
            lowered = window.push_back.limits or limits
            tallies = self._window_tallies(window, lowered, client)
            verdicts = [t.message(now, on_connection=number) for t in tallies]
            reply = reply or _first_refusal(verdicts, lowered.messages_reply, lowered.rate_reply)
        return reply and self._fill(reply, client)

    def judge_recipient(
        self, connection: Connection, *, sender: str, recipient: str, now: int
    ) -> str | None:
        """The reply to a recipient that is not simply welcome: its pattern's, or greylisting's."""
        for rule in self.settings.recipient:
            if re.search(rule.pattern, recipient) and self._happens(rule.probability):
                return self._fill(rule.reply, connection.client, recipient)
        greylist = self.settings.greylist
        if greylist is None or not re.search(greylist.recipients, recipient):
            return None
        triple = (connection.client, sender, recipient)
        if triple not in self._first_seen:
            if len(self._first_seen) >= _MOST_REMEMBERED:
                del self._first_seen[next(iter(self._first_seen))]
            self._first_seen[triple] = now
            return self._fill(greylist.reply, connection.client, recipient)
        if now < self._first_seen[triple] + greylist.delay:
            return self._fill(greylist.reply, connection.client, recipient)
        return None

    def accept(self, connection: Connection, message_id: str, message: ReceivedMessage) -> None:
        """Count a message taken over, under its identity."""
        for tally in self._tallies(connection.client):
            tally.accept(len(message.recipients))
        for recipient in message.recipients:
            self.identities.add(message_id, recipient)
        self.messages.append(message)

    def count_reply(self, connection: Connection, code: int) -> None:
        """Count a negative reply."""
        for tally in self._tallies(connection.client):
            tally.reply(code)

    def count_violation(self, connection: Connection) -> None:
        """Count a command sent without waiting where it must."""
        for tally in self._tallies(connection.client):
            tally.protocol_violations += 1

    def push_back(self, stage: str, client: str, now: int) -> str | None:
        """The reply of a push-back in force at *stage*, if any."""
        for window in self._windows:
            given = window.push_back
            if given.reply is not None and given.at == stage and window.covers(now):
                return self._fill(given.reply, client)
        return None

    def is_pushing_back(self, now: int) -> bool:
        """Whether a push-back is in force."""
        return any(window.covers(now) for window in self._windows)

    def add_push_back(self, push_back: PushBack, now: int) -> None:
        """Push back from *now* + its `after`; forgets those that are over."""
        self._windows = [
            window
            for window in self._windows
            if window.start is None or now < window.start + window.push_back.duration
        ]
        self._windows.append(_Window(push_back, now + push_back.after))

    def misbehaviour(self, stage: str) -> Misbehaviour | None:
        """What it does wrong at *stage*, if anything."""
        for given in self.settings.misbehave:
            if given.at == stage and self._happens(given.probability):
                return given
        return None

    def latency(self) -> float:
        """Seconds to wait before an answer that takes work."""
        least, most = self.settings.latency
        return self._chance.uniform(least, most) / 10**9 if most else 0.0

    def _happens(self, probability: float) -> bool:
        return probability >= 1 or self._chance.random() < probability

    def _fill(self, reply: str, client: str, recipient: str = "") -> str:
        for name, value in (
            ("{ip}", client),
            ("{provider}", self.settings.name),
            ("{recipient}", recipient),
        ):
            reply = reply.replace(name, value)
        return reply

    def _schedule(self, since: str, now: int) -> None:
        for window in self._windows:
            if window.start is None and window.push_back.since == since:
                window.start = now + window.push_back.after

    def _tallies(self, client: str) -> tuple[Tally, Tally]:
        return self.clients[client], self.total

    def _lowered(self, now: int) -> Iterable[_Window]:
        return (w for w in self._windows if w.push_back.limits is not None and w.covers(now))

    def _window_tallies(self, window: _Window, limits: Limits, client: str) -> tuple[Tally, Tally]:
        for key, is_client in ((client, True), ("", False)):
            if key not in window.tallies:
                window.tallies[key] = _tally(limits, client=is_client)
        return window.tallies[client], window.tallies[""]

    def _lowered_connect(
        self, window: _Window, limits: Limits, *, client: str, now: int
    ) -> list[tuple[bool, bool]]:
        verdicts = []
        tallies = self._window_tallies(window, limits, client)
        for lowered, tally in zip(tallies, self._tallies(client), strict=True):
            # Connections opened before the window count as well.
            lowered.open_connections = tally.open_connections - 1
            verdicts.append(lowered.open(now))
        return verdicts


def _tally(limits: Limits, *, client: bool) -> Tally:
    messages = limits.client_max_message_rate if client else limits.max_message_rate
    connections = limits.client_max_connection_rate if client else limits.max_connection_rate
    return Tally(
        messages=None if messages is None else RateMeter(messages),
        connections=None if connections is None else RateMeter(connections),
        max_connections=limits.client_max_connections if client else limits.max_connections,
        max_messages_per_connection=limits.max_messages_per_connection,
    )


def _first_refusal(
    verdicts: Iterable[tuple[bool, bool]], number_reply: str, rate_reply: str
) -> str | None:
    verdicts = tuple(verdicts)
    if not all(fits for fits, _ in verdicts):
        return number_reply
    if not all(paced for _, paced in verdicts):
        return rate_reply
    return None
