"""Directories whose names outlive a loss of power."""

import os

import pytest

from agent.durable_files import make_directory


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """The paths that are synced, in order."""
    paths: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: paths.append(os.readlink(f"/proc/self/fd/{fd}")))
    return paths


def test_each_directory_that_is_made_is_named_durably(tmp_path, synced):
    make_directory(tmp_path / "a" / "b" / "c")

    assert (tmp_path / "a" / "b" / "c").is_dir()
    assert sorted(synced) == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_one_that_is_there_may_not_be_durable_yet(tmp_path, synced):
    make_directory(tmp_path)

    assert synced == [str(tmp_path.parent)]


def test_where_the_parent_can_not_be_read_everything_is_written_out(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(os, "sync", lambda: calls.append("all"))

    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    make_directory(tmp_path / "a")

    assert calls == ["all"]
