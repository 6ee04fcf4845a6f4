"""
The catalogue of options, read from `EgressPathConfig` itself.

Names, kinds, defaults and meanings stand in the `.proto` alone; this module turns its descriptor
into `Option`s that know how to parse a value. Nothing here says which block may set an option.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from penstock.v1.egress_path_pb2 import EgressPathConfig
from penstock.v1.option_spec_pb2 import OptionSpec, option_spec
from policy_server.rules import values
from policy_server.rules.nearest import suggest
from policy_server.rules.values import InvalidValueError, OptionValue


class Kind(StrEnum):
    """How a value of an option is spelt and checked; named as in the `.proto`."""

    LIMIT = "KIND_LIMIT"
    RATE = "KIND_RATE"
    COUNT = "KIND_COUNT"
    DURATION = "KIND_DURATION"
    BOOL = "KIND_BOOL"
    STRING = "KIND_STRING"
    ENUM = "KIND_ENUM"
    STRING_LIST = "KIND_STRING_LIST"
    CIDR_LIST = "KIND_CIDR_LIST"
    LIMIT_MAP = "KIND_LIMIT_MAP"
    RATE_MAP = "KIND_RATE_MAP"
    SECRET = "KIND_SECRET"


_PARSERS: Mapping[Kind, Callable[[Any], OptionValue]] = MappingProxyType(
    {
        Kind.LIMIT: values.parse_limit,
        Kind.RATE: values.parse_rate,
        Kind.COUNT: values.parse_count,
        Kind.DURATION: values.parse_duration,
        Kind.BOOL: values.parse_bool,
        Kind.STRING: values.parse_string,
        Kind.STRING_LIST: values.parse_string_list,
        Kind.CIDR_LIST: values.parse_cidr_list,
        Kind.LIMIT_MAP: values.parse_limit_map,
        Kind.RATE_MAP: values.parse_rate_map,
        Kind.SECRET: values.parse_secret,
    }
)
#: Kinds whose default is written as JSON.
_JSON_KINDS = frozenset(
    {Kind.BOOL, Kind.STRING_LIST, Kind.CIDR_LIST, Kind.LIMIT_MAP, Kind.RATE_MAP}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option of the catalogue."""

    name: str
    kind: Kind
    #: In force where no rule sets one; None: no value, or derived.
    default: OptionValue | None
    #: Options whose values add up to the default, if it is derived.
    derived_from: tuple[str, ...]
    unit: str
    meaning: str
    #: Only provider blocks may set it.
    provider_only: bool
    #: Handed on to clients that know it, without effect on our agents.
    passed_through: bool
    #: Spelling of each enum value and its number.
    choices: Mapping[str, int]

    @property
    def is_map(self) -> bool:
        """Whether entries of several blocks merge by key."""
        return self.kind in (Kind.LIMIT_MAP, Kind.RATE_MAP)

    @property
    def is_secret(self) -> bool:
        """Whether a value, even a wrong one, must not be shown."""
        return self.kind is Kind.SECRET

    def parse(self, raw: Any) -> OptionValue:
        """Return the value that *raw* spells; raise `InvalidValueError` saying what is allowed."""
        if self.kind is Kind.ENUM:
            return _parse_choice(raw, self.choices)
        value = _PARSERS[self.kind](raw)
        check = _CHECKS.get(self.name)
        if check is not None:
            check(value)
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All options by name, in the order of the `.proto`."""

    options: Mapping[str, Option]
    #: Built-in values, without the derived ones.
    defaults: Mapping[str, OptionValue]
    #: The three maps whose entries merge by key.
    maps: frozenset[str]
    derived: tuple[Option, ...]


def _parse_choice(raw: Any, choices: Mapping[str, int]) -> str:
    if isinstance(raw, str) and raw in choices:
        return raw
    hint = suggest(raw, choices) if isinstance(raw, str) else ""
    raise InvalidValueError(f"expected one of {', '.join(choices)}{hint}")


def _check_port(value: OptionValue) -> None:
    if isinstance(value, int) and value > 65_535:
        raise InvalidValueError("a port is a number from 1 to 65535")


def _check_ehlo_domain(value: OptionValue) -> None:
    # RFC 5321 4.1.1.1: EHLO takes one domain or address literal.
    if not isinstance(value, str) or not value or not value.isascii() or " " in value:
        raise InvalidValueError("a name to greet with is one host name or address literal")


_CHECKS: Mapping[str, Callable[[OptionValue], None]] = MappingProxyType(
    {"smtp_port": _check_port, "ehlo_domain": _check_ehlo_domain}
)


def _spell_enum(enum_name: str, value_name: str) -> str:
    """
    Turn the proto's name of an enum value into the operators' spelling.

    >>> _spell_enum("EnableTls", "ENABLE_TLS_OPPORTUNISTIC_INSECURE")
    'OpportunisticInsecure'
    """
    # The proto's style rules the prefix: the enum's own name in capitals.
    prefix = "".join(f"_{c}" if c.isupper() else c.upper() for c in enum_name).lstrip("_") + "_"
    return "".join(word.title() for word in value_name.removeprefix(prefix).split("_"))


def _read_choices(field: Any) -> Mapping[str, int]:
    if field.enum_type is None:
        return MappingProxyType({})
    return MappingProxyType(
        {
            _spell_enum(field.enum_type.name, value.name): value.number
            for value in field.enum_type.values
            if value.number != 0
        }
    )


def _read_default(spec: Any, kind: Kind) -> tuple[OptionValue | None, tuple[str, ...]]:
    if not spec.default:
        return None, ()
    if " + " in spec.default:
        return None, tuple(spec.default.split(" + "))
    raw = json.loads(spec.default) if kind in _JSON_KINDS else spec.default
    return (raw if kind is Kind.ENUM else _PARSERS[kind](raw)), ()


def _read_option(field: Any) -> Option:
    spec = field.GetOptions().Extensions[option_spec]
    kind = Kind(OptionSpec.Kind.Name(spec.kind))
    default, derived_from = _read_default(spec, kind)
    return Option(
        name=field.name,
        kind=kind,
        default=default,
        derived_from=derived_from,
        unit=spec.unit,
        meaning=spec.meaning,
        provider_only=spec.provider_only,
        passed_through=spec.passed_through,
        choices=_read_choices(field),
    )


@functools.cache
def build_catalogue() -> Catalogue:
    """Read the catalogue; the same one at every call."""
    options = {field.name: _read_option(field) for field in EgressPathConfig.DESCRIPTOR.fields}
    defaults = {
        name: option.default for name, option in options.items() if option.default is not None
    }
    return Catalogue(
        options=MappingProxyType(options),
        defaults=MappingProxyType(defaults),
        maps=frozenset(name for name, option in options.items() if option.is_map),
        derived=tuple(option for option in options.values() if option.derived_from),
    )
