"""
Settings: a TOML file, overridden by the environment, checked whole before anything starts.

Every key has the environment override PENSTOCK_<SECTION>_<KEY>. All mistakes are reported at
once; an unknown key names the nearest known one. Variables that are like no key are left alone: the
agent's have the same prefix, and container platforms make up some of this shape.
"""

import contextlib
import difflib
import ipaddress
import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from policy_server.errors import InvalidSettings
from policy_server.rules.values import InvalidValueError, parse_duration
from policy_server.store.database import database_problem

_PREFIX = "PENSTOCK_"
_LONGEST = timedelta(days=1)
_LONGEST_KEPT = timedelta(days=366)
#: As container platforms name the variables that they make up for a service.
_OF_PLATFORM = re.compile(r"(.*_)?(service_(host|port(_.*)?)|port(_\d+_.*)?)")
#: How near to a key a name must be to be taken for it, misspelt.
_NEAR, _VERY_NEAR = 0.6, 0.8
#: Of leases: agents must have time to report twice.
_SHORTEST_SESSION = timedelta(seconds=5)
#: The book of limits is kept in the memory of one server.
EMBEDDED = "embedded"
_VALKEY_SCHEMES = ("redis", "rediss", "unix")


def split_address(text: str, *, default_port: int | None = None) -> tuple[str, int]:
    """
    Split "host:port" or "[ipv6]:port".

    >>> split_address("[::1]:7350")
    ('::1', 7350)
    """
    host, colon, port = text.rpartition(":")
    if not colon and default_port is not None:
        return text, default_port
    bracketed = host.startswith("[") and host.endswith("]")
    well_formed = host and (bracketed or ":" not in host)
    if not well_formed or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f'"{text}" is not host:port, such as 127.0.0.1:7350 or [::1]:7350')
    return host.strip("[]"), int(port)


def _check_address(text: str) -> str:
    split_address(text)
    return text


def _check_loopback(text: str) -> str:
    host, _ = split_address(text)
    if host != "localhost" and not _is_loopback(host):
        raise ValueError(
            f'"{text}" is not on loopback; without TLS or tokens, which come with a later version, '
            "anybody could change the policy: use 127.0.0.1"
        )
    return text


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_url(url: str) -> str:
    problem = database_problem(url)
    if problem:
        raise ValueError(problem.removeprefix("database.url").lstrip(": "))
    return url


def _check_state(text: str) -> str:
    scheme, separator, place = text.partition("://")
    if text == EMBEDDED or (separator and place and scheme in _VALKEY_SCHEMES):
        return text
    raise ValueError(
        f'"{text}" is neither "{EMBEDDED}", which is the memory of one server, nor a Valkey or '
        "Redis that servers share, such as redis://HOST:6379/0, rediss://HOST:6380/0 or unix://PATH"
    )


def _read_duration(value: Any) -> timedelta:
    duration = _parse_duration(value)
    if not timedelta() < duration <= _LONGEST:
        raise ValueError(f'"{value}" is out of range; more than 0 and at most a day is allowed')
    return duration


def _read_long_duration(value: Any) -> timedelta:
    duration = _parse_duration(value)
    if not timedelta() < duration <= _LONGEST_KEPT:
        raise ValueError(f'"{value}" is out of range; more than 0 and at most 366d is allowed')
    return duration


def _parse_duration(value: Any) -> timedelta:
    try:
        return value if isinstance(value, timedelta) else parse_duration(value)
    except InvalidValueError as error:
        raise ValueError(f'"{value}": {error}') from error


_Address = Annotated[str, AfterValidator(_check_address)]
_Loopback = Annotated[str, AfterValidator(_check_loopback)]
_Duration = Annotated[timedelta, BeforeValidator(_read_duration)]
_LongDuration = Annotated[timedelta, BeforeValidator(_read_long_duration)]
_CONFIG = ConfigDict(frozen=True, extra="forbid")


class ServerSettings(BaseModel):
    """
    Where the server listens; port 0 lets the system choose. Several processes may share the port of
    gRPC, among which the system divides connections (SO_REUSEPORT), but not that of HTTP.
    """

    model_config = _CONFIG

    grpc_listen: _Loopback = "127.0.0.1:7350"
    http_listen: _Address = "127.0.0.1:7351"
    share_port: bool = False


