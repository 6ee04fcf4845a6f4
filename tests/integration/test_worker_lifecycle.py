"""The whole agent in one process: starts on free ports, answers, stops without losing mail."""

import asyncio
import json
import signal
import smtplib
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
import grpc
import pytest

from agent.settings import Settings
from agent.spool.sqlite import SqliteSpool
from agent.worker import open_agent
from penstock.v1.injection_service_pb2 import InjectRequest
from penstock.v1.injection_service_pb2_grpc import InjectionServiceStub

MESSAGE = b"Subject: x\r\n\r\nhello\r\n"


def make_settings(directory: Path) -> Settings:
    free = "127.0.0.1:0"
    return Settings.model_validate(
        {
            "agent": {"data_dir": str(directory), "shutdown_timeout": "2s"},
            "policy": {"server": "127.0.0.1:1"},
            "dns": {"nameservers": ["127.0.0.1:1"], "timeout": "200ms"},
            "listen": {"smtp": free, "grpc": free, "http": free},
            "spool": {"min_free_space": "1 KiB"},
        }
    )


async def test_mail_taken_by_smtp_and_grpc_survives_a_restart(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    async with open_agent(settings) as ports:
        await asyncio.to_thread(_send, ports.smtp)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            request = InjectRequest(sender="a@b.example", recipients=["c@e.example"])
            request.content = MESSAGE
            await InjectionServiceStub(channel).Inject(request)
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{ports.http}/status") as answer,
        ):
            queues = (await answer.json())["queues"]
    assert sum(queues.values()) == 2

    async with open_agent(settings) as ports:
        assert ports.smtp > 0
    spool = await SqliteSpool.open(tmp_path)
    try:
        assert len(await spool.entries()) == 2
    finally:
        await spool.close()


async def test_an_agent_whose_spool_fails_is_not_ready(tmp_path: Path, monkeypatch) -> None:
    async with (
        open_agent(make_settings(tmp_path)) as ports,
        aiohttp.ClientSession(f"http://127.0.0.1:{ports.http}") as http,
    ):
        async with http.get("/readyz") as answer:
            assert answer.status == 200
        monkeypatch.setattr(SqliteSpool, "is_healthy", False)
        async with http.get("/readyz") as answer:
            assert answer.status == 503
            assert (await answer.json())["reasons"] == ["mail can't be stored now; try again later"]


async def test_mail_that_comes_in_is_counted(tmp_path: Path) -> None:
    async with open_agent(make_settings(tmp_path)) as ports:
        await asyncio.to_thread(_send, ports.smtp)
        reader, writer = await asyncio.open_connection("127.0.0.1", ports.smtp)
        writer.write(b"EHLO c\r\nNONSENSE\r\nMAIL FROM:<bad>\r\n")
        while not (await reader.readline()).startswith(b"553"):
            pass
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await InjectionServiceStub(channel).Inject(InjectRequest(sender="bad"))
        await _until_put_off(ports.http)
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{ports.http}/metrics") as answer,
        ):
            lines = (await answer.text()).splitlines()
        writer.close()
        await writer.wait_closed()

    assert {
        "penstock_agent_smtp_connections 1.0",
        "penstock_agent_smtp_accepted_total 2.0",
        'penstock_agent_refusals_total{class="4xx"} 0.0',
        'penstock_agent_refusals_total{class="5xx"} 3.0',
        "penstock_agent_outbox 1.0",
        "penstock_agent_mta_sts_policies 0.0",
        'penstock_agent_mta_sts_lookups_total{result="fetched"} 0.0',
        'penstock_agent_tls_policy_failures_total{policy="mta-sts enforce"} 0.0',
        'penstock_agent_dane_results_total{result="tempfail"} 0.0',
    } <= set(lines)


async def test_calls_beyond_the_bound_are_put_off(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    few = settings.listen.model_copy(update={"max_connections": 2})
    async with (
        open_agent(settings.model_copy(update={"listen": few})) as ports,
        grpc.aio.insecure_channel(f"127.0.0.1:{ports.grpc}") as channel,
    ):
        stub = InjectionServiceStub(channel)
        request = InjectRequest(sender="a@b.example", recipients=["c@e.example"], content=MESSAGE)

        answers = await asyncio.gather(
            *(stub.Inject(request) for _ in range(100)), return_exceptions=True
        )

    refused = [one for one in answers if isinstance(one, grpc.aio.AioRpcError)]
    assert {one.code() for one in refused} == {grpc.StatusCode.UNAVAILABLE}
    assert len(refused) < len(answers)


def _send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        client.sendmail("a@b.example", ["c@d.example"], MESSAGE)


async def test_a_second_signal_ends_the_agent_at_once_and_loses_nothing(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    config.write_text(
        f'''
        [agent]
        data_dir = "{tmp_path}"
        [policy]
        server = "127.0.0.1:1"
        [dns]
        nameservers = ["127.0.0.1:1"]
        timeout = "200ms"
        [listen]
        smtp = "127.0.0.1:0"
        grpc = "127.0.0.1:0"
        http = "127.0.0.1:0"
        [spool]
        min_free_space = "1 KiB"
        '''
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "from agent.cli.main import main; main()",
        "--config", str(config), "run", "--json",
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    ports = json.loads(await process.stdout.readline())
    await asyncio.to_thread(_send, ports["smtp"])
    # An outcome that no server takes: the stop waits for a while to report it.
    await _until_put_off(ports["http"])
    process.send_signal(signal.SIGTERM)
    async for line in process.stderr:
        if b"agent stops" in line:
            break
    begin = time.monotonic()
    process.send_signal(signal.SIGTERM)
    await process.communicate()

    assert time.monotonic() - begin < 1
    assert process.returncode == 1
    spool = await SqliteSpool.open(tmp_path)
    try:
        assert len(await spool.entries()) == 1
    finally:
        await spool.close()


async def _until_put_off(port: int) -> None:
    async with aiohttp.ClientSession() as http, asyncio.timeout(20):
        while True:
            async with http.get(f"http://127.0.0.1:{port}/status") as answer:
                if (await answer.json())["queues"]["scheduled"] == 1:
                    return
            await asyncio.sleep(0.02)
