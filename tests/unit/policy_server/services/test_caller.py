"""Who calls, by the call's metadata."""

from types import SimpleNamespace

import pytest

from policy_server.errors import InvalidRequest
from policy_server.services.caller import read_caller, read_process


def _call(*metadata):
    return SimpleNamespace(invocation_metadata=lambda: metadata)


def test_a_caller_is_who_it_says_it_is():
    call = _call(("penstock-agent", "mta-1"), ("penstock-worker", "worker-1"))

    assert (read_caller(call), read_process(call)) == ("mta-1", "mta-1/worker-1")
    assert read_caller(_call()) == ""


@pytest.mark.parametrize("key", ["penstock-agent", "penstock-worker"])
@pytest.mark.parametrize("name", ["w\0", "a\nb", "\x7f"])
def test_a_name_with_a_control_character_is_refused(key, name):
    with pytest.raises(InvalidRequest) as refused:
        read_caller(_call((key, name)))
    assert refused.value.field == key