class DatabaseSettings(BaseModel):
    """Where rules and actions are kept."""

    model_config = _CONFIG

    url: Annotated[str, AfterValidator(_check_url)] = "sqlite:///var/server/penstock.db"


class DnsSettings(BaseModel):
    """Whom to ask for MX records; no nameservers: the system's resolvers."""

    model_config = _CONFIG

    nameservers: tuple[_Address, ...] = ()
    timeout: _Duration = timedelta(seconds=5)


class FeedbackSettings(BaseModel):
    """How many of the outcomes that agents reported are kept, to try rules on."""

    model_config = _CONFIG

    keep_outcomes: _LongDuration = timedelta(days=7)
    max_outcomes: Annotated[int, Field(ge=0, le=100_000_000)] = 500_000


class WatchSettings(BaseModel):
    """How watching agents are told of changes; a canary share of 0: all at once."""

    model_config = _CONFIG

    canary_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    canary_wait: _Duration = timedelta(seconds=30)


class LimitSettings(BaseModel):
    """
    Where the book is kept by which limits are lent to agents; and for how long what is lent holds
    without word between agent and server. Before any of these times is made shorter, the server
    has to be away for as long as leases lasted until then.
    """

    model_config = _CONFIG

    state: Annotated[str, AfterValidator(_check_state)] = EMBEDDED
    #: What an agent may use without word from the server.
    session_ttl: _Duration = timedelta(seconds=15)
    #: How much longer the server waits before it lends a silent agent's rates to others.
    grace: _Duration = timedelta(seconds=5)
    #: And its connections, for the messages that are under way in them.
    drain_time: _Duration = timedelta(seconds=55)
    #: What an agent keeps of each lease while the server is away.
    floor_ttl: _Duration = timedelta(minutes=20)

    @field_validator("session_ttl")
    @classmethod
    def _outlasts_reports(cls, value: timedelta) -> timedelta:
        if value < _SHORTEST_SESSION:
            raise ValueError("must be at least 5s: agents report every 2s or more")
        return value

    @field_validator("floor_ttl")
    @classmethod
    def _outlasts_session(cls, value: timedelta, info: ValidationInfo) -> timedelta:
        session = info.data.get("session_ttl")
        if session is not None and value < session:
            raise ValueError("must not be shorter than limits.session_ttl")
        return value


