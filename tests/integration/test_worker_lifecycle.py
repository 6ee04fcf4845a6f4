"""The whole agent in one process: starts on free ports, answers, stops without losing mail."""

import asyncio
import smtplib
from pathlib import Path

import aiohttp
import grpc

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


def _send(port: int) -> None:
    with smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        client.sendmail("a@b.example", ["c@d.example"], MESSAGE)
