"""
Every start of a worker has a higher number than those before, and than no other process; and it
tells the data directory of each from others.
"""

import json
from pathlib import Path
from random import Random

import pytest

from agent.leases.starts import count_start

#: What a server in Lua, whose numbers are floats, can tell apart.
_MOST = 2**53


def next_incarnation(file: Path, now: float, random: Random) -> int:
    return count_start(file, now, random).incarnation


def test_each_start_counts_on(tmp_path: Path) -> None:
    file = tmp_path / "starts.json"

    numbers = [next_incarnation(file, 1_800_000_000.0, Random(turn)) for turn in range(100)]

    assert numbers == sorted(set(numbers))
    assert numbers[-1] < _MOST


def test_a_clock_that_was_set_back_makes_no_start_older(tmp_path: Path) -> None:
    file = tmp_path / "starts.json"
    first = next_incarnation(file, 2000.0, Random(1))

    assert next_incarnation(file, 1000.0, Random(2)) > first


def test_starts_of_one_second_on_new_disks_differ(tmp_path: Path) -> None:
    numbers = {
        next_incarnation(tmp_path / f"{number}.json", 1_800_000_000.5, Random(number))
        for number in range(20)
    }

    assert len(numbers) == 20


def test_copies_of_one_disk_differ_even_where_the_clock_was_set_back(tmp_path: Path) -> None:
    files = [tmp_path / "one.json", tmp_path / "other.json"]
    next_incarnation(files[0], 2000.0, Random(1))
    files[1].write_bytes(files[0].read_bytes())

    one, other = (next_incarnation(file, 1000.0, Random(file.name)) for file in files)

    assert one != other


def test_a_start_after_those_that_were_counted_in_seconds_is_later(tmp_path: Path) -> None:
    file = tmp_path / "starts.json"
    file.write_text('{"incarnation": 1800000000}')

    assert next_incarnation(file, 1000.0, Random(1)) > 1_800_000_000


def test_a_directory_keeps_what_was_drawn_for_it_and_its_copy_has_the_same(tmp_path: Path) -> None:
    file, other, copy = (tmp_path / name for name in ("starts.json", "other.json", "copy.json"))
    directory = count_start(file, 1000.0, Random(1)).directory
    copy.write_bytes(file.read_bytes())

    assert count_start(file, 2000.0, Random(2)).directory == directory
    assert count_start(copy, 2000.0, Random(3)).directory == directory
    assert count_start(other, 1000.0, Random(4)).directory != directory


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[1]", '{"incarnation": "x"}', "null", '{"incarnation": 9, "directory": null}'],
)
def test_a_lost_or_broken_file_starts_from_the_time(tmp_path: Path, content: str) -> None:
    file = tmp_path / "starts.json"
    lasting = tmp_path / "lasting.json"
    before = next_incarnation(lasting, 4999.0, Random(1))
    file.write_text(content)

    start = count_start(file, 5000.0, Random(1))

    assert before < start.incarnation < next_incarnation(lasting, 5001.0, Random(1))
    assert len(start.directory) == 16
    assert json.loads(file.read_text()) == start._asdict()
