"""
Ending the leases of an agent that is gone for certain: which of its workers are meant, and which of
these are still heard.
"""

from collections.abc import Mapping
from datetime import timedelta
from typing import NamedTuple

import click
import grpc

from penstock.v1 import limit_service_pb2 as pb
from penstock.v1.limit_service_pb2_grpc import LimitServiceStub
from policy_server.conversions.holders import Holder
from policy_server.errors import InvalidRequest

#: Who was heard since is not gone: as long as a lease lasts by default.
_SILENT = timedelta(seconds=15)
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
    stub: LimitServiceStub, meant: Holder, known: Mapping[Holder, str], *, timeout: float
) -> Ended:
    """
    End the leases of all that are *meant*; *known* has every worker of that agent that may have
    any, each with the key of one of its limits. Of several those that are heard are left alone.
    Errors: `InvalidRequest` if they all are; `grpc.aio.AioRpcError`.
    """
    found = sorted(holder for holder in known if _is_meant(holder, meant)) or [meant]
    heard = []
    if len(found) > 1:
        heard = [one for one in found if await _is_heard(stub, one, known[one], timeout)]
    if len(heard) == len(found):
        names = ", ".join(holder.name for holder in heard)
        raise InvalidRequest(
            f'"{meant.name}" is heard: {names}; stop it first, or name the one that is gone'
        )
    released = [holder for holder in found if holder not in heard]
    for holder in released:
        await stub.ReleaseSession(
            pb.ReleaseSessionRequest(
                worker=holder.worker, host=holder.host, incarnation=_ANY_INCARNATION
            ),
            timeout=timeout,
            metadata=(("penstock-agent", holder.agent),),
        )
    return Ended(released, heard)


def _is_meant(holder: Holder, meant: Holder) -> bool:
    """Whether one is meant: who names no worker or host means all."""
    return (
        holder.agent == meant.agent
        and meant.worker in ("", holder.worker)
        and meant.host in ("", holder.host)
    )


async def _is_heard(stub: LimitServiceStub, holder: Holder, key: str, timeout: float) -> bool:
    try:
        response = await stub.ListLimits(pb.ListLimitsRequest(key=key), timeout=timeout)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return False
        raise
    for state in response.limits[0].holders:
        if (state.agent, state.worker, state.host) == holder:
            if not state.HasField("silent_for"):
                # It may not have had the time to report to a server that began just now.
                return bool(response.recovering)
            return bool(state.silent_for.ToTimedelta() < _SILENT)
    return False
