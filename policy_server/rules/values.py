"""
Values of options: how they are spelt in rule files and SQL, and what they mean.

Every `parse_*` function takes a value as TOML or JSON gives it and returns a good value or raises
`InvalidValueError`, whose text says what is wrong and what is allowed. `format_value` is the way
back: it gives the canonical spelling, and parsing that again gives the same value.
Which option takes which kind of value is not decided here (see `catalogue`).
"""

import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from types import MappingProxyType
from typing import Any, TypeVar

#: Largest count that every client can hold (a signed 64-bit integer).
MAX_COUNT = 2**63 - 1
#: Longest span that is taken for a meant one.
MAX_SPAN = timedelta(days=36_525)

_DIGITS = re.compile(r"[0-9][0-9,_]*")
_DURATION_PART = re.compile(r"\s*([0-9]{1,15}(?:\.[0-9]{1,15})?)\s*([A-Za-z]+)\s*,?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_RATE_UNITS = {
    **dict.fromkeys(("s", "sec", "second"), 1),
    **dict.fromkeys(("m", "min", "minute"), 60),
    **dict.fromkeys(("h", "hr", "hour"), 3600),
    **dict.fromkeys(("d", "day"), 86_400),
}
_CANONICAL_PERIODS = {1: "s", 60: "m", 3600: "h", 86_400: "d"}
_SPAN_UNITS = {
    **dict.fromkeys(("us", "usec", "microsecond", "microseconds"), Decimal("0.000001")),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), Decimal("0.001")),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), Decimal(1)),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), Decimal(60)),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), Decimal(3600)),
    **dict.fromkeys(("d", "day", "days"), Decimal(86_400)),
    **dict.fromkeys(("w", "week", "weeks"), Decimal(604_800)),
}
_HIDDEN = "(hidden)"


class InvalidValueError(ValueError):
    """The value is not one of those allowed."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap on how many of something may exist at one time."""

    value: int
    #: Each agent counts for itself instead of sharing the cap with the fleet.
    local: bool = False

    def __post_init__(self) -> None:
        _require_count(self.value, "a limit")


@dataclass(frozen=True, slots=True)
class Rate:
    """A cap on how often something may happen."""

    count: int
    #: The span that count refers to, in whole seconds.
    period: timedelta
    #: How many may come at once after a pause; None: count.
    max_burst: int | None = None
    #: Each agent counts for itself instead of sharing the cap with the fleet.
    local: bool = False

    def __post_init__(self) -> None:
        _require_count(self.count, "the count of a rate")
        if self.max_burst is not None:
            _require_count(self.max_burst, "max_burst")
        if not timedelta() < self.period <= MAX_SPAN or self.period.microseconds:
            raise InvalidValueError("the period of a rate is a number of seconds of at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A reference to a secret: exactly one of a file's path, the secret itself, a variable."""

    path: str = ""
    #: The secret itself; kept out of every text.
    key_data: str = field(default="", repr=False)
    env: str = ""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.path, self.key_data, self.env))) != 1:
            raise InvalidValueError('give a path, {key_data = "..."} or {env = "NAME"}')


OptionValue = (
    int
    | bool
    | str
    | timedelta
    | Limit
    | Rate
    | Secret
    | tuple[str, ...]
    | Mapping[str, Limit]
    | Mapping[str, Rate]
)
_Entry = TypeVar("_Entry", Limit, Rate)


def _require_count(number: int, what: str) -> None:
    if number < 1:
        raise InvalidValueError(f"{what} is at least 1")
    if number > MAX_COUNT:
        raise InvalidValueError(f"{what} is at most {MAX_COUNT}")


def _parse_digits(text: str, what: str) -> int:
    if _DIGITS.fullmatch(text) is None:
        raise InvalidValueError(f'{what} is a whole number such as 100 or "1,000"')
    digits = re.sub("[,_]", "", text)
    if len(digits) > len(str(MAX_COUNT)):
        raise InvalidValueError(f"{what} is at most {MAX_COUNT}")
    return int(digits)


def parse_count(raw: Any) -> int:
    """
    Parse a count: an integer of at least 1, or a text with "," and "_".

    >>> parse_count("1,000")
    1000
    """
    if isinstance(raw, str):
        number = _parse_digits(raw.strip(), "the value")
    elif isinstance(raw, int) and not isinstance(raw, bool):
        number = raw
    else:
        raise InvalidValueError('the value is a whole number such as 100 or "1,000"')
    _require_count(number, "the value")
    return number


