"""What the commands of the policy server print for people."""

import asyncio
import sys

import pytest
from sqlalchemy import text

from policy_server.cli.main import run
from policy_server.store.database import Database

_RULES = """
["default"]
connection_limit = 10
consecutive_connection_failures_before_delay = 5

[provider."a provider with a long name"]
match = [{MXSuffix = ".b.example"}]
provider_connection_limit = 5
connection_limit = 3
"""


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", f"sqlite:///{tmp_path}/penstock.db")
    rules = tmp_path / "rules.toml"
    rules.write_text(_RULES)
    assert run(["rules", "import", str(rules)]) == 0


def test_piped_tables_hold_each_row_whole_on_a_line(database, capsys):
    assert run(["explain", "a.example", "--source", "ip-1", "--mx", "mx.b.example"]) == 0

    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "rules: provider a provider with a long name" in rows["provider_connection_limit"]
    assert "10 (rules: default)" in rows["connection_limit"]
    assert "consecutive_connection_failures_before_delay" in rows
    assert "opportunistic_tls_reconnect_on_failed_handshake" in rows


async def test_a_command_says_which_rule_is_refused_and_why(database, tmp_path):
    rules = Database(f"sqlite:///{tmp_path}/penstock.db")
    change = "UPDATE rule_options SET value = '0' WHERE name = 'connection_limit'"
    rules.write_now(lambda connection: connection.execute(text(change)).rowcount)
    rules.close()

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "policy_server.cli.main", "explain", "a.example"),
        *("--source", "ip-1", "--mx", "mx.a.example", "--json"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()

    assert process.returncode == 0
    lines = said.decode().splitlines()
    assert lines
    for line in lines:
        assert "warning policy_server.policy: rule refused block_id=" in line
        assert "option='connection_limit' why=" in line


def test_a_database_in_a_place_that_cannot_be_made_is_told_without_a_traceback(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", f"sqlite:///{tmp_path}/file/penstock.db")

    assert run(["migrate"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
