import json
import os
import signal
import smtplib
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from agent.cli.sink import sink

_RUN = [sys.executable, "-c", "from agent.cli.sink import sink; sink()"]
_CONFIG = """
[dns]
mx = {"p.example" = [[10, "mx.p.example"]]}
[[provider]]
name = "p"
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "sink.toml"
    path.write_text(_CONFIG)
    return path


def _run_to_end(path: Path) -> "subprocess.CompletedProcess[str]":
    """Run the whole command line, which says what went wrong."""
    program = "from agent.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", program, "sink", "--config", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _read_json(path: Path) -> dict[str, Any]:
    """Wait, as a person would, until the report is there."""
    for _ in range(1000):
        if path.exists():
            break
        subprocess.run(["sleep", "0.01"], check=True)
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_sink_runs_until_sigterm_and_reports(config, tmp_path):
    report = tmp_path / "report.json"
    command = [*_RUN, "--config", str(config), "--report", str(report), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            places = json.loads(process.stdout.readline())
            host, _, port = places["providers"]["p"][0].rpartition(":")
            with smtplib.SMTP(host, int(port)) as client:
                client.sendmail("a@b.c", ["x@p.example"], "Message-ID: <1@x>\r\n\r\nhello\r\n")
            os.kill(process.pid, signal.SIGUSR1)
            early = _read_json(report)
        finally:
            process.terminate()
        assert process.wait(20) == 0

    assert places["dns"]
    assert places["http"]
    for found in (early, _read_json(report)):
        assert found["providers"]["p"]["accepted"] == {"1@x x@p.example": 1}


def test_check_reads_the_configuration_only(config):
    result = CliRunner().invoke(sink, ["--config", str(config), "--check"])

    assert result.exit_code == 0
    assert result.stdout == f"{config}: ok\n"


def test_mistakes_are_said_without_a_traceback(tmp_path):
    path = tmp_path / "sink.toml"
    path.write_text('[sink]\nsed = 1\n[[provider]]\nname = "p"\nlisten = ["x"]\n')

    result = _run_to_end(path)

    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["penstock-agent"] * 2
    assert 'did you mean "seed"?' in result.stderr


def test_address_that_can_not_be_had_is_said(tmp_path):
    path = tmp_path / "sink.toml"
    path.write_text('[[provider]]\nname = "p"\nlisten = ["203.0.113.1:2525"]\n')

    result = _run_to_end(path)

    assert result.returncode == 1
    assert result.stderr.startswith("penstock-agent: ")
    assert "203.0.113.1" in result.stderr
    assert "Traceback" not in result.stderr
