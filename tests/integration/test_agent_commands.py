import asyncio
import contextlib
import json
import socket
import sqlite3
import sys
from pathlib import Path

import aiohttp
import pytest
import trustme

PROGRAM = (sys.executable, "-c", "from agent.cli.main import main; main()")


async def agent(*arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a command to its end; exit status, stdout and stderr."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAM,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "agent.toml"
    path.write_text(
        f"""
        [agent]
        name = "mta-1"
        data_dir = "{tmp_path}/data"
        shutdown_timeout = "1s"
        [policy]
        server = "127.0.0.1:1"
        [listen]
        smtp = "127.0.0.1:0"
        grpc = "127.0.0.1:0"
        http = "127.0.0.1:0"
        [dns]
        nameservers = ["127.0.0.1:1"]
        timeout = "200ms"
        [spool]
        min_free_space = "1KiB"
        """
    )
    return path


async def test_help_shows_the_commands_that_work():
    status, out, _ = await agent("--help")

    assert status == 0
    for command in ("run", "check", "inject", "queue", "sink"):
        assert f"\n  {command} " in out


async def test_the_version_is_told():
    status, out, _ = await agent("--version")

    assert status == 0
    assert out.startswith("penstock-agent, version ")


async def test_check_warns_of_what_the_agent_copes_with(config, monkeypatch):
    monkeypatch.setenv("PENSTOCK_AGENT_MACHINE", "node-7")
    status, out, err = await agent("check", "--json", "--config", str(config))

    assert '{"what": "machine", "level": "ok", "text": "known by agent.machine"}' in out
    levels = {finding["what"]: finding["level"] for finding in json.loads(out)["findings"]}
    assert (status, err) == (0, "")
    assert levels == {
        "configuration": "ok",
        "data_dir": "ok",
        "spool": "ok",
        "machine": "ok",
        "source": "ok",
        "policy_server": "warning",
        "dns": "warning",
    }


@pytest.mark.parametrize(
    ("address", "is_open"), [("0.0.0.0", True), ("[::]", True), ("localhost", False)]
)
async def test_check_warns_of_a_grpc_port_that_others_may_reach(
    config, address, is_open, monkeypatch
):
    place = f"{address}:7360"
    monkeypatch.setenv("PENSTOCK_LISTEN_GRPC", place)

    status, out, _ = await agent("check", "--json", "--config", str(config))

    warnings = [one for one in json.loads(out)["findings"] if one["what"] == "listen"]
    assert status == 0
    assert [one["level"] for one in warnings] == ["warning"] * is_open
    assert all(place in one["text"] for one in warnings)


def use_certificate(config: Path) -> None:
    """Let *config* name a certificate and its key, beside it."""
    issued = trustme.CA().issue_cert("mta.example")
    chain, key = config.with_name("chain.pem"), config.with_name("key.pem")
    chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(key)
    text = config.read_text().replace(
        "[listen]", f'[listen]\ntls_certificate = "{chain}"\ntls_private_key = "{key}"'
    )
    config.write_text(text)


async def test_a_certificate_is_checked_and_used(config):
    use_certificate(config)

    status, out, _ = await agent("check", "--config", str(config))
    assert status == 0
    assert f"ok       tls: STARTTLS with {config.with_name('chain.pem')}" in out

    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "run", "--json", "--config", str(config), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ports = json.loads(await process.stdout.readline())
            reader, writer = await asyncio.open_connection("127.0.0.1", ports["smtp"])
            writer.write(b"EHLO c\r\nQUIT\r\n")
            assert b"STARTTLS" in await reader.read()
            writer.close()
            await writer.wait_closed()
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            await process.communicate()


async def test_a_certificate_that_is_no_good_is_told_without_a_traceback(config):
    use_certificate(config)
    config.with_name("key.pem").write_text("no key")

    status, out, _ = await agent("check", "--config", str(config))
    told = f"listen.tls_private_key: {config.with_name('key.pem')}: holds no private key in PEM"
    assert status == 1
    assert f"error    tls: {told}" in out
    status, out, err = await agent("run", "--log-level", "error", "--config", str(config))
    assert (status, out) == (1, "")
    assert err.startswith(f"penstock-agent: {told}")
    assert "Traceback" not in err


async def test_check_makes_nothing(config, tmp_path):
    _, out, _ = await agent("check", "--config", str(config))

    assert "data_dir: " in out
    assert "spool: none yet, to be made by the first run" in out
    assert list(tmp_path.iterdir()) == [config]


async def test_check_refuses_a_spool_of_another_version(config, tmp_path):
    (tmp_path / "data" / "spool").mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "spool" / "spool.db")) as spool:
        spool.execute("PRAGMA user_version = 99")

    status, out, _ = await agent("check", "--config", str(config))

    assert status == 1
    assert "spool of version 99" in out


async def test_check_fails_for_what_would_keep_the_agent_down(config, tmp_path):
    (tmp_path / "data").write_text("in the way")

    status, out, err = await agent("--config", str(config), "check")

    assert status == 1
    assert "error    data_dir" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("command", ["check", "run"])
