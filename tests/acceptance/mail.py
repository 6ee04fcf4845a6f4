"""Test mail, sent in over SMTP."""

import asyncio
from email.message import EmailMessage

import aiosmtplib


def build_message(number: int, domain: str, **headers: str) -> EmailMessage:
    """A small message that is known by its number."""
    message = EmailMessage()
    message["From"] = "news@sender.example"
    message["To"] = f"user{number}@{domain}"
    message["Subject"] = f"number {number}"
    message["Message-ID"] = f"<{number}@sender.example>"
    for name, value in headers.items():
        message[name.replace("_", "-")] = value
    message.set_content(f"This is number {number}.\n")
    return message


async def inject(
    port: int,
    count: int,
    *,
    domain: str,
    connections: int = 4,
    start: int = 0,
    host: str = "127.0.0.1",
) -> None:
    """Send *count* messages in over SMTP; every one is acknowledged when this returns."""
    numbers = iter(range(start, start + count))

    async def worker() -> None:
        async with aiosmtplib.SMTP(hostname=host, port=port, timeout=30) as client:
            for number in numbers:
                await client.send_message(build_message(number, domain))

    await asyncio.gather(*(worker() for _ in range(connections)))
