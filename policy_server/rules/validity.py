"""When layers are in force."""

from collections.abc import Iterable
from datetime import datetime

from policy_server.rules.layers import Layer


def is_in_force(layer: Layer, now: datetime) -> bool:
    """Whether *layer* is enabled and *now* is within its validity."""
    has_begun = layer.valid_from is None or layer.valid_from <= now
    has_ended = layer.valid_until is not None and layer.valid_until <= now
    return layer.enabled and has_begun and not has_ended


def layers_in_force(layers: Iterable[Layer], now: datetime) -> tuple[Layer, ...]:
    """Return the layers in force at *now*, in their order."""
    return tuple(layer for layer in layers if is_in_force(layer, now))


def next_change(layers: Iterable[Layer], now: datetime) -> datetime | None:
    """Return when `layers_in_force` gives something else by time alone; None: never."""
    times = (
        time
        for layer in layers
        if layer.enabled
        for time in (layer.valid_from, layer.valid_until)
        if time is not None and time > now
    )
    return min(times, default=None)
