from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from policy_server.rules.layers import Layer
from policy_server.rules.validity import layers_in_force, next_change

_NOW = datetime(2026, 3, 1, tzinfo=UTC)
_HOUR = timedelta(hours=1)


def _layer(**fields: Any) -> Layer:
    return Layer(id=1, name="base", blocks=(), **fields)


@pytest.mark.parametrize(
    ("fields", "is_in_force", "change"),
    [
        ({}, True, None),
        ({"enabled": False, "valid_from": _NOW + _HOUR}, False, None),
        ({"valid_from": _NOW}, True, None),
        ({"valid_from": _NOW + _HOUR}, False, _NOW + _HOUR),
        ({"valid_until": _NOW}, False, None),
        ({"valid_until": _NOW + _HOUR}, True, _NOW + _HOUR),
        (
            {"valid_from": _NOW + _HOUR, "valid_until": _NOW + 2 * _HOUR},
            False,
            _NOW + _HOUR,
        ),
    ],
)
def test_layer_is_in_force_within_its_validity(fields, is_in_force, change):
    layer = _layer(**fields)

    assert bool(layers_in_force([layer], _NOW)) is is_in_force
    assert next_change([layer], _NOW) == change
