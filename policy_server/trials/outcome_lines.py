"""
Outcome lines: one line of JSON each, as delivery logs have them, or as a person writes one.

1. A line of the agent's delivery log, or of KumoMTA's: `type`, `recipient`, `site`, `response`,
   `event_time` or `timestamp`, and more. Lines of other types than outcomes have are passed over.
2. A line with `reply` in the place of `response`: `{"reply": "421 4.7.0 [TS01] ...",
   "domain": "yahoo.com", "source": "ip-1"}`, and, where wanted, `time`, `site_name`, `mx`,
   `tenant`, `campaign`, `type`, `internal`.

Everything wrong with a line is told at once. Where lines come from is not known here (see
`outcome_files`), nor what the site of a domain is.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import MappingProxyType
from typing import Any, TypeVar

from policy_server.automation.outcomes import MAX_REPLY_LENGTH, Outcome, OutcomeType, Reply
from policy_server.rules.nearest import suggest
from policy_server.rules.site import MxHost, normalise_domain, site_name
from policy_server.rules.values import InvalidValueError

#: Longest name taken, in characters; the site name of a large host set is long.
_MAX_NAME = 8192
_MAX_HOSTS = 200
#: What patterns and evidence look at, and more.
_MAX_CONTENT = 2 * MAX_REPLY_LENGTH
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: How KumoMTA marks texts of its own, where our agents have a field.
_KUMOMTA_INTERNAL = "KumoMTA internal: "
_REPLY = re.compile(r"(?P<code>[2-5][0-9]{2})(?:[ -]|$)(?P<rest>.*)", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.([0-9]{1,3})\.([0-9]{1,3})(?:\s+|$)(?P<rest>.*)", re.DOTALL)
_CONTINUED = re.compile(r"\r?\n[2-5][0-9]{2}[ -](?:[245]\.[0-9]{1,3}\.[0-9]{1,3} )?")

_TYPES: Mapping[str, OutcomeType] = MappingProxyType(
    {
        **{kind.value: kind for kind in OutcomeType},
        # As KumoMTA spells them.
        "OOB": OutcomeType.OUT_OF_BAND,
        "Feedback": OutcomeType.FEEDBACK_REPORT,
    }
)
#: Lines of a log that are no outcomes.
_PASSED_OVER = frozenset(
    {
        "Reception",
        "Rejection",
        "Delayed",
        "AdminRebind",
        "DeferredInjectionRebind",
        "XferIn",
        "XferOut",
    }
)
_TYPES_OF_CODES: Mapping[int, OutcomeType] = MappingProxyType(
    {2: OutcomeType.DELIVERY, 5: OutcomeType.BOUNCE}
)

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """One thing wrong with a line."""

    #: Empty for the line as a whole.
    field: str
    value: Any
    message: str


class BadLine(ValueError):
    """A line is no outcome; it has every mistake."""

    def __init__(self, mistakes: list[Mistake]) -> None:
        super().__init__(mistakes[0].message)
        self.mistakes = tuple(mistakes)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeLine:
    """An outcome as a line has it."""

    outcome: Outcome
    #: The hosts that the line names.
    mx_hosts: tuple[MxHost, ...] = ()
    #: The line is one that a person wrote, and leaves the site open.
    is_site_open: bool = False


def read_line(text: str, *, event_id: str, time: datetime) -> OutcomeLine | None:
    """
    Read one line; None for a line that is no outcome, though a delivery log has it.

    *event_id* and *time* are for lines without. Errors: `BadLine`.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        remedy = "write one JSON object a line"
        raise BadLine(
            [Mistake(field="", value=None, message=f"not JSON: {error}; {remedy}")]
        ) from (None)
    if not isinstance(fields, dict):
        message = 'not an object: a line is {"reply": ..., "domain": ..., "source": ...}'
        raise BadLine([Mistake(field="", value=None, message=message)])
    if isinstance(kind := fields.get("type"), str) and kind in _PASSED_OVER:
        return None
    line = _Line(fields)
    read = _read_own if "reply" in fields else _read_logged
    outcome = read(line, event_id=event_id, time=time)
    if line.mistakes or outcome is None:
        raise BadLine(line.mistakes)
    return outcome


