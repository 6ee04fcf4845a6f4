"""What the commands of the policy server print for people."""

import pytest

from policy_server.cli.main import run

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


def test_a_database_in_a_place_that_cannot_be_made_is_told_without_a_traceback(
    tmp_path, monkeypatch, capsys
):
    (tmp_path / "file").touch()
    monkeypatch.setenv("PENSTOCK_DATABASE_URL", f"sqlite:///{tmp_path}/file/penstock.db")

    assert run(["migrate"]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
