"""
Settings: the agent's configuration, from a TOML file and the environment, complete and checked.

Every key has an override `PENSTOCK_<SECTION>_<KEY>`, such as PENSTOCK_LISTEN_SMTP; lists of texts
are separated by commas there, `PENSTOCK_SOURCE` and `PENSTOCK_POOL` hold JSON. The rules for what
may be written stand here; how mistakes are put into words stands in `setting_mistakes`.
"""

import json
import os
import socket
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cached_property
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from agent.delivery.dsn import TellSender
from agent.errors import BadRecipient, SettingsError
from agent.setting_mistakes import Place, describe_mistakes, nearest
from agent.setting_references import (
    PoolNames,
    References,
    reference_mistakes,
    written_references,
)
from agent.setting_values import (
    Address,
    SpaceFloor,
    check_ip,
    check_network,
    parse_address,
    parse_duration,
    parse_size,
    parse_space_floor,
    parse_tell_sender,
)
from agent.smtp.addresses import normalise_domain, parse_recipient
from agent.smtp.certificate import CertificateFiles

_PREFIX = "PENSTOCK_"
_TABLE_LISTS = ("source", "pool")

Duration = Annotated[timedelta, BeforeValidator(parse_duration)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
HostPort = Annotated[Address, BeforeValidator(parse_address)]
Floor = Annotated[SpaceFloor, BeforeValidator(parse_space_floor)]
IpText = Annotated[str, AfterValidator(check_ip)]
NetworkText = Annotated[str, AfterValidator(check_network)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$", max_length=128)]
DomainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$")]
Header = Annotated[str, Field(pattern=r"^[!-9;-~]+$", max_length=70)]


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta():
        raise ValueError("must be longer than zero")
    return value


def _check_mailbox(value: str) -> str:
    try:
        return parse_recipient(value)
    except BadRecipient as refusal:
        raise ValueError(
            f'{value!r}: {refusal.text}; write one such as "mailer-daemon@example.com"'
        ) from None


Mailbox = Annotated[str, AfterValidator(_check_mailbox)]
Tell = Annotated[TellSender, BeforeValidator(parse_tell_sender)]
Span = Annotated[Duration, AfterValidator(_positive)]


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, validate_default=True
    )


class AgentSection(_Section):
    """`[agent]`: who this agent is and where it keeps its data."""

    #: Known to the policy server under this name; default: the host's name.
    name: Name = Field(default_factory=lambda: socket.gethostname() or "agent")
    data_dir: Path = Path("var/agent")
    #: What tells this machine from others, whenever it is booted; empty: what the system knows.
    machine: str = ""
    #: Processes that take mail in and deliver it.
    workers: int = Field(default=1, ge=1, le=16)
    #: How long transactions in flight may take to finish after SIGTERM.
    shutdown_timeout: Duration = timedelta(seconds=30)


class PolicySection(_Section):
    """`[policy]`: the policy server."""

    server: str = Field(default="127.0.0.1:7350", min_length=1)
    #: How long a last-known answer is used while the server is away.
    max_stale: Duration = timedelta(hours=24)
    #: Whether outcomes that no automation rule could match stay with the agent.
    filter_outcomes: bool = True


class ListenSection(_Section):
    """`[listen]`: where mail comes in, and from whom."""

    smtp: HostPort = Address("127.0.0.1", 7525)
    grpc: HostPort = Address("127.0.0.1", 7360)
    http: HostPort = Address("127.0.0.1", 7361)
    #: Networks that may inject by SMTP.
    relay_from: tuple[NetworkText, ...] = ("127.0.0.0/8", "::1")
    max_message_size: Size = 20 * 1024 * 1024
    #: Longest line of a message, without its line end (RFC 5322 2.1.1); 0: any.
    max_line_length: int = Field(default=998, ge=0)
    #: Most recipients of one message.
    max_recipients: int = Field(default=1024, ge=1)
    #: Most SMTP connections at one time, and most gRPC calls.
    max_connections: int = Field(default=1024, ge=1)
    #: Most SMTP connections of one client address, so that one can't keep the others out.
    max_connections_per_client: int = Field(default=512, ge=1)
    #: Most bytes of messages that are on their way in at one time, over all connections.
    max_buffered_size: Size = 256 * 1024 * 1024
    #: How long an SMTP client may be silent, or take over one command (RFC 5321 4.5.3.2.7: at least
    #: 5 minutes); within a message every 500 bytes gain it a second.
    client_timeout: Span = timedelta(minutes=5)
    #: Most Received headers before a message is taken for a loop (RFC 5321 6.3).
    max_hops: int = Field(default=50, ge=1)
    tenant_header: Header = "X-Tenant"
    campaign_header: Header = "X-Campaign"
    #: PEM files for STARTTLS: the certificate with its chain, and its key; without: no STARTTLS.
    tls_certificate: Path | None = None
    tls_private_key: Path | None = None

    @property
    def most_buffered(self) -> int:
        """`max_buffered_size`, but never too little for one message and its envelope."""
        return max(self.max_buffered_size, self.max_message_size * 4 // 3 + 64 * 1024)

    @property
    def certificate_files(self) -> CertificateFiles | None:
        """The files for STARTTLS; None: it is not offered."""
        if self.tls_certificate is None or self.tls_private_key is None:
            return None
        return CertificateFiles(certificate=self.tls_certificate, private_key=self.tls_private_key)

    @model_validator(mode="after")
    def _check_pair(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_private_key is None):
            given, other = "tls_certificate", "tls_private_key"
            if self.tls_certificate is None:
                given, other = other, given
            raise ValueError(
                f"{given} needs {other} too: the PEM files of a certificate and of its key"
            )
        return self


class DnsSection(_Section):
    """`[dns]`: whom to ask for MX and address records."""

    #: Empty: the system's resolvers.
    nameservers: tuple[HostPort, ...] = ()
    timeout: Span = timedelta(seconds=5)
    #: Whether the resolvers' word that an answer is secure (DNSSEC) counts, as DANE needs it;
    #: None: where every one of them is on loopback.
    trust_ad: bool | None = None


class SpoolSection(_Section):
    """`[spool]`: when the agent stops taking mail in to protect itself."""

    #: How much of the disk must stay free: a share or a size.
    min_free_space: Floor = SpaceFloor(share=0.1)
    #: Most queued messages, counted once a destination domain.
    max_messages: int = Field(default=1_000_000, ge=1)


class Source(_Section):
    """`[[source]]`: a local identity that mail leaves from."""

    name: Name
    #: Address to bind to; None: the system chooses.
    source_address: IpText | None = None
    #: Name in EHLO; None: the host's name.
    ehlo_domain: DomainName | None = None


class PoolMember(_Section):
    """A source's share in a pool."""

    name: str
    #: 0: never chosen.
    weight: int = Field(default=1, ge=0)


class Pool(_Section):
    """`[[pool]]`: sources that mail is spread over."""

    name: Name
    sources: tuple[PoolMember, ...]

    @property
    def weights(self) -> dict[str, int]:
        """Weights by the name of the source."""
        return {member.name: member.weight for member in self.sources}


class QueueSettings(_Section):
    """`[queue]`: how the mail of a scheduled queue is tried."""

    egress_pool: str = "default"
    retry_interval: Span = timedelta(minutes=20)
    max_retry_interval: Span = timedelta(hours=4)
    max_age: Span = timedelta(days=7)
    #: Of which failures senders are told by a delivery status notification.
    dsn: Tell = TellSender.ALWAYS
    #: Address in the From of such a message; None: mailer-daemon at the source's EHLO name.
    dsn_from: Mailbox | None = None


class Settings(_Section):
    """The whole configuration."""

    agent: AgentSection = Field(default_factory=AgentSection)
    policy: PolicySection = Field(default_factory=PolicySection)
    listen: ListenSection = Field(default_factory=ListenSection)
    dns: DnsSection = Field(default_factory=DnsSection)
    spool: SpoolSection = Field(default_factory=SpoolSection)
    #: By name in the file's order; without any, one that is bound to no address.
    source: tuple[Source, ...] = (Source(name="default"),)
    #: Without any, a pool of all sources alike.
    pool: tuple[Pool, ...] = ()
    queue: QueueSettings = Field(default_factory=QueueSettings)
    #: `[queue."example.com"]`, defaults filled in.
    queues: Mapping[str, QueueSettings] = Field(default_factory=dict)

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Egress sources by name."""
        return {source.name: source for source in self.source}

    @cached_property
    def pools(self) -> dict[str, Pool]:
        """Pools by name."""
        if self.pool:
            return {pool.name: pool for pool in self.pool}
        members = tuple(PoolMember(name=source.name) for source in self.source)
        return {"default": Pool(name="default", sources=members)}

    @property
    def spool_dir(self) -> Path:
        """Where the spool is."""
        return self.agent.data_dir / "spool"

    @cached_property
    def relay_networks(self) -> tuple[Any, ...]:
        """`listen.relay_from` as networks."""
        return tuple(ip_network(text) for text in self.listen.relay_from)

    def queue_for(self, domain: str) -> QueueSettings:
        """How the mail for one recipient domain is tried."""
        return self.queues.get(domain, self.queue)

    def ehlo_name(self, source: str, queue: QueueSettings) -> str:
        """The EHLO name of *source*, or of the first of the queue's pool that has one; or none."""
        names = [source, *self.pools[queue.egress_pool].weights]
        named = (self.sources[name].ehlo_domain for name in names if name in self.sources)
        return next((name for name in named if name), "")

    @model_validator(mode="after")
    def _check_references(self) -> Self:
        references = References(
            sources=[source.name for source in self.source],
            pools=[
                PoolNames(
                    name=pool.name,
                    weights=tuple((member.name, member.weight) for member in pool.sources),
                )
                for pool in self.pool
            ],
            default_pool=self.queue.egress_pool,
            queues={domain: queue.egress_pool for domain, queue in self.queues.items()},
        )
        if mistakes := reference_mistakes(references):
            raise ValueError("\n".join(mistakes))
        return self


def load_settings(
    path: str | Path | None = None, environ: Mapping[str, str] = os.environ
) -> Settings:
    """
    Read the configuration; None: defaults and the environment alone. Errors: `SettingsError` with
    every mistake.
    """
    text, table = _read(path)
    mistakes = _apply_environment(table, environ)
    if table.pop("queues", None) is not None:
        mistakes.append('queues: unknown key; did you mean "queue"?')
    file = str(path) if path is not None else ""
    queues = _own_queues(table)
    mistakes = [*_told_of(file, queues.mistakes), *mistakes]
    try:
        settings = Settings.model_validate(_spread_queues(table, queues))
    except ValidationError as error:
        errors = [item for item in error.errors() if not queues.is_inherited(item["loc"])]
        places = [(Place(queues.written_place(item["loc"])), item) for item in errors]
        found = describe_mistakes(places, file=file, text=text, known=known_keys())
        if any(item["loc"] for item in errors):
            # The references are not looked at where anything else is wrong: all is told at once.
            found += _told_of(file, reference_mistakes(written_references(table)))
        mistakes = found + mistakes
    else:
        if not mistakes:
            return settings
    raise SettingsError(mistakes)


def _told_of(file: str, mistakes: Sequence[str]) -> list[str]:
    return [f"{file}: {mistake}" if file else mistake for mistake in mistakes]


def known_keys() -> dict[str, tuple[str, ...]]:
    """The keys of every section; the empty name holds the sections."""
    fields = Settings.model_fields
    sections = {
        name: field.annotation
        for name, field in fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }
    sections |= {"source": Source, "pool": Pool, "pool.sources": PoolMember}
    known = {name: tuple(section.model_fields) for name, section in sections.items()}
    return known | {"": tuple(name for name in fields if name != "queues")}


def _read(path: str | Path | None) -> tuple[str, dict[str, Any]]:
    if path is None:
        return "", {}
    try:
        text = Path(path).read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise SettingsError([f"{path}: can't be read: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path}: no valid TOML: {error}"]) from error


def _apply_environment(table: dict[str, Any], environ: Mapping[str, str]) -> list[str]:
    mistakes = []
    known = known_keys()
    for variable in sorted(environ):
        section, _, key = variable.removeprefix(_PREFIX).lower().partition("_")
        if not variable.startswith(_PREFIX) or section not in known:
            continue
        value = environ[variable]
        if section in _TABLE_LISTS and not key:
            try:
                table[section] = json.loads(value)
            except ValueError as error:
                mistakes.append(f"{variable}: no valid JSON: {error}")
        elif key in known[section] and section not in _TABLE_LISTS:
            _set(table, section, key, value)
        elif hint := nearest(key, known[section]):
            # Others are left alone: container platforms make up variables of this shape.
            mistakes.append(f"{variable}: unknown setting{hint}")
    return mistakes


def _set(table: dict[str, Any], section: str, key: str, value: str) -> None:
    is_list = (section, key) in {("listen", "relay_from"), ("dns", "nameservers")}
    parts = [part.strip() for part in value.split(",") if part.strip()]
    section_table = table.setdefault(section, {})
    if isinstance(section_table, dict):
        section_table[key] = parts if is_list else value


@dataclass(frozen=True, slots=True)
class _OwnQueues:
    """The tables `[queue."example.com"]`."""

    #: By A-label.
    tables: Mapping[str, Mapping[str, Any]]
    #: How each A-label was written.
    written: Mapping[str, str]
    mistakes: Sequence[str]

    def is_inherited(self, place: tuple[int | str, ...]) -> bool:
        """Whether a mistake at *place* is one of the defaults, which is told there."""
        if len(place) < 3 or place[0] != "queues":
            return False
        return place[2] not in self.tables.get(str(place[1]), {})

    def written_place(self, place: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """Where the file has what was found at *place*."""
        if place[:1] != ("queues",):
            return place
        return ("queue", *(self.written.get(str(part), part) for part in place[1:2]), *place[2:])


def _own_queues(table: Mapping[str, Any]) -> _OwnQueues:
    queue = table.get("queue", {})
    named = queue.items() if isinstance(queue, dict) else ()
    tables: dict[str, Mapping[str, Any]] = {}
    written: dict[str, str] = {}
    mistakes = []
    for name, own in named:
        if not isinstance(own, dict):
            continue
        try:
            domain = normalise_domain(name.rstrip("."))
        except ValueError as error:
            mistakes.append(f'queue."{name}": {error}; write one such as "example.com"')
            continue
        if domain in tables:
            mistakes.append(f'queue."{name}": the same domain as "{written[domain]}"; keep one')
        else:
            tables[domain], written[domain] = own, name
    return _OwnQueues(tables, written, mistakes)


def _spread_queues(table: dict[str, Any], queues: _OwnQueues) -> dict[str, Any]:
    """Part `[queue]` into the defaults and the overrides of each domain, defaults filled in."""
    queue = table.get("queue", {})
    if not isinstance(queue, dict):
        return table
    defaults = {key: value for key, value in queue.items() if not isinstance(value, dict)}
    # Unknown keys are reported once, not again for every domain.
    valid = {key: value for key, value in defaults.items() if key in QueueSettings.model_fields}
    filled = {domain: {**valid, **own} for domain, own in queues.tables.items()}
    return {**table, "queue": defaults, "queues": filled}
