"""`penstock-agent inject`: hand a message to a running agent, once or many times."""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from typing import BinaryIO

import click
import grpc

from agent.cli.config import config_option, settings_for
from penstock.v1.injection_service_pb2 import InjectRequest
from penstock.v1.injection_service_pb2_grpc import InjectionServiceStub

_DEADLINE_SECONDS = 30.0
_MOST_REASONS = 10


@dataclass(slots=True)
class _Tally:
    """What became of the messages."""

    message_ids: list[str] = field(default_factory=list)
    failures: int = 0
    reasons: dict[str, int] = field(default_factory=dict)

    def add_failure(self, error: grpc.aio.AioRpcError) -> None:
        """Count a refusal, by its reason as long as these are few."""
        self.failures += 1
        reason = f"{error.code().name}: {error.details()}"
        if reason in self.reasons or len(self.reasons) < _MOST_REASONS:
            self.reasons[reason] = self.reasons.get(reason, 0) + 1


@click.command()
@config_option
@click.option("--to", "recipients", multiple=True, required=True, help="A recipient; repeatable.")
@click.option("--from", "sender", default="", help="The envelope sender; default: none, '<>'.")
@click.option("--tenant", default="", help="Tenant the mail belongs to.")
@click.option("--campaign", default="", help="Campaign the mail belongs to.")
@click.option("--count", type=click.IntRange(min=1), default=1, help="How often it is injected.")
@click.option("--concurrency", type=click.IntRange(1, 1000), default=50, show_default=True,
              help="Most calls at one time.")  # fmt: skip
@click.option("--server", default="", metavar="HOST:PORT", help="Default: listen.grpc.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
@click.argument("message", type=click.File("rb"))
def inject(
    *,
    config_path: str | None,
    recipients: tuple[str, ...],
    sender: str,
    tenant: str,
    campaign: str,
    count: int,
    concurrency: int,
    server: str,
    as_json: bool,
    message: BinaryIO,
) -> None:
    """
    Inject MESSAGE (a file, or - for stdin) into a running agent, by gRPC.

    Prints the agent's id of each message once it is safely on disk. Exit status 1 if any was not
    taken.
    """
    target = server or str(settings_for(config_path).listen.grpc)
    request = InjectRequest(
        sender=sender,
        recipients=recipients,
        content=message.read(),
        tenant=tenant,
        campaign=campaign,
    )
    begun = time.monotonic()
    tally = asyncio.run(_inject(target, request, count=count, concurrency=concurrency))
    _report(tally, seconds=time.monotonic() - begun, as_json=as_json)
    sys.exit(1 if tally.failures else 0)


async def _inject(target: str, request: InjectRequest, *, count: int, concurrency: int) -> _Tally:
    tally = _Tally()
    turns = iter(range(count))
    async with grpc.aio.insecure_channel(target) as channel:
        stub = InjectionServiceStub(channel)

        async def inject_some() -> None:
            for _ in turns:
                try:
                    response = await stub.Inject(request, timeout=_DEADLINE_SECONDS)
                except grpc.aio.AioRpcError as error:
                    tally.add_failure(error)
                else:
                    tally.message_ids.append(response.message_id)

        await asyncio.gather(*(inject_some() for _ in range(min(count, concurrency))))
    return tally


def _report(tally: _Tally, *, seconds: float, as_json: bool) -> None:
    for reason, times in tally.reasons.items():
        click.echo(f"penstock-agent: not taken ({times}): {reason}", err=True)
    taken = len(tally.message_ids)
    if as_json:
        document = {
            "injected": taken,
            "failed": tally.failures,
            "seconds": round(seconds, 3),
            "message_ids": tally.message_ids,
        }
        click.echo(json.dumps(document))
        return
    for message_id in tally.message_ids:
        click.echo(message_id)
    if taken + tally.failures > 1:
        rate = taken / seconds
        click.echo(f"{taken} taken in {seconds:.2f} s, {rate:.0f}/s", err=True)