def parse_limit(raw: Any) -> Limit:
    """
    Parse a limit: an integer of at least 1, or a text with "," "_" and an optional "local:".

    >>> parse_limit("local:20")
    Limit(value=20, local=True)
    """
    if isinstance(raw, str):
        text = raw.strip()
        return Limit(parse_count(text.removeprefix("local:")), text.startswith("local:"))
    if isinstance(raw, bool) or not isinstance(raw, int):
        raise InvalidValueError('a limit is a whole number such as 10, or "local:10"')
    return Limit(raw)


def parse_rate(raw: Any) -> Rate:
    """
    Parse a rate: "[local:]COUNT/[N]UNIT[,max_burst=B]".

    >>> format_rate(parse_rate("1,000/2hr,max_burst=5"))
    '1000/7200s,max_burst=5'
    """
    if not isinstance(raw, str):
        raise InvalidValueError('a rate is a text such as "100/s" or "5/300s"')
    text = raw.strip()
    local = text.startswith("local:")
    count, slash, rest = text.removeprefix("local:").partition("/")
    if not slash:
        raise InvalidValueError(
            'a rate has a period: write "100/s", "100/min", "100/h" or "5/300s"'
        )
    period, comma, burst = rest.partition(",")
    return Rate(
        _parse_digits(count.strip(), "the count of a rate"),
        _parse_period(period.strip()),
        _parse_burst(burst.strip()) if comma else None,
        local,
    )


def _parse_period(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]*)\s*([A-Za-z]*)", text)
    unit = _RATE_UNITS.get(match[2]) if match else None
    if match is None or unit is None:
        name = match[2] if match and match[2] else text
        raise InvalidValueError(f'unknown unit "{name}", expected s, min, h or day')
    # More digits than this can't be a meant period, and int() has a limit of its own.
    if len(match[1]) > 12:
        raise InvalidValueError("the period of a rate is at most 100 years")
    return _make_span(Decimal(match[1] or 1) * unit)


def _parse_burst(text: str) -> int:
    name, equals, number = (part.strip() for part in text.partition("="))
    if name != "max_burst" or not equals:
        raise InvalidValueError(f'"{text}" after the period is not understood, write max_burst=N')
    return _parse_digits(number, "max_burst")


def parse_duration(raw: Any) -> timedelta:
    """
    Parse a duration: a number of seconds, or a text such as "90m", "1 hour" or "1h30m".

    >>> parse_duration("1h30m")
    datetime.timedelta(seconds=5400)
    """
    if isinstance(raw, str):
        return _parse_span(raw)
    if isinstance(raw, bool) or not isinstance(raw, int | float):
        raise InvalidValueError('a duration is a number of seconds, or a text such as "90s"')
    if not math.isfinite(raw) or raw < 0:
        raise InvalidValueError("a duration is not negative")
    if raw > MAX_SPAN.total_seconds():
        raise InvalidValueError("a duration is at most 100 years")
    return timedelta(seconds=raw)


def _parse_span(text: str) -> timedelta:
    total, position = Decimal(0), 0
    while match := _DURATION_PART.match(text, position):
        unit = _SPAN_UNITS.get(match[2] if len(match[2]) == 1 else match[2].lower())
        if unit is None:
            raise InvalidValueError(f'unknown unit "{match[2]}", expected s, min, h, days or weeks')
        total += Decimal(match[1]) * unit
        position = match.end()
    if position == 0 or position != len(text) or text.rstrip().endswith(","):
        raise InvalidValueError('a duration is a number with a unit: "90s", "1 hour", "1h30m"')
    return _make_span(total)


def _make_span(seconds: Decimal) -> timedelta:
    if seconds > Decimal(MAX_SPAN.total_seconds()):
        raise InvalidValueError("a duration is at most 100 years")
    return timedelta(microseconds=int(seconds * 1_000_000))


def parse_bool(raw: Any) -> bool:
    """Parse true or false."""
    if not isinstance(raw, bool):
        raise InvalidValueError("write true or false, without quotes")
    return raw


def parse_string(raw: Any) -> str:
    """Parse a text without control characters, which could end a line of SMTP."""
    if not isinstance(raw, str):
        raise InvalidValueError("the value is a text in quotes")
    if has_control(raw):
        raise InvalidValueError("the text has a control character such as a line end")
    return raw


