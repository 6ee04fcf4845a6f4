"""The demo, as a user runs it, with a smaller load."""

import subprocess
import sys
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(180)
def test_demo_accounts_for_every_message_and_exceeds_no_limit(tmp_path):
    command = [sys.executable, "-m", "examples.demo", "--messages", "600", "--seconds", "30"]

    done = subprocess.run(
        [*command, "--directory", str(tmp_path / "demo")],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )

    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "600 injected = " in said
    assert "0 still queued" in said
    assert "suspended the path on 2 agents, lifted on 2" in said
    assert "FAIL" not in said
