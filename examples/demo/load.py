"""
Load: which messages the demo sends, and how they are handed to the agents.

Every message has one recipient, unlike any other, so that each can be accounted for.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field

import aiosmtplib
import grpc

from examples.demo.layout import AgentPlaces
from penstock.v1.injection_service_pb2 import InjectRequest
from penstock.v1.injection_service_pb2_grpc import InjectionServiceStub

SENDER = "news@sender.example"

#: Share of the mail in percent, and the domains it goes to, by provider.
SHARES = {
    "bigmail": (50, ("bigmail.example", "mymail.example", "bigmail-pro.example")),
    "quickpost": (30, ("quickpost.example", "swift.example")),
    "strictbox": (20, ("strictbox.example", "private.example")),
}
_GONE_PERCENT = 2
_GREY_PERCENT = 10
_SMTP_CONNECTIONS = 4
_RPC_CALLS = 4
_ATTEMPTS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One message of the demo."""

    message_id: str
    recipient: str
    provider: str

    @property
    def is_to_bounce(self) -> bool:
        """Whether the provider knows no such user."""
        return self.recipient.startswith("gone-")

    @property
    def content(self) -> bytes:
        """The message as of RFC 5322."""
        lines = (
            "From: Newsletter <news@sender.example>",
            f"To: <{self.recipient}>",
            "Subject: Water levels of the week",
            f"Message-ID: <{self.message_id}>",
            "Date: Mon, 05 Jan 2026 08:00:00 +0000",
            "",
            "The gates are open.",
            "." + " and so on" * 6,
            "",
        )
        return "\r\n".join(lines).encode()


@dataclass(slots=True)
class Injected:
    """What the agents have taken over."""

    messages: dict[str, Message] = field(default_factory=dict)
    by_smtp: int = 0
    by_rpc: int = 0
    #: Those that no agent took, after every attempt.
    refused: list[str] = field(default_factory=list)


def plan_messages(count: int, *, seed: int) -> list[Message]:
    """Choose *count* messages, mixed over providers and domains."""
    chance = random.Random(seed)
    names = list(SHARES)
    weights = [share for share, _ in SHARES.values()]
    messages = []
    for number, provider in enumerate(chance.choices(names, weights, k=count)):
        domain = chance.choice(SHARES[provider][1])
        kind, roll = "reader", chance.uniform(0, 100)
        if roll < _GONE_PERCENT:
            kind = "gone"
        elif provider == "quickpost" and roll < _GONE_PERCENT + _GREY_PERCENT:
            kind = "grey"
        recipient = f"{kind}-{number:05}@{domain}"
        message_id = f"demo-{number:05}@sender.example"
        messages.append(Message(message_id=message_id, recipient=recipient, provider=provider))
    return messages


async def inject(
    messages: list[Message], agents: tuple[AgentPlaces, ...], injected: Injected, *, seconds: float
) -> None:
    """Hand *messages* to the agents, by SMTP and gRPC alike, spread over *seconds*."""
    pace = _Pace(messages, seconds)
    async with asyncio.TaskGroup() as tasks:
        for agent in agents:
            for _ in range(_SMTP_CONNECTIONS):
                tasks.create_task(_inject_by_smtp(pace, agent, injected))
            tasks.create_task(_inject_by_rpc(pace, agent, injected))


class _Pace:
    """Gives each message to one taker, none before its time."""

    def __init__(self, messages: list[Message], seconds: float) -> None:
        self._messages = iter(enumerate(messages))
        self._interval = seconds / max(1, len(messages))
        self._started = time.monotonic()

    async def take(self) -> Message | None:
        """The next message, when its time has come; None: there are no more."""
        number, message = next(self._messages, (0, None))
        if message is not None:
            due = self._started + number * self._interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
        return message


async def _inject_by_smtp(pace: _Pace, agent: AgentPlaces, injected: Injected) -> None:
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=agent.smtp, use_tls=False, start_tls=False, timeout=30
    )
    try:
        while (message := await pace.take()) is not None:
            for _ in range(_ATTEMPTS):
                try:
                    if not client.is_connected:
                        await client.connect()
                    await client.sendmail(SENDER, [message.recipient], message.content)
                except aiosmtplib.SMTPException:
                    _raise_if_cancelled()
                    await asyncio.sleep(0.5)
                    continue
                injected.by_smtp += 1
                injected.messages[message.message_id] = message
                break
            else:
                injected.refused.append(message.message_id)
    finally:
        client.close()


def _raise_if_cancelled() -> None:
    # aiosmtplib may answer a cancellation with an error of its own.
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def _inject_by_rpc(pace: _Pace, agent: AgentPlaces, injected: Injected) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{agent.grpc}") as channel:
        stub = InjectionServiceStub(channel)
        workers = [_call_inject(stub, pace, injected) for _ in range(_RPC_CALLS)]
        await asyncio.gather(*workers)


async def _call_inject(stub: InjectionServiceStub, pace: _Pace, injected: Injected) -> None:
    while (message := await pace.take()) is not None:
        request = InjectRequest(
            sender=SENDER, recipients=[message.recipient], content=message.content
        )
        for _ in range(_ATTEMPTS):
            try:
                await stub.Inject(request, timeout=30)
            except grpc.aio.AioRpcError:
                await asyncio.sleep(0.5)
                continue
            injected.by_rpc += 1
            injected.messages[message.message_id] = message
            break
        else:
            injected.refused.append(message.message_id)
