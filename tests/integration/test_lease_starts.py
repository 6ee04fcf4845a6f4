"""Every start of a worker has a higher number than those before."""

import json
from pathlib import Path

import pytest

from agent.leases.starts import next_incarnation


def test_each_start_counts_on(tmp_path: Path) -> None:
    file = tmp_path / "starts.json"

    numbers = [next_incarnation(file, 1000.0) for _ in range(3)]

    assert numbers == [1000, 1001, 1002]


def test_a_clock_that_was_set_back_makes_no_start_older(tmp_path: Path) -> None:
    file = tmp_path / "starts.json"
    first = next_incarnation(file, 2000.0)

    assert next_incarnation(file, 1000.0) == first + 1


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"incarnation": "x"}', "null"])
def test_a_lost_or_broken_file_starts_from_the_time(tmp_path: Path, content: str) -> None:
    file = tmp_path / "starts.json"
    file.write_text(content)

    assert next_incarnation(file, 5000.0) == 5000
    assert json.loads(file.read_text()) == {"incarnation": 5000}
