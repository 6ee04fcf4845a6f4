"""
Two starts have one host only where the first is over when the second begins: they hold the same
lock on the same machine.
"""

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from agent.leases.host import find_machine, name_host
from agent.leases.starts import FILE_NAME, Start, count_start
from agent.spool.lock import lock_file, take_lock


class Machine:
    """A machine, as far as it says who it is."""

    def __init__(self, root: Path, *, machine_id: str = "", boot: str = "", pid: str = "") -> None:
        self.root = root
        for path, text in (
            ("etc/machine-id", machine_id),
            ("proc/sys/kernel/random/boot_id", boot),
        ):
            place = root / path
            place.parent.mkdir(parents=True)
            if text:
                place.write_text(f"{text}\n")
        (root / "proc/self/ns").mkdir(parents=True)
        if pid:
            os.symlink(f"pid:[{pid}]", root / "proc/self/ns/pid")

    def name(self, start: Start, data_dir: Path, *, machine: str = "", seed: int = 1, **environ):
        found = find_machine(machine, environ=environ, root=self.root)
        return name_host(start, lock_file(data_dir), found, Random(seed))


_FIRST = "4026531836"


def _start(directory: Path, seed: int = 1) -> Start:
    os.close(take_lock(directory))
    return count_start(directory / FILE_NAME, 1000.0, Random(seed))


def test_a_machine_is_the_same_whenever_it_was_booted(tmp_path: Path) -> None:
    data = tmp_path / "data"
    before = Machine(tmp_path / "1", machine_id="m1", boot="b1", pid=_FIRST)
    after = Machine(tmp_path / "2", machine_id="m1", boot="b2", pid=_FIRST)
    other = Machine(tmp_path / "3", machine_id="m2", boot="b3", pid=_FIRST)

    host = before.name(_start(data), data)

    assert after.name(_start(data), data) == host
    # A disk that went to another machine may have left a process behind.
    assert other.name(_start(data), data) != host


def test_another_directory_or_a_copy_is_another_host(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "root", machine_id="m1", boot="b1", pid=_FIRST)
    one, other, copy = (tmp_path / name for name in ("one", "other", "copy"))
    host = machine.name(_start(one), one)
    shutil.copytree(one, copy)

    assert machine.name(_start(other, seed=2), other) != host
    assert machine.name(_start(copy), copy) != host

    # A copy in its place, as two containers see theirs, is locked by itself.
    one.rename(tmp_path / "away")
    shutil.copytree(tmp_path / "away", one)
    assert machine.name(_start(one), one) != host

    # Who has used the directory before may still run.
    shutil.rmtree(one)
    assert machine.name(_start(one, seed=3), one) != host


@pytest.mark.parametrize(
    ("pid", "environ", "sign"),
    [
        pytest.param("4026532301", {}, "", id="a pid namespace"),
        pytest.param("", {}, "", id="nothing is known of it"),
        pytest.param(_FIRST, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", id="Kubernetes"),
        pytest.param(_FIRST, {"container": "podman"}, "", id="a manager that says so"),
        pytest.param(_FIRST, {}, ".dockerenv", id="Docker"),
        pytest.param(_FIRST, {}, "run/.containerenv", id="Podman"),
        pytest.param(_FIRST, {}, "run/systemd/container", id="systemd"),
    ],
)
def test_a_container_has_a_host_for_as_long_as_the_machine_runs(
    tmp_path: Path, pid: str, environ: dict[str, str], sign: str
) -> None:
    data = tmp_path / "data"
    here = Machine(tmp_path / "1", machine_id="image", boot="b1", pid=pid)
    again = Machine(tmp_path / "2", machine_id="image", boot="b1", pid=pid)
    there = Machine(tmp_path / "3", machine_id="image", boot="b2", pid=pid)
    if sign:
        for machine in (here, again, there):
            (machine.root / sign).parent.mkdir(parents=True, exist_ok=True)
            (machine.root / sign).touch()

    host = here.name(_start(data), data, **environ)

    assert again.name(_start(data), data, **environ) == host
    assert there.name(_start(data), data, **environ) != host
    named = [one.name(_start(data), data, machine="node-7", **environ) for one in (here, there)]
    assert named[0] == named[1] != host


@pytest.mark.parametrize("machine_id", ["", "uninitialized", "\xfc"])
def test_without_anything_that_names_it_each_start_is_elsewhere(
    tmp_path: Path, machine_id: str
) -> None:
    machine, data = Machine(tmp_path / "root", machine_id=machine_id, pid=_FIRST), tmp_path / "data"

    names = {machine.name(_start(data), data, seed=number) for number in range(10)}

    assert len(names) == 10


def test_a_host_here_is_a_name_that_the_server_takes(tmp_path: Path) -> None:
    start, machine = _start(tmp_path / "data"), find_machine("", environ=os.environ)

    names = {
        name_host(start, lock_file(tmp_path / "data"), machine, Random(number))
        for number in range(2)
    }

    [name] = names
    assert len(name) == 16
    assert set(name) <= set("0123456789abcdef")