class Settings(BaseModel):
    """Everything the policy server can be told."""

    model_config = _CONFIG

    server: ServerSettings = Field(default_factory=ServerSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    dns: DnsSettings = Field(default_factory=DnsSettings)
    feedback: FeedbackSettings = Field(default_factory=FeedbackSettings)
    watch: WatchSettings = Field(default_factory=WatchSettings)
    # The default is looked at as well: it does not go together with a shared port.
    limits: LimitSettings = Field(default_factory=LimitSettings, validate_default=True)

    @field_validator("limits")
    @classmethod
    def _suits_shared_port(cls, value: LimitSettings, info: ValidationInfo) -> LimitSettings:
        server = info.data.get("server")
        if server is not None and server.share_port and value.state == EMBEDDED:
            raise ValueError(
                "server.share_port needs limits.state to be a Valkey or Redis, such as "
                "redis://HOST:6379/0: an agent can't choose among processes that share a port, and "
                "all but the one that has the book in its memory would lend it nothing"
            )
        return value


_SECTIONS: dict[str, type[BaseModel]] = {
    "server": ServerSettings,
    "database": DatabaseSettings,
    "dns": DnsSettings,
    "feedback": FeedbackSettings,
    "watch": WatchSettings,
    "limits": LimitSettings,
}


def environment_names() -> tuple[str, ...]:
    """List the environment variables that override settings."""
    return tuple(
        f"{_PREFIX}{section}_{key}".upper()
        for section, model in _SECTIONS.items()
        for key in model.model_fields
    )


def load_settings(path: str | None, environ: Mapping[str, str]) -> Settings:
    """Load settings from the file at *path* (None: defaults) and *environ*, or say all mistakes."""
    text = _read_text(path)
    values, problems = _parse_toml(text, path)
    problems += _unknown_keys(values, text, path)
    overrides, unknown = _read_environment(environ)
    problems += unknown
    known = {name: dict(table) for name, table in values.items() if isinstance(table, dict)}
    for (section, key), value in overrides.items():
        known.setdefault(section, {})[key] = value
    try:
        settings = Settings.model_validate(_only_known(known))
    except ValidationError as error:
        problems += [_describe(item, overrides, text, path) for item in error.errors()]
        raise InvalidSettings(problems) from error
    if problems:
        raise InvalidSettings(problems)
    return settings


def _read_text(path: str | None) -> str:
    if path is None:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InvalidSettings([f"{path}: can't be read: {reason}"]) from error


def _parse_toml(text: str, path: str | None) -> tuple[dict[str, Any], list[str]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        return {}, [f"{path}: not TOML: {error}"]


def _unknown_keys(values: Mapping[str, Any], text: str, path: str | None) -> list[str]:
    problems = []
    for section, table in values.items():
        if section not in _SECTIONS:
            place = _place(path, text, section=section)
            problems.append(f'{place}unknown section "{section}"{_nearest(section, _SECTIONS)}')
        elif not isinstance(table, dict):
            problems.append(f'{path}: "{section}" must be a table: [{section}]')
        else:
            fields = _SECTIONS[section].model_fields
            problems += [
                f'{_place(path, text, section=section, key=key)}unknown key "{section}.{key}"'
                f"{_nearest(key, fields)}"
                for key in table
                if key not in fields
            ]
    return problems


def _read_environment(
    environ: Mapping[str, str],
) -> tuple[dict[tuple[str, str], Any], list[str]]:
    values: dict[tuple[str, str], Any] = {}
    problems = []
    for name, text in environ.items():
        section, _, key = name.removeprefix(_PREFIX).lower().partition("_")
        if not name.startswith(_PREFIX) or section not in _SECTIONS:
            continue
        fields = _SECTIONS[section].model_fields
        if key in fields:
            values[section, key] = _read_variable(text, fields[key].default)
        elif near := _find_near(key, fields):
            meant = f"{_PREFIX}{section}_{near}".upper()
            problems.append(f'environment: unknown "{name}"; did you mean "{meant}"?')
    return values, problems


def _read_variable(text: str, default: Any) -> Any:
    """Read a variable as TOML would have written it, by the kind of the key's *default*."""
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, timedelta):
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def _find_near(key: str, known: Iterable[str]) -> str:
    """Find the key that is meant by a misspelt one; empty if none is."""
    cutoff = _VERY_NEAR if _OF_PLATFORM.fullmatch(key) else _NEAR
    return next(iter(difflib.get_close_matches(key, list(known), n=1, cutoff=cutoff)), "")


def _only_known(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        section: {key: value for key, value in table.items() if key in model.model_fields}
        for section, model in _SECTIONS.items()
        if isinstance(table := values.get(section, {}), Mapping)
    }


def _describe(
    item: Mapping[str, Any],
    overrides: Mapping[tuple[str, str], Any],
    text: str,
    path: str | None,
) -> str:
    location = [str(part) for part in item["loc"]]
    section, key = location[0], location[1] if len(location) > 1 else ""
    message = str(item["msg"]).removeprefix("Value error, ")
    if (section, key) in overrides:
        place = f"environment: {_PREFIX}{section}_{key}".upper().replace(
            "ENVIRONMENT", "environment"
        )
        return f"{place}: {message}"
    name = f"{section}.{key}" if key else section
    return f"{_place(path, text, section=section, key=key)}{name}: {message}"


def _nearest(name: str, known: Any) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    if matches:
        return f'; did you mean "{matches[0]}"?'
    return f"; known are {', '.join(known)}"


def _place(path: str | None, text: str, *, section: str, key: str = "") -> str:
    """Name the file and, where it can be seen, the line of a key."""
    current = ""
    for number, line in enumerate(text.splitlines(), start=1):
        header = re.match(r'\s*\[\s*"?([\w-]+)"?\s*\]', line)
        current = header[1] if header else current
        found_section = not key and current == section
        found_key = current == section and key and re.match(rf'\s*"?{re.escape(key)}"?\s*=', line)
        if found_section or found_key:
            return f"{path}:{number}: "
    return f"{path}: " if path else ""