async def test_every_mistake_of_the_configuration_is_told(config, command):
    config.write_text('[agent]\nnme = "x"\n[listen]\nsmtp = "nowhere"\n')

    status, out, err = await agent(command, "--config", str(config))

    assert (status, out) == (1, "")
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["penstock-agent"] * 2
    assert "nme" in err
    assert "nowhere" in err
    assert "Traceback" not in err


async def test_wrong_usage_exits_with_2():
    status, _, err = await agent("inject", "-")

    assert status == 2
    assert "--to" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("inject", "--to", "\udcff@a.example", "-"),
        ("inject", "--to", "a@a.example", "--tenant", "\udcff", "-"),
        ("queue", "show", "\udcff"),
        ("queue", "suspend", "--tenant", "\udcff"),
        ("queue", "list", "--domain", "\udcff"),
    ],
    ids=["to", "tenant", "id", "suspended tenant", "domain"],
)
async def test_an_argument_that_is_not_utf_8_is_wrong_usage(arguments):
    status, out, err = await agent(*arguments)

    assert (status, out) == (2, "")
    assert err.startswith("penstock-agent: an argument is not UTF-8: \\xff")


async def test_the_module_runs_as_the_command_does():
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli.main", "--version"), stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, _ = await process.communicate()

    assert (process.returncode, out.split()[0]) == (0, b"penstock-agent,")


async def test_injecting_where_no_agent_listens_fails_without_a_traceback():
    status, out, err = await agent(
        "inject", "--to", "a@foo.example", "--server", "127.0.0.1:1", "-", stdin=b"Subject: x\n\n"
    )

    assert (status, out) == (1, "")
    assert "not taken (1): UNAVAILABLE" in err
    assert "Traceback" not in err


async def test_an_agent_runs_takes_mail_shows_its_state_and_stops(config):
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "run", "--json", "--config", str(config),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ports = json.loads(await process.stdout.readline())

        status, out, err = await agent(
            "inject", "--json", "--from", "x@y.example", "--to", "a@foo.example", "--count", "20",
            "--server", f"127.0.0.1:{ports['grpc']}", "-", stdin=b"Subject: x\r\n\r\nhello\r\n",
        )  # fmt: skip
        assert (status, json.loads(out)["injected"]) == (0, 20), err
        assert len(set(json.loads(out)["message_ids"])) == 20

        async with aiohttp.ClientSession(f"http://127.0.0.1:{ports['http']}") as http:
            async with http.get("/status") as response:
                shown = await response.json()
            async with http.get("/metrics") as response:
                metrics = await response.text()
            async with http.get("/readyz") as response:
                assert response.status == 200
            async with http.get("/healthz") as response:
                assert response.status == 200
        status, out, _ = await agent("check", "--config", str(config))
        assert status == 0
        assert "ok       spool: an agent is running on this spool" in out
        assert shown["agent"] == "mta-1"
        assert shown["suspensions"] == []
        assert shown["policy"]["connected"] is False
        assert 'penstock_agent_policy_staleness{state="expired"} 1.0' in metrics
        assert 'penstock_agent_records_total{provider="",type="Reception"} 20.0' in metrics
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        # The pipe's end is read, so that nothing of it is left open.
        await process.stdout.read()

    _, out, _ = await agent("check", "--config", str(config))
    assert "ok       spool: opens; 20 queued" in out


@pytest.mark.parametrize("port", ["smtp", "grpc", "http"])
async def test_a_port_that_is_taken_is_told_without_a_traceback(config, port):
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        number = taken.getsockname()[1]
        text = config.read_text().replace(
            f'{port} = "127.0.0.1:0"', f'{port} = "127.0.0.1:{number}"'
        )
        config.write_text(text)

        status, out, err = await agent("run", "--log-level", "error", "--config", str(config))

    assert (status, out) == (1, "")
    told = f"penstock-agent: listen.{port} 127.0.0.1:{number}: address already in use"
    assert told in err.splitlines()
    assert "Traceback" not in err


async def test_an_agent_whose_disk_is_nearly_full_says_so_on_every_side(config):
    config.write_text(config.read_text().replace('"1KiB"', '"99.99%"'))
    process = await asyncio.create_subprocess_exec(
        *PROGRAM, "run", "--json", "--config", str(config), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            ports = json.loads(await process.stdout.readline())

        status, _, err = await agent(
            "inject", "--to", "a@foo.example", "--server", f"127.0.0.1:{ports['grpc']}", "-",
            stdin=b"Subject: x\n\n",
        )  # fmt: skip
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{ports['http']}") as http,
            http.get("/readyz") as response,
        ):
            ready = response.status, await response.json()
        reader, writer = await asyncio.open_connection("127.0.0.1", ports["smtp"])
        writer.write(b"EHLO c\r\nMAIL FROM:<a@x.y>\r\nQUIT\r\n")
        replies = (await reader.read()).decode().splitlines()
        writer.close()
        await writer.wait_closed()

        assert status == 1
        assert "UNAVAILABLE: too little free disk space" in err
        assert ready == (
            503,
            {"ready": False, "reasons": ["too little free disk space; try again later"]},
        )
        assert replies[-2] == "452 4.3.1 too little free disk space; try again later"
    finally:
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0
        await process.stdout.read()