class _Line:
    """The fields of one line, read without trust; what is wrong is gathered."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.mistakes: list[Mistake] = []

    def refuse(self, field: str, message: str) -> None:
        self.mistakes.append(Mistake(field=field, value=self.fields.get(field), message=message))

    def require(self, *names: str, remedy: str) -> None:
        """Refuse a line that has none of these fields; one that is wrong is refused already."""
        if all(self.fields.get(name) in (None, "") for name in names):
            self.mistakes.append(
                Mistake(field=names[0], value=None, message=f"is missing: {remedy}")
            )

    def read(self, field: str, parse: Callable[[Any], _Value], otherwise: _Value) -> _Value:
        """Read a field that may be left out or null."""
        value = self.fields.get(field)
        if value is None:
            return otherwise
        try:
            return parse(value)
        except ValueError as error:
            self.refuse(field, str(error))
            return otherwise

    def text(self, *names: str) -> str:
        """Read the first of these fields that is there."""
        return next((text for name in names if (text := self.read(name, _parse_text, ""))), "")

    def hosts(self) -> tuple[MxHost, ...]:
        """Read the MX hosts that a line may name."""
        none: tuple[MxHost, ...] = ()
        return self.read("mx", _parse_hosts, none)


def _read_own(line: _Line, *, event_id: str, time: datetime) -> OutcomeLine | None:
    reply = line.read("reply", _parse_reply, Reply())
    domain = line.read("domain", _parse_domain, "") or line.read("recipient", _parse_recipient, "")
    line.require("domain", "recipient", remedy='name the domain, as in "domain": "yahoo.com"')
    source = line.text("source", "egress_source")
    line.require("source", "egress_source", remedy='name the egress source, as in "source": "ip-1"')
    hosts = line.hosts()
    site = line.text("site_name") or (site_name(domain, hosts) if hosts else "")
    outcome = _make(
        line,
        event_id=event_id,
        time=time,
        domain=domain,
        reply=reply,
        kind=_TYPES_OF_CODES.get(reply.code // 100, OutcomeType.TRANSIENT_FAILURE),
        source=source,
        site=site,
        internal=line.read("internal", _parse_bool, False),
    )
    if outcome is None:
        return None
    return OutcomeLine(outcome=outcome, mx_hosts=hosts, is_site_open=not site)


def _read_logged(line: _Line, *, event_id: str, time: datetime) -> OutcomeLine | None:
    line.require("type", remedy='a line has "reply", or "type" and "response" as logs do')
    queue = line.text("queue")
    domain = line.read("recipient_domain", _parse_domain, "") or line.read(
        "recipient", _parse_recipient, ""
    )
    line.require(
        "recipient", "recipient_domain", remedy="without a domain no rule concerns the line"
    )
    response, internal = line.read("response", _parse_response, (Reply(), False))
    path = line.text("site").partition("@")[0]
    source = line.text("egress_source") or path.partition("->")[0]
    site = line.text("site_name") or path.partition("->")[2].partition("#")[0]
    hosts = line.hosts()
    outcome = _make(
        line,
        event_id=event_id,
        time=time,
        domain=domain,
        reply=response,
        kind=OutcomeType.TRANSIENT_FAILURE,
        source=source,
        site=site,
        internal=internal,
        path=path,
        queue=queue,
    )
    return None if outcome is None else OutcomeLine(outcome=outcome, mx_hosts=hosts)


def _make(
    line: _Line,
    *,
    event_id: str,
    time: datetime,
    domain: str,
    reply: Reply,
    kind: OutcomeType,
    source: str,
    site: str,
    internal: bool,
    path: str = "",
    queue: str = "",
) -> Outcome | None:
    of_queue = _read_queue(queue)
    meta: Mapping[str, Any] = line.read("meta", _parse_object, MappingProxyType({}))
    kind = line.read("type", _parse_type, kind)
    routing_domain = line.read("routing_domain", _parse_domain, "") or of_queue["routing_domain"]
    own_time = next(
        (
            found
            for name in ("event_time", "time", "timestamp")
            if (found := line.read(name, _parse_time, None)) is not None
        ),
        time,
    )
    names = {
        name: line.text(name) or _text_or_none(meta.get(name)) or of_queue[name]
        for name in ("tenant", "campaign")
    }
    if line.mistakes:
        return None
    return Outcome(
        event_id=line.text("event_id") or event_id,
        event_time=own_time,
        type=kind,
        recipient_domain=domain,
        routing_domain=routing_domain or domain,
        site_name=site,
        path_name=path,
        egress_source=source,
        egress_pool=line.text("egress_pool"),
        reply=reply,
        internal=internal or reply.content.startswith(_KUMOMTA_INTERNAL),
        num_attempts=line.read("num_attempts", _parse_count, 0),
        provider_name=line.text("provider_name"),
        **names,
    )


def _read_queue(queue: str) -> dict[str, str]:
    """Take a queue's name apart: `campaign:tenant@domain!routing_domain`."""
    owner, at, place = queue.rpartition("@")
    campaign, colon, tenant = owner.rpartition(":")
    return {
        "tenant": tenant if at else "",
        "campaign": campaign if colon else "",
        "routing_domain": place.partition("!")[2].lower(),
    }


