"""People are told once when a worker begins on another host; and what is remembered is bounded."""

import pytest

from policy_server.conversions.holders import Holder
from policy_server.services import limit_hosts
from policy_server.services.limit_hosts import KnownHosts


def _everybody(name: str) -> bool:
    return True


_A, _B = Holder("mta-1", "", "a"), Holder("mta-1", "", "b")


@pytest.mark.parametrize(
    ("heard", "warnings"),
    [
        pytest.param([_A, _A], 0, id="one host"),
        pytest.param([_A, Holder("mta-1", "worker-1", "b")], 0, id="another worker"),
        pytest.param([_A, Holder("mta-2", "", "b")], 0, id="another agent"),
        pytest.param([_A, _B, _A, _B], 1, id="two hosts in turn"),
    ],
)
def test_another_host_is_said_once(heard, warnings, caplog) -> None:
    hosts = KnownHosts(_everybody)

    for holder in heard:
        hosts.note(holder)

    assert len(caplog.records) == warnings


def test_where_everything_was_given_back_there_is_nothing_to_say(caplog) -> None:
    hosts = KnownHosts(_everybody)
    hosts.note(_A)

    hosts.forget(_A)
    hosts.forget(_A)
    hosts.note(_B)

    assert not caplog.records


def test_of_who_was_silent_for_too_long_there_is_nothing_to_say(caplog) -> None:
    seen = {_A.name}
    hosts = KnownHosts(seen.__contains__)
    hosts.note(_A)
    seen.clear()

    hosts.note(_B)
    assert not caplog.records


def test_what_is_remembered_is_bounded(caplog, monkeypatch) -> None:
    monkeypatch.setattr(limit_hosts, "_MOST_WORKERS", 3)
    monkeypatch.setattr(limit_hosts, "_MOST_HOSTS", 2)
    hosts = KnownHosts(_everybody)
    for number in range(5):
        hosts.note(Holder("mta-1", "", f"host-{number}"))
    assert caplog.records[-1].earlier == ["mta-1@host-2", "mta-1@host-3"]

    caplog.clear()
    for number in range(2, 6):
        hosts.note(Holder(f"mta-{number}"))
    hosts.note(_A)
    assert not caplog.records
