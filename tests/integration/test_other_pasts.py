"""
A database that was put back to an older state, and a server that knows less than a client does.

Nothing that was taken back may come into force again because a server has not heard of it; what a
backup says is in force as soon as the backup is put back, for who watches as for who comes anew.
"""

import asyncio
import contextlib
import shutil
import sqlite3
from dataclasses import replace
from datetime import UTC, datetime

import grpc
import psycopg
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from sqlalchemy import text
from sqlalchemy.engine import make_url

from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.automation_service_pb2 import CancelActionRequest
from policy_server.services.resume_token import decode_token, encode_token
from policy_server.store.actions import cancel_action
from policy_server.store.database import Database
from policy_server.store.revisions import read_revision, read_stamp
from tests.integration.watching import automation, outcome, serving, write_rules, yahoo

Kind = pb.WatchPolicyResponse


@pytest.fixture
def url(database_url):
    rules = [automation(rf"\[TS0{n}\]", "Suspend", duration=f"{n} hours") for n in (4, 5)]
    write_rules(database_url, yahoo(*rules))
    return database_url


def _administer(url, *statements):
    server = make_url(url).set(database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(server, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@contextlib.contextmanager
def _backup_of(url):
    """Back up the database of a server that does not run; give what puts it back under one."""
    name = str(make_url(url).database)
    if url.startswith("sqlite"):
        shutil.copy(name, f"{name}.backup")

        def put_back():
            with (
                contextlib.closing(sqlite3.connect(f"{name}.backup")) as source,
                contextlib.closing(sqlite3.connect(name, timeout=20)) as target,
            ):
                source.backup(target)

        yield put_back
        return
    _administer(url, f"CREATE DATABASE {name}_backup TEMPLATE {name}")

    def put_back_database():
        _administer(
            url,
            f"DROP DATABASE {name} WITH (FORCE)",
            f"CREATE DATABASE {name} TEMPLATE {name}_backup",
        )

    yield put_back_database
    _administer(url, f"DROP DATABASE {name}_backup WITH (FORCE)")


def _token(watch, **place):
    """A token of another place than where a client is."""
    token = decode_token(watch.token)
    assert token is not None
    return encode_token(replace(token, **place))


@contextlib.contextmanager
def _out_of_sight(url, number):
    """Cancel an action so that no server hears of it, nor of anything else, within."""
    database = Database(url)

    def hide(connection):
        cancel_action(connection, action_id=number, by="test", now=datetime.now(UTC))
        newest = read_revision(connection)
        stamp = read_stamp(connection, newest)
        connection.execute(text("ALTER TABLE policy_revisions RENAME TO out_of_sight"))
        return newest, stamp

    def show(connection):
        connection.execute(text("ALTER TABLE out_of_sight RENAME TO policy_revisions"))

    place = database.write_now(hide)
    try:
        yield place
    finally:
        database.write_now(show)
        database.close()


async def test_who_watches_is_told_when_a_backup_is_put_back(url):
    async with serving(url) as client:
        (kept,) = (await client.report(outcome("e1"))).action_ids
    with _backup_of(url) as put_back:
        async with serving(url) as client, client.watch("yahoo.com") as watch:
            await watch.until(lambda: watch.suspensions and watch.paths and watch.token)
            await client.automation.CancelAction(CancelActionRequest(id=kept))
            (later,) = (await client.report(outcome("e2", "[TS05] deferred"))).action_ids
            await watch.until(lambda: list(watch.suspensions) == [str(later)])
            before, seen, ends = watch.token, len(watch.kinds), watch.ends

            await asyncio.to_thread(put_back)
            await watch.until(lambda: Kind.KIND_RESET in watch.kinds[seen:], 30)
            # It stands for what is held: until the snapshot ends there is nothing to go on from.
            since = watch.kinds.index(Kind.KIND_RESET, seen)
            watch.suspensions.clear()
            await watch.until(lambda: watch.ends > ends)

            assert watch.kinds[since + 1] == Kind.KIND_SNAPSHOT
            assert list(watch.suspensions) == [str(kept)]
            assert decode_token(watch.token).revision < decode_token(before).revision
            # It goes on from there, as do those that come anew, from before and from now.
            await client.automation.CancelAction(CancelActionRequest(id=kept))
            await watch.until(lambda: not watch.suspensions)
            async with client.watch(token=watch.token) as same, client.watch(token=before) as old:
                await same.until(lambda: same.token)
                await old.until(lambda: old.ends)
            assert same.kinds[0] == Kind.KIND_DELTA
            assert old.kinds[0] == Kind.KIND_RESET
            assert not old.suspensions


async def test_a_stream_that_acknowledged_nothing_is_told_as_well(url):
    async with serving(url) as client:
        (kept,) = (await client.report(outcome("e1"))).action_ids
    with _backup_of(url) as put_back:
        async with serving(url) as client, client.watch(acknowledge=False) as watch:
            await watch.until(lambda: watch.suspensions)
            # More than the window takes.
            for n in range(6):
                await client.automation.CancelAction(CancelActionRequest(id=kept))
                (kept,) = (await client.report(outcome(f"again{n}"))).action_ids

            ends = watch.ends
            await asyncio.to_thread(put_back)
            await watch.until(lambda: Kind.KIND_RESET in watch.kinds, 30)
            watch.suspensions.clear()
            await watch.send(ack=pb.WatchAck(nonce=watch.newest_nonce))
            await watch.until(lambda: watch.ends > ends)

            assert list(watch.suspensions) == ["1"]


async def test_a_server_that_knows_less_than_a_client_brings_nothing_back(url):
    async with serving(url) as client, client.watch() as watch:
        (number,) = (await client.report(outcome("e1"))).action_ids
        await watch.until(lambda: watch.suspensions and watch.token)

        with _out_of_sight(url, number) as (revision, stamp):
            # Of another server, which has heard of it.
            newer = _token(watch, revision=revision, stamp=stamp)
            async with client.watch(token=newer) as ahead:
                ahead.stop_acknowledging()
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await ahead.until(lambda: False)
                assert ahead.kinds == []
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
            retry = error_details_pb2.RetryInfo()
            assert rpc_status.from_call(caught.value).details[0].Unpack(retry)
            assert 0 < retry.retry_delay.ToTimedelta().total_seconds() <= 6
            # Who knows nothing is served with what is known here.
            async with client.watch() as fresh:
                await fresh.until(lambda: fresh.suspensions)

        async with client.watch(token=newer) as again:
            await again.until(lambda: again.token)
            assert (again.kinds, again.suspensions) == ([Kind.KIND_DELTA], {})


async def test_a_token_of_more_than_the_database_has_leads_to_a_reset(url):
    async with serving(url) as client, client.watch() as watch:
        await client.report(outcome("e1"))
        await watch.until(lambda: watch.suspensions and watch.token)

        ahead = client.server.policy.revision + 3
        newer = _token(watch, revision=ahead, stamp="other")
        async with client.watch(token=newer) as late:
            await late.until(lambda: late.ends)

            assert late.kinds[:2] == [Kind.KIND_RESET, Kind.KIND_SNAPSHOT]
            assert late.suspensions
