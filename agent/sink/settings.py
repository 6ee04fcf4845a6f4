"""
What a set of simulated mailbox providers is told, in TOML. Every mistake is reported at once.

    [sink]
    http_listen = "127.0.0.1:0"        # GET /counts, GET /accepted, POST /push-back; "" for none
    seed = 1                           # of latency and of everything with a probability
    id_header = "Message-ID"           # identifies a message, with its recipient
    report_interval = "5s"             # of --report; 0: at the end and on SIGUSR1 only
    max_identities = 1000000           # accepted (id, recipient) pairs kept for counting duplicates

    [dns]                              # optional: a DNS server; format in agent/sink/zone.py
    listen = "127.0.0.1:0"
    [dns.mx]
    "bigmail.example" = [[10, "mx1.bigmail.example"]]
    [dns.a]
    "mx1.bigmail.example" = ["127.0.2.1"]

    [[provider]]
    name = "bigmail"
    listen = ["127.0.2.1:2525", "127.0.2.2:2525"]  # port 0: one free port, the same on each address
    host_name = "mx.bigmail.example"   # in the banner
    max_message_size = 10485760        # octets
    max_line_length = 1000             # octets of one line of text, CRLF included; 0: any
    latency = ["5ms", "20ms"]          # at the banner and at the end of data, uniform
    certificate = "cert.pem"           # with private_key: offers STARTTLS
    private_key = "key.pem"
    keep_messages = 0                  # newest messages kept in memory, for tests

    [provider.limits]                  # all optional; client_*: for each client address
    max_connections = 20
    client_max_connections = 10
    max_messages_per_connection = 50
    max_message_rate = "200/s"         # COUNT/[N]UNIT[,max_burst=B]; B is COUNT unless given
    client_max_message_rate = "50/s,max_burst=20"
    max_connection_rate = "20/s"
    client_max_connection_rate = "10/s"
    connections_reply = "421 4.7.0 …"  # each limit's reply, {ip} and {provider} are filled in
    messages_reply = "421 4.7.0 …"
    rate_reply = "421 4.7.0 [TS01] …"
    connection_rate_reply = "421 4.7.0 …"

    [provider.greylist]                # the first attempt of (ip, sender, recipient) is deferred
    delay = "5s"                       # later attempts too, until this long after the first
    recipients = "^grey"               # only recipients that match; default: all
    reply = "451 4.7.1 …"

    [[provider.recipient]]             # the first pattern that matches a recipient decides
    pattern = "^bounce"
    reply = "550 5.1.1 {recipient}: no such user"
    probability = 1.0                  # a recipient that is spared goes on to the next pattern

    [[provider.push_back]]             # for a while, everything is refused, or limits are lower
    after = "15s"                      # since the sink's start, or since = "first_message"
    duration = "10s"
    at = "mail"                        # or banner, ehlo, rcpt, data
    reply = "421 4.7.0 [TS01] …"       # without a reply, give limits = { … } as above

    [[provider.misbehave]]             # for tests of clients
    at = "data_end"                    # banner ehlo starttls mail rcpt data data_end rset quit
    action = "drop"                    # drop: close unanswered; silence: never answer;
                                       # garbage: no SMTP reply; reply: this one, close = true|false
    reply = "421 4.3.0 …"
    probability = 1.0
"""

import difflib
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from agent.errors import SettingsError
from agent.sink.meter import SinkRate
from agent.sink.zone import Zone

Stage = Literal["banner", "ehlo", "starttls", "mail", "rcpt", "data", "data_end", "rset", "quit"]

_UNITS = {
    "ms": 10**6, "s": 10**9, "sec": 10**9, "second": 10**9, "seconds": 10**9,
    "m": 60 * 10**9, "min": 60 * 10**9, "minute": 60 * 10**9, "minutes": 60 * 10**9,
    "h": 3600 * 10**9, "hr": 3600 * 10**9, "hour": 3600 * 10**9, "hours": 3600 * 10**9,
    "d": 86400 * 10**9, "day": 86400 * 10**9, "days": 86400 * 10**9,
}  # fmt: skip
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*")
_RATE = re.compile(r"\s*([\d_,]+?)\s*/\s*(\d*)\s*([a-z]+)\s*(?:,\s*max_burst\s*=\s*([\d_]+))?\s*")
_REPLY = re.compile(r"[245]\d\d[ -].*", re.ASCII)