def _text_or_none(value: Any) -> str:
    return _clean(value[:_MAX_NAME]) if isinstance(value, str) else ""


def _clean(text: str) -> str:
    # Half a surrogate pair is no character, and can't be in what agents send.
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _parse_text(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError("is a text in quotes")
    if len(value) > _MAX_NAME:
        raise InvalidValueError(f"has {len(value)} characters, at most {_MAX_NAME} are taken")
    return _clean(value)


def _parse_bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidValueError("is true or false")
    return value


def _parse_count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise InvalidValueError("is a whole number, 0 or more")
    return value


def _parse_object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidValueError("is an object")
    return value


def _parse_type(value: Any) -> OutcomeType:
    text = _parse_text(value)
    if text not in _TYPES:
        raise InvalidValueError(f'"{text[:80]}" is no type of outcome{suggest(text, _TYPES)}')
    return _TYPES[text]


def _parse_domain(value: Any) -> str:
    domain = normalise_domain(_parse_text(value))
    if not domain or any(sign.isspace() for sign in domain):
        raise InvalidValueError("is no domain")
    return domain


def _parse_recipient(value: Any) -> str:
    if isinstance(value, list):
        if not value:
            raise InvalidValueError("is an empty list")
        value = value[0]
    text = _parse_text(value)
    if "@" not in text:
        raise InvalidValueError('is no address: write "someone@example.com"')
    return _parse_domain(text.rpartition("@")[2].rstrip(">"))


def _parse_hosts(value: Any) -> tuple[MxHost, ...]:
    entries = value if isinstance(value, list) else [value]
    if not 0 < len(entries) <= _MAX_HOSTS:
        raise InvalidValueError(f"is a list of 1 to {_MAX_HOSTS} hosts")
    return tuple(map(_parse_host, entries))


def _parse_host(value: Any) -> MxHost:
    if isinstance(value, dict):
        return MxHost(_parse_domain(value.get("host")), _parse_count(value.get("preference") or 0))
    return MxHost(_parse_domain(value))


def _parse_time(value: Any) -> datetime:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidValueError("is seconds since 1970, or a time such as 2026-08-01T12:00:00Z")
    if isinstance(value, str):
        try:
            time = datetime.fromisoformat(_parse_text(value))
            return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError):
            raise InvalidValueError(
                f'"{value[:80]}" is no time: write 2026-08-01T12:00:00Z'
            ) from None
    try:
        return _EPOCH + timedelta(seconds=value)
    except (ValueError, OverflowError):
        raise InvalidValueError(f"{value} seconds after 1970 are beyond the calendar") from None


def _parse_reply(value: Any) -> Reply:
    if not isinstance(value, str):
        raise InvalidValueError('is a text, as in "421 4.7.0 try again later"')
    found = _REPLY.fullmatch(_clean(value[:_MAX_CONTENT]).strip())
    if found is None:
        raise InvalidValueError(
            f'"{value[:80]}" does not begin with a reply code, as in "421 4.7.0 try again later"'
        )
    rest, enhanced = found["rest"], None
    if (codes := _ENHANCED.fullmatch(rest)) is not None:
        enhanced = (int(codes[1]), int(codes[2]), int(codes[3]))
        rest = codes["rest"]
    content = _CONTINUED.sub("\n", rest)
    return Reply(code=int(found["code"]), enhanced_code=enhanced, content=content)


def _parse_response(value: Any) -> tuple[Reply, bool]:
    fields = _parse_object(value)
    code = _of(fields, "code", _parse_count, 0)
    if code > 999:
        raise InvalidValueError("code is a reply code of three digits")
    enhanced = _of(fields, "enhanced_code", _parse_enhanced, None)
    content = _of(fields, "content", _parse_content, "")
    command = _of(fields, "command", _parse_content, "")
    internal = _of(fields, "internal", _parse_bool, False)
    reply = Reply(code=code, enhanced_code=enhanced, content=content, command=command)
    return reply, internal


def _of(
    fields: Mapping[str, Any], name: str, parse: Callable[[Any], _Value], otherwise: _Value
) -> _Value:
    value = fields.get(name)
    if value is None:
        return otherwise
    try:
        return parse(value)
    except ValueError as error:
        raise InvalidValueError(f"{name} {error}") from None


def _parse_content(value: Any) -> str:
    if not isinstance(value, str):
        raise InvalidValueError("is a text in quotes")
    return _clean(value[:_MAX_CONTENT])


def _parse_enhanced(value: Any) -> tuple[int, int, int]:
    fields = _parse_object(value)
    first, second, third = (
        _of(fields, name, _parse_count, 0) for name in ("class", "subject", "detail")
    )
    return (first, second, third)
