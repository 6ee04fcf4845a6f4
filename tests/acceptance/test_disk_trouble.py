"""A disk that is full, can't be written or fails: mail is put off, nothing is lost or repeated."""

import asyncio
import json
import signal
import smtplib
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import grpc
import pytest

from penstock.v1.injection_service_pb2 import InjectRequest
from penstock.v1.injection_service_pb2_grpc import InjectionServiceStub
from tests.acceptance.crash_world import CrashWorld, Run, crash_world, make_mail, problems
from tests.acceptance.disk_faults import (
    ERRORS,
    filled,
    no_file_grows,
    small_disk,
    switched_on,
)
from tests.acceptance.fleet import fetch, until

#: (data directory, file that switches faults, process) to what makes the disk fail meanwhile.
Trouble = Callable[[Path, Path, int], AbstractContextManager[None]]


@contextmanager
def _full(data: Path, _: Path, __: int) -> Iterator[None]:
    with filled(data):
        yield


def _no_growth(data: Path, _: Path, pid: int) -> AbstractContextManager[None]:
    return no_file_grows(pid, max(1, (data / "spool" / "spool.db-wal").stat().st_size))


def _fault(kind: str) -> Trouble:
    return lambda _, switch, __: switched_on(switch, kind)


_FULL = "a full file system"
_TROUBLES: dict[str, Trouble] = {
    _FULL: _full,
    "files that may not grow": _no_growth,
    **{f"sqlite: {message}": _fault(kind) for kind, (_, message) in ERRORS.items()},
}


@pytest.mark.parametrize("name", _TROUBLES)
async def test_mail_is_put_off_while_the_disk_fails_and_taken_when_it_is_well_again(
    tmp_path: Path, name: str
):
    data, switch = tmp_path / "agent", tmp_path / "fault"
    data.mkdir()
    with ExitStack() as stack:
        if name == _FULL:
            try:
                stack.enter_context(small_disk(data, "24m"))
            except PermissionError as error:
                pytest.skip(str(error))
        async with crash_world(tmp_path, 1) as world, world.agent(faults=switch) as run:
            await world.feed(run, 40)
            ports = await _ports(run)
            with _TROUBLES[name](data, switch, run.pid):
                if name == _FULL:
                    await _is_put_off_or_kept(world, ports)
                else:
                    await _is_put_off(world, ports)
                at_once = len(world.acknowledged)
            await until(lambda: _is_ready(ports), seconds=20, what="ready again by itself")
            await world.feed(run, 20)
            assert len(world.acknowledged) == at_once + 20

            await _end(world, run, ports)
            assert world.repeated() == 0
            assert problems(world) == []


async def test_queued_mail_is_delivered_while_space_is_short_and_no_more_is_taken(tmp_path: Path):
    data = tmp_path / "agent"
    data.mkdir()
    with ExitStack() as stack:
        try:
            stack.enter_context(small_disk(data, "64m"))
        except PermissionError as error:
            pytest.skip(str(error))
        async with (
            crash_world(tmp_path, 1, min_free_space="50%") as world,
            world.agent() as run,
        ):
            ports = await _ports(run)
            await world.feed(run, 60)
            with filled(data, leaving=16 * 2**20):
                await until(lambda: not _is_ready(ports), seconds=10, what="not ready")
                assert await asyncio.to_thread(_send, ports["smtp"], 900) == (
                    452,
                    b"4.3.1 too little free disk space; try again later",
                )
                await world.order_bounce(ports["grpc"])
                await until(lambda: world.is_done(ports), seconds=40, what="the queue delivered")
            await until(lambda: _is_ready(ports), seconds=20, what="ready again by itself")
            await world.feed(run, 10)

            await _end(world, run, ports)
            assert world.repeated() == 0
            assert problems(world) == []


async def _ports(run: Run) -> dict[str, int]:
    ports = await run.ready()
    assert ports is not None, run.output()
    return ports


async def _end(world: CrashWorld, run: Run, ports: dict[str, int]) -> None:
    await world.order_bounce(ports["grpc"])
    await until(lambda: world.is_done(ports), seconds=40, what="all delivered")
    run.signal(signal.SIGTERM)
    assert await run.status(20.0) == 0, run.output()


async def _is_put_off(world: CrashWorld, ports: dict[str, int]) -> None:
    """Mail is refused with 4xx and UNAVAILABLE, in words that say why."""
    for number in (901, 902):
        await _is_refused(ports, number)
    assert not _is_ready(ports)
    assert b"try again later" in _reasons(ports)
    # The rest of the agent goes on: it answers, and the log of what it does is not its end.
    page = fetch(f"http://127.0.0.1:{ports['http']}/status")
    assert page is not None
    assert isinstance(json.loads(page)["queues"], dict)
    assert not {901, 902} & world.acknowledged.keys()


async def _is_refused(ports: dict[str, int], number: int) -> None:
    code, text = await asyncio.to_thread(_send, ports["smtp"], number)
    assert code in (451, 452), text
    assert b"try again later" in text
    status, details = await _inject(ports["grpc"], number)
    assert status is grpc.StatusCode.UNAVAILABLE
    assert "try again later" in details


async def _is_put_off_or_kept(world: CrashWorld, ports: dict[str, int]) -> None:
    """Where space is out, what is large is refused; what is small may fit into what SQLite has."""
    await _is_refused(ports, 900)
    for number in range(901, 911):
        code, text = await asyncio.to_thread(_send, ports["smtp"], number)
        if code == 250:
            world.sent[number] = make_mail(number)
            world.acknowledge(number)
        else:
            assert code in (451, 452), text
            assert b"try again later" in text


def _send(port: int, number: int) -> tuple[int, bytes]:
    """The refusal of a message; (250, …) if there is none."""
    mail = make_mail(number)
    with smtplib.SMTP("127.0.0.1", port, timeout=20) as client:
        try:
            client.sendmail(mail.sender, list(mail.recipients), mail.content)
        except (smtplib.SMTPDataError, smtplib.SMTPSenderRefused) as error:
            return error.smtp_code, bytes(error.smtp_error)
    return 250, b""


async def _inject(port: int, number: int) -> tuple[grpc.StatusCode | None, str]:
    mail = make_mail(number)
    request = InjectRequest(sender=mail.sender, recipients=mail.recipients, content=mail.content)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            await InjectionServiceStub(channel).Inject(request, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code(), error.details() or ""
    return None, ""


def _is_ready(ports: dict[str, int]) -> bool:
    return fetch(f"http://127.0.0.1:{ports['http']}/readyz") is not None


def _reasons(ports: dict[str, int]) -> bytes:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        with error:
            return bytes(error.read())
    return b""
