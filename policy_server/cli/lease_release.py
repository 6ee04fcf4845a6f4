"""Ending the leases of an agent that is gone for certain: which of its workers are meant."""

from collections.abc import Collection
from typing import NamedTuple

import click

from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from policy_server.conversions.holders import Holder
from policy_server.errors import InvalidRequest, NotFound

_ANY_INCARNATION = 2**64 - 1


class Ended(NamedTuple):
    """Whose leases have ended, and who was left alone, as it is heard."""

    released: list[Holder]
    heard: list[Holder]


def parse_released(text: str) -> Holder:
    """Read whose leases are to end. Errors: `click.UsageError`."""
    holder = Holder.parse(text)
    if holder.name != text or not holder.agent:
        raise click.UsageError(f'"{text}" is not AGENT, AGENT/WORKER or one of them with @HOST')
    return holder


async def end_leases(
    stub: LimitServiceStub,
    meant: Holder,
    known: Collection[Holder],
    *,
    is_forced: bool,
    timeout: float,
) -> Ended:
    """
    End the leases of all that are *meant*, of those *known* to have any; who is heard is left alone
    unless *is_forced*. Errors: `NotFound` if there is none; `InvalidRequest` if they are all heard;
    `grpc.aio.AioRpcError`.
    """
    ended = Ended([], [])
    for holder in sorted({meant, *(one for one in known if _is_meant(one, meant))}):
        response = await stub.ReleaseSession(
            pb.ReleaseSessionRequest(
                worker=holder.worker,
                host=holder.host,
                incarnation=_ANY_INCARNATION,
                only_silent=not is_forced,
            ),
            timeout=timeout,
            metadata=(("penstock-agent", holder.agent),),
        )
        if response.known:
            (ended.heard if response.heard else ended.released).append(holder)
    if not any(ended):
        raise NotFound(
            f'no worker "{meant.name}" is known to the server; see penstock-server limits'
        )
    if not ended.released:
        names = ", ".join(holder.name for holder in ended.heard)
        raise InvalidRequest(
            f"{names}: heard a moment ago, and so left alone; stop it and ask again after 15 s, or "
            "end its leases all the same with --force"
        )
    return ended


def _is_meant(holder: Holder, meant: Holder) -> bool:
    """Whether one is meant: who names no worker or host means all."""
    return (
        holder.agent == meant.agent
        and meant.worker in ("", holder.worker)
        and meant.host in ("", holder.host)
    )