def has_control(text: str) -> bool:
    """Whether a text has a control character, such as NUL or a line end."""
    return _CONTROL.search(text) is not None


def parse_string_list(raw: Any) -> tuple[str, ...]:
    """Parse a list of texts."""
    if not isinstance(raw, list | tuple):
        raise InvalidValueError('the value is a list of texts such as ["a", "b"]')
    return tuple(parse_string(entry) for entry in raw)


def parse_cidr_list(raw: Any) -> tuple[str, ...]:
    """Parse a list of addresses and networks."""
    if not isinstance(raw, list | tuple):
        raise InvalidValueError('the value is a list such as ["192.0.2.1", "2001:db8::/32"]')
    return tuple(_parse_cidr(parse_string(entry)) for entry in raw)


def _parse_cidr(text: str) -> str:
    try:
        if "/" not in text:
            return str(ipaddress.ip_address(text))
        return str(ipaddress.ip_network(text))
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise InvalidValueError(f'"{text}" is no IP address or network') from None
    raise InvalidValueError(f'"{text}" has bits set beyond its prefix, write "{meant}"')


def parse_secret(raw: Any) -> Secret:
    """Parse a reference to a secret: a path, {key_data = "..."} or {env = "NAME"}."""
    fields = {"path": raw} if isinstance(raw, str) else raw
    if not isinstance(fields, Mapping) or len(fields) != 1:
        raise InvalidValueError('give a path, {key_data = "..."} or {env = "NAME"}')
    ((name, text),) = fields.items()
    if name not in ("path", "key_data", "env") or not isinstance(text, str):
        raise InvalidValueError('give a path, {key_data = "..."} or {env = "NAME"}')
    if name != "key_data":
        parse_string(text)
    return Secret(**{name: text})


def parse_limit_map(raw: Any) -> Mapping[str, Limit]:
    """Parse a table of named limits."""
    return _parse_map(raw, parse_limit)


def parse_rate_map(raw: Any) -> Mapping[str, Rate]:
    """Parse a table of named rates."""
    return _parse_map(raw, parse_rate)


def _parse_map(raw: Any, parse: Callable[[Any], _Entry]) -> Mapping[str, _Entry]:
    if not isinstance(raw, Mapping):
        raise InvalidValueError("the value is a table of names and values")
    entries = {}
    for name, value in raw.items():
        if not name or _CONTROL.search(name):
            raise InvalidValueError("a name in the table is empty or has a control character")
        try:
            entries[name] = parse(value)
        except InvalidValueError as error:
            raise InvalidValueError(f'"{name}": {error}') from None
    return MappingProxyType(entries)


def format_limit(limit: Limit) -> int | str:
    """Spell a limit: an integer, or "local:20"."""
    return f"local:{limit.value}" if limit.local else limit.value


def format_rate(rate: Rate) -> str:
    """Spell a rate: 100/s 100/m 10000/h 500/d, any other period as 5/300s."""
    seconds = rate.period // timedelta(seconds=1)
    unit = _CANONICAL_PERIODS.get(seconds, f"{seconds}s")
    burst = "" if rate.max_burst is None else f",max_burst={rate.max_burst}"
    return f"{'local:' if rate.local else ''}{rate.count}/{unit}{burst}"


def format_duration(span: timedelta) -> int | float:
    """Spell a duration: seconds, with decimals only where needed."""
    return span.total_seconds() if span.microseconds else span // timedelta(seconds=1)


def format_secret(secret: Secret) -> str | dict[str, str]:
    """Spell a reference to a secret; the secret itself is never spelt out."""
    if secret.path:
        return secret.path
    return {"env": secret.env} if secret.env else {"key_data": _HIDDEN}


def show_secret(raw: Any) -> str | dict[str, str]:
    """Spell a reference to a secret as written, of which all is hidden that may be the secret."""
    try:
        return format_secret(parse_secret(raw))
    except InvalidValueError:
        return _HIDDEN


def format_value(value: OptionValue) -> Any:
    """Spell any value as rule files and `explain` do, made of JSON's types."""
    match value:
        case Limit():
            return format_limit(value)
        case Rate():
            return format_rate(value)
        case timedelta():
            return format_duration(value)
        case Secret():
            return format_secret(value)
        case tuple():
            return list(value)
        case Mapping():
            return {name: format_value(entry) for name, entry in value.items()}
        case _:
            return value
