"""
penstock-server limits: what the fleet shares, how much of it is lent, and to whom.

The book is in the memory of the server that keeps it; the database says which that is.
"""

import json
from collections import Counter
from collections.abc import Collection
from datetime import timedelta
from functools import partial
from typing import Any

import click
import grpc
from google.protobuf.duration_pb2 import Duration
from sqlalchemy import Connection

from penstock.v1 import limit_pb2, limit_service_pb2_grpc
from penstock.v1 import limit_service_pb2 as pb
from policy_server.cli.console import build_table, open_console, plain
from policy_server.cli.lease_release import Ended, end_leases, parse_released
from policy_server.cli.session import (
    Session,
    config_option,
    json_option,
    open_database,
    run_async,
)
from policy_server.conversions.holders import Holder
from policy_server.errors import NotFound, PolicyServerError, Unavailable
from policy_server.rules.values import Rate, format_rate
from policy_server.store.leases import find_holders, read_book

_SECONDS = 10.0
_PAGE = 1000


@click.command()
@click.argument("key", default="")
@click.option(
    "--release",
    "released",
    metavar="AGENT[/WORKER][@HOST]",
    default="",
    help="End all leases of an agent that is gone for certain, or of one of its workers: what it"
    " held is lent to others at once. If it still runs, limits may be exceeded.",
)
@click.option(
    "--force", "is_forced", is_flag=True, help="Release also what has been heard a moment ago."
)
@json_option
@config_option
@click.pass_obj
def limits(session: Session, key: str, released: str, is_forced: bool, as_json: bool) -> None:
    """List the limits that are lent to agents, or one of them with its holders."""
    if key and released:
        raise click.UsageError("give a KEY or --release, not both")
    if is_forced and not released:
        raise click.UsageError("--force goes with --release")
    meant = parse_released(released) if released else None
    with open_database(session.settings()) as database:
        book = database.read_now(read_book)
        if book is None or not book.owner:
            raise Unavailable("no server keeps the book of limits; start penstock-server serve")
        known = database.read_now(partial(_find_workers, meant.agent)) if meant is not None else []
    if meant is not None:
        ended = run_async(_release(book.address, meant, known, is_forced=is_forced))
        if as_json:
            names = [holder.name for holder in ended.released]
            click.echo(json.dumps({"released": released, "workers": names}))
        for holder in ended.released:
            click.echo(f"the leases of {holder.name} have ended", err=True)
        for holder in ended.heard:
            click.echo(f"{holder.name} is heard, and keeps its leases", err=True)
        return
    response = run_async(_list(book.address, key))
    if as_json:
        click.echo(json.dumps(_describe(response, with_holders=bool(key)), indent=1))
        return
    _show(response, with_holders=bool(key))