def parse_nanoseconds(value: Any) -> int:
    """
    Read a duration: seconds as a number, or text.

    >>> parse_nanoseconds("5ms"), parse_nanoseconds(2), parse_nanoseconds("1.5 min")
    (5000000, 2000000000, 90000000000)
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0:
        return round(value * 10**9)
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None or (found[2] or "s") not in _UNITS:
        raise ValueError('expected a duration such as "5ms", "10s" or "2 min"')
    return round(float(found[1]) * _UNITS[found[2] or "s"])


def parse_sink_rate(value: Any) -> SinkRate:
    """
    Read a rate.

    >>> parse_sink_rate("50/s,max_burst=20")
    SinkRate(count=50, period=1000000000, burst=20)
    """
    if isinstance(value, SinkRate):
        return value
    found = _RATE.fullmatch(value) if isinstance(value, str) else None
    if found is None or found[3] not in _UNITS:
        raise ValueError('expected a rate such as "100/s" or "100/s,max_burst=20"')
    count = int(found[1].replace(",", "").replace("_", ""))
    burst = int(found[4].replace("_", "")) if found[4] else count
    return SinkRate(count=count, period=int(found[2] or 1) * _UNITS[found[3]], burst=burst)


def _check_reply(value: str) -> str:
    if not _REPLY.fullmatch(value):
        raise ValueError('expected a reply such as "451 4.7.1 try again later"')
    return value


def _check_pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from error
    return value


def _check_listen(value: str) -> str:
    host, colon, port = value.rpartition(":")
    if not (host and colon and port.isdigit() and int(port) < 65536):
        raise ValueError('expected "host:port"')
    return value


Nanoseconds = Annotated[int, BeforeValidator(parse_nanoseconds)]
Rate = Annotated[SinkRate, BeforeValidator(parse_sink_rate)]
Reply = Annotated[str, AfterValidator(_check_reply)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Listen = Annotated[str, AfterValidator(_check_listen)]
Probability = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]

_STRICT = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)
_DEFERRED = "421 4.7.0 [TS01] Messages from {ip} temporarily deferred"


class Limits(BaseModel):
    """What a provider bears; None: anything."""

    model_config = _STRICT

    max_connections: Count | None = None
    client_max_connections: Count | None = None
    max_messages_per_connection: Count | None = None
    max_message_rate: Rate | None = None
    client_max_message_rate: Rate | None = None
    max_connection_rate: Rate | None = None
    client_max_connection_rate: Rate | None = None
    connections_reply: Reply = "421 4.7.0 Too many connections from {ip}"
    messages_reply: Reply = "421 4.7.0 Too many messages on one connection"
    rate_reply: Reply = _DEFERRED
    connection_rate_reply: Reply = "421 4.7.0 {ip} connects too often"


class Greylist(BaseModel):
    """Defers what it has not seen before."""

    model_config = _STRICT

    delay: Nanoseconds = 0
    recipients: Pattern = ""
    reply: Reply = "451 4.7.1 Greylisted, please try again later"


class RecipientRule(BaseModel):
    """A reply for some recipients."""

    model_config = _STRICT

    pattern: Pattern
    reply: Reply
    probability: Probability = 1.0


class PushBack(BaseModel):
    """A span in which a provider refuses everything, or bears less."""

    model_config = _STRICT

    after: Nanoseconds = 0
    duration: Nanoseconds
    since: Literal["start", "first_message"] = "start"
    at: Literal["banner", "ehlo", "mail", "rcpt", "data"] = "mail"
    reply: Reply | None = None
    limits: Limits | None = None

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> "PushBack":
        if (self.reply is None) == (self.limits is None):
            raise ValueError("expected either a reply or limits")
        return self


class Misbehaviour(BaseModel):
    """Something that a well-behaved peer would not do."""

    model_config = _STRICT

    at: Stage
    action: Literal["drop", "silence", "garbage", "reply"]
    reply: Reply | None = None
    close: bool = False
    probability: Probability = 1.0

    @model_validator(mode="after")
    def _has_its_reply(self) -> "Misbehaviour":
        if (self.action == "reply") != (self.reply is not None):
            raise ValueError('a reply goes with action = "reply", and only with it')
        return self


class Provider(BaseModel):
    """One simulated mailbox provider."""

    model_config = _STRICT

    name: Annotated[str, Field(min_length=1)]
    listen: Annotated[tuple[Listen, ...], Field(min_length=1)] = ("127.0.0.1:0",)
    host_name: str = "sink.example"
    max_message_size: Count = 10 * 2**20
    max_line_length: Annotated[int, Field(ge=0)] = 1000
    latency: tuple[Nanoseconds, Nanoseconds] = (0, 0)
    certificate: str | None = None
    private_key: str | None = None
    keep_messages: Annotated[int, Field(ge=0)] = 0
    limits: Limits = Limits()
    greylist: Greylist | None = None
    recipient: tuple[RecipientRule, ...] = ()
    push_back: tuple[PushBack, ...] = ()
    misbehave: tuple[Misbehaviour, ...] = ()


class SinkOptions(BaseModel):
    """What concerns all providers."""

    model_config = _STRICT

    http_listen: str = "127.0.0.1:0"
    seed: int = 1
    id_header: str = "Message-ID"
    report_interval: Nanoseconds = 0
    max_identities: Count = 1_000_000


class DnsOptions(BaseModel):
    """The DNS server's address and its zone."""

    model_config = _STRICT

    listen: Listen = "127.0.0.1:0"
    zone: Zone


