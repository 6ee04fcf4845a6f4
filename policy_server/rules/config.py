"""A resolution as the `EgressPathConfig` that clients get."""

import functools
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from penstock.v1.egress_path_pb2 import EgressPathConfig
from policy_server.rules.catalogue import Kind, Option, build_catalogue
from policy_server.rules.resolve import Merged, Resolution, built_in_options
from policy_server.rules.values import Limit, OptionValue, Rate, Secret


def to_config(resolution: Resolution | Merged) -> EgressPathConfig:
    """Make the config of what was resolved: a field for each option that has a value."""
    config = EgressPathConfig()
    # Most options are left at their defaults, which a copy sets faster than one by one.
    config.CopyFrom(_default_config())
    catalogue = build_catalogue().options
    for name, resolved in resolution.changed.items():
        config.ClearField(name)
        _set_field(config, catalogue[name], resolved.value)
    return config


@functools.cache
def _default_config() -> EgressPathConfig:
    """Make the config of nothing but built-in values; not to be changed."""
    config = EgressPathConfig()
    catalogue = build_catalogue().options
    for name, built_in in built_in_options().items():
        _set_field(config, catalogue[name], built_in.value)
    return config


def _set_field(config: EgressPathConfig, option: Option, value: OptionValue) -> None:
    field: Any = getattr(config, option.name)
    match value:
        case Limit():
            _fill_limit(field, value)
        case Rate():
            _fill_rate(field, value)
        case Secret():
            _fill_secret(field, value)
        case timedelta():
            # A span of zero would else leave the field absent.
            field.SetInParent()
            field.FromTimedelta(value)
        case tuple():
            field.SetInParent()
            (field.cidrs if option.kind is Kind.CIDR_LIST else field.values).extend(value)
        case Mapping():
            for key, entry in value.items():
                fill = _fill_limit if isinstance(entry, Limit) else _fill_rate
                fill(field[key], entry)
        case str() if option.choices:
            setattr(config, option.name, option.choices[value])
        case _:
            setattr(config, option.name, value)


def _fill_limit(field: Any, limit: Any) -> None:
    field.value = limit.value
    field.local = limit.local


def _fill_rate(field: Any, rate: Any) -> None:
    field.count = rate.count
    field.period.FromTimedelta(rate.period)
    if rate.max_burst is not None:
        field.max_burst = rate.max_burst
    field.local = rate.local


def _fill_secret(field: Any, secret: Secret) -> None:
    for name in ("path", "key_data", "env"):
        text = getattr(secret, name)
        if text:
            setattr(field, name, text)