async def _list(address: str, key: str) -> pb.ListLimitsResponse:
    """Ask for all pages, as one response."""
    whole = pb.ListLimitsResponse()
    async with grpc.aio.insecure_channel(address) as channel:
        stub = limit_service_pb2_grpc.LimitServiceStub(channel)
        while True:
            request = pb.ListLimitsRequest(
                key=key, page_size=_PAGE, page_token=whole.next_page_token
            )
            try:
                page = await stub.ListLimits(request, timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                raise _to_error(error, address) from error
            whole.MergeFrom(page)
            whole.next_page_token = page.next_page_token
            if not page.next_page_token:
                return whole


def _find_workers(agent: str, connection: Connection) -> list[Holder]:
    """Find the workers of an agent that may have leases."""
    names = find_holders(connection, Holder(agent).name)
    return [holder for name in names if (holder := Holder.parse(name)).agent == agent]


async def _release(
    address: str, meant: Holder, known: Collection[Holder], *, is_forced: bool
) -> Ended:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = limit_service_pb2_grpc.LimitServiceStub(channel)
        try:
            return await end_leases(stub, meant, known, is_forced=is_forced, timeout=_SECONDS)
        except grpc.aio.AioRpcError as error:
            raise _to_error(error, address) from error


def _to_error(error: grpc.aio.AioRpcError, address: str) -> PolicyServerError:
    if error.code() is grpc.StatusCode.NOT_FOUND:
        return NotFound(error.details() or "")
    return Unavailable(f"the server at {address}: {error.details()}")


def _show(response: pb.ListLimitsResponse, *, with_holders: bool) -> None:
    if response.recovering:
        click.echo("leases of before a restart are not all accounted for yet", err=True)
    if not response.limits:
        click.echo("no limit is lent now", err=True)
        return
    table = build_table(
        "key", "limit", "units", "booked", "in use", "wanted", "waiting", "holders", "unclaimed",
        "other values", whole=("limit",),
    )  # fmt: skip
    for state in response.limits:
        counts = (
            state.units, state.booked, state.in_use, state.wanted, state.waiting,
            state.holder_count, state.unclaimed, state.disagreeing,
        )  # fmt: skip
        table.add_row(plain(state.key), str(_spell_limit(state)), *map(str, counts))
    open_console().print(table)
    if with_holders:
        _show_holders(response.limits[0])


def _show_holders(state: pb.LimitState) -> None:
    table = build_table(
        "agent", "units", "booked", "floor", "in use", "wants", "held for", "waiting for",
        "last heard", whole=("agent",),
    )  # fmt: skip
    hosts = Counter((holder.agent, holder.worker) for holder in state.holders)
    for holder in state.holders:
        # The host stands there only where there are several.
        host = holder.host if hosts[holder.agent, holder.worker] > 1 else ""
        name = Holder(holder.agent, holder.worker, host).name
        counts = (holder.units, holder.booked, holder.floor, holder.in_use, holder.wants)
        spans = (_spell_span(holder, name) for name in ("held_for", "waiting_for", "silent_for"))
        table.add_row(plain(name), *map(str, counts), *spans)
    open_console().print(table)


def _describe(response: pb.ListLimitsResponse, *, with_holders: bool) -> dict[str, Any]:
    return {
        "server": response.server,
        "epoch": response.epoch,
        "recovering": response.recovering,
        "limits": [
            _describe_limit(state)
            | ({"holders": list(map(_describe_holder, state.holders))} if with_holders else {})
            for state in response.limits
        ],
    }


def _describe_limit(state: pb.LimitState) -> dict[str, Any]:
    kind = limit_pb2.LimitKind.Name(state.kind).removeprefix("LIMIT_KIND_").lower()
    counts = (
        "units", "booked", "in_use", "wanted", "waiting", "holder_count", "unclaimed",
        "disagreeing",
    )  # fmt: skip
    return {
        "key": state.key,
        "kind": kind,
        "limit": _spell_limit(state),
        **{name: getattr(state, name) for name in counts},
    }


def _describe_holder(holder: pb.LimitHolder) -> dict[str, Any]:
    fields = ("agent", "worker", "host", "units", "booked", "floor", "in_use", "wants")
    return {name: getattr(holder, name) for name in fields} | {
        f"{name}_seconds": _to_seconds(holder, name)
        for name in ("held_for", "waiting_for", "silent_for")
    }


def _spell_limit(state: pb.LimitState) -> int | str:
    if not state.HasField("period"):
        return state.limit
    burst = None if state.units == state.limit else state.units
    period = timedelta(seconds=max(1, state.period.seconds))
    return format_rate(Rate(state.limit, period, burst))


def _spell_span(holder: pb.LimitHolder, name: str) -> str:
    seconds = _to_seconds(holder, name)
    return "" if seconds is None else f"{seconds:.1f} s"


def _to_seconds(holder: pb.LimitHolder, name: str) -> float | None:
    if not holder.HasField(name):
        return None
    span: Duration = getattr(holder, name)
    return round(span.seconds + span.nanos / 1e9, 3)