class SinkSettings(BaseModel):
    """Everything that the sink is told."""

    model_config = _STRICT

    sink: SinkOptions = SinkOptions()
    dns: DnsOptions | None = None
    provider: tuple[Provider, ...] = ()

    @model_validator(mode="after")
    def _names_differ(self) -> "SinkSettings":
        names = [provider.name for provider in self.provider]
        for name in sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f'provider "{name}" is there twice')
        return self


def parse_sink_settings(table: Mapping[str, Any], *, file: str = "") -> SinkSettings:
    """Turn a parsed TOML table into settings; `SettingsError` lists every mistake."""
    content = dict(table)
    mistakes: list[str] = []
    where = f"{file}: " if file else ""
    if isinstance(content.get("dns"), Mapping):
        zone = dict(content["dns"])
        listen = {"listen": zone.pop("listen")} if "listen" in zone else {}
        try:
            content["dns"] = {**listen, "zone": Zone.from_mapping(zone)}
        except ValueError as error:
            mistakes += [f"{where}dns.{mistake}" for mistake in str(error).split("; ")]
            del content["dns"]
    try:
        settings = SinkSettings.model_validate(content)
    except ValidationError as error:
        mistakes += [where + _sentence(detail) for detail in _root_causes(error)]
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def load_sink_settings(path: str | Path) -> SinkSettings:
    """Read a TOML file; `SettingsError` lists every mistake."""
    try:
        table = tomllib.loads(Path(path).read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingsError([f"{path}: {error}"]) from error
    return parse_sink_settings(table, file=str(path))


_MODELS = (
    SinkSettings, SinkOptions, Provider, Limits, Greylist, RecipientRule, PushBack, Misbehaviour,
)  # fmt: skip
_KNOWN_KEYS = sorted({name for model in _MODELS for name in model.model_fields})


def _root_causes(error: ValidationError) -> list[dict[str, Any]]:
    """Leave out that a list is too short where that is only because its entries are wrong."""
    details: list[dict[str, Any]] = [dict(detail) for detail in error.errors()]
    return [
        detail
        for detail in details
        if detail["type"] != "too_short"
        or not any(other["loc"][:-1] == detail["loc"] for other in details)
    ]


def _sentence(detail: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), _KNOWN_KEYS, n=1)
        hint = f', did you mean "{nearest[0]}"?' if nearest else ""
        return f"{place}: unknown key{hint}"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{place}: missing"
    shown = "" if isinstance(detail["input"], dict) else f" {detail['input']!r}"
    return f"{place}{shown}: {message}"
