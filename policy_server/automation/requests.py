"""
Requests: an operator's own action, checked.

`check_request` finds all that is wrong with a request at once. What the kinds hold for stands in
the table `_NEEDS`. Where the kind needs a site and the request names a domain alone, the site is
looked up by the caller (see `policy_server.operator_actions`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from policy_server.automation.actions import OVERRIDES, ActionKind
from policy_server.rules.automation_rules import find_settable
from policy_server.rules.catalogue import Kind, Option
from policy_server.rules.site import normalise_domain
from policy_server.rules.values import InvalidValueError, format_value, has_control

#: Longest identifier of a request, in characters.
MAX_REQUEST_ID = 255
#: Longest reason, in characters.
MAX_REASON = 1000
#: Longest name of a source or a domain.
_MAX_SHORT_NAME = 255
#: Longest other name; the site name of a large host set is long.
_MAX_NAME = 8192

_JSON_KINDS = frozenset({Kind.STRING_LIST, Kind.CIDR_LIST, Kind.LIMIT_MAP, Kind.RATE_MAP})
_LONGEST = MappingProxyType(
    {
        "egress_source": _MAX_SHORT_NAME,
        "routing_domain": _MAX_SHORT_NAME,
        "site_name": _MAX_NAME,
        "tenant": _MAX_NAME,
        "campaign": _MAX_NAME,
        "reason": MAX_REASON,
        "request_id": MAX_REQUEST_ID,
    }
)
_SCOPE_FIELDS = ("egress_source", "site_name", "routing_domain", "tenant", "campaign")

Violation = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequest:
    """An action that an operator asks for, as written."""

    #: None: none of those that are known.
    kind: ActionKind | None
    egress_source: str = ""
    site_name: str = ""
    routing_domain: str = ""
    tenant: str = ""
    campaign: str = ""
    option: str = ""
    #: In the rule files' spelling, lists and tables as JSON.
    value: str = ""
    duration: timedelta | None = None
    is_pinned: bool = False
    reason: str = ""
    #: Empty: made anew each time.
    request_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedRequest:
    """A request without mistakes."""

    request: ActionRequest
    kind: ActionKind
    #: In the form that rules compare; empty: none.
    routing_domain: str
    #: Made of JSON's types, spelt canonically; None for kinds that override nothing.
    value: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class _Need:
    """Which names a kind takes."""

    required: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    #: One of these at least.
    any_of: tuple[str, ...] = ()

    @property
    def taken(self) -> frozenset[str]:
        return self.required | self.optional | frozenset(self.any_of)


_DOMAIN = _Need(required=frozenset({"routing_domain"}))
_TENANT = _Need(required=frozenset({"routing_domain", "tenant"}))
_CAMPAIGN = _Need(required=frozenset({"routing_domain", "tenant", "campaign"}))
_NEEDS: Mapping[ActionKind, _Need] = MappingProxyType(
    {
        ActionKind.SUSPEND: _Need(any_of=("egress_source", "site_name", "routing_domain")),
        ActionKind.SUSPEND_TENANT: _TENANT,
        ActionKind.SUSPEND_CAMPAIGN: _CAMPAIGN,
        ActionKind.BOUNCE: _DOMAIN,
        ActionKind.BOUNCE_TENANT: _TENANT,
        ActionKind.BOUNCE_CAMPAIGN: _CAMPAIGN,
        ActionKind.SET_CONFIG: _Need(
            required=frozenset({"egress_source"}), any_of=("site_name", "routing_domain")
        ),
        ActionKind.SET_DOMAIN_CONFIG: _Need(
            required=frozenset({"egress_source", "routing_domain"}),
            optional=frozenset({"site_name"}),
        ),
    }
)


def check_request(request: ActionRequest) -> CheckedRequest | list[Violation]:
    """Check a request: what is wanted, or everything that is wrong as (field, what it must be)."""
    found = _check_texts(request)
    domain = _read_domain(request.routing_domain, found)
    value = None
    if request.kind is None:
        found.append(("kind", "is required: one of the known kinds"))
    elif request.kind is ActionKind.ADJUST_CONFIG:
        message = "AdjustConfig works by a rule's matches: ask for SetConfig, or write a rule"
        found.append(("kind", message))
    else:
        found += _check_scope(request.kind, request)
        value = _read_value(request.kind, request, found)
    found += _check_duration(request)
    if found or request.kind is None:
        return found
    return CheckedRequest(request=request, kind=request.kind, routing_domain=domain, value=value)


def parse_value(option: Option, text: str) -> Any:
    """
    Parse a value given as text, lists and tables as JSON, the rest as rule files spell it.

    Returns JSON's types in the canonical spelling. Errors: `InvalidValueError`.
    """
    raw: Any = text
    if option.kind in _JSON_KINDS:
        try:
            raw = json.loads(text)
        except (ValueError, RecursionError):
            raise InvalidValueError("a list or table is written as JSON") from None
    elif option.kind is Kind.BOOL:
        raw = {"true": True, "false": False}.get(text, text)
    elif option.kind is Kind.DURATION:
        raw = _read_number(text)
    return format_value(option.parse(raw))


def _read_number(text: str) -> float | str:
    """Read a number of seconds; a text that is none is left to the parser of durations."""
    try:
        return float(text) if text.isascii() else text
    except ValueError:
        return text


def _check_texts(request: ActionRequest) -> list[Violation]:
    found = []
    for name, longest in _LONGEST.items():
        text = getattr(request, name)
        if len(text) > longest:
            found.append((name, f"has at most {longest} characters"))
        # A reason may have lines; no database keeps NUL.
        elif "\x00" in text or (name != "reason" and has_control(text)):
            found.append((name, "has a control character"))
    return found


def _read_domain(text: str, found: list[Violation]) -> str:
    try:
        domain = normalise_domain(text)
    except InvalidValueError as error:
        found.append(("routing_domain", f'"{text[:80]}": {error}'))
        return ""
    if text and (not domain or any(sign.isspace() for sign in domain)):
        found.append(("routing_domain", f'"{text[:80]}" is no domain name'))
    return domain


def _check_scope(kind: ActionKind, request: ActionRequest) -> list[Violation]:
    need = _NEEDS[kind]
    found = []
    for name in _SCOPE_FIELDS:
        is_given = bool(getattr(request, name))
        if name in need.required and not is_given:
            found.append((name, f"is required for {kind}"))
        elif is_given and name not in need.taken:
            found.append((name, f"is not taken by {kind}: leave it out{_other_kind(kind, name)}"))
    if need.any_of and not any(getattr(request, name) for name in need.any_of):
        found.append((need.any_of[0], f"is required for {kind}, or {_list(need.any_of[1:])}"))
    if kind is ActionKind.SET_CONFIG and request.site_name and request.routing_domain:
        message = "is not taken beside site_name: SetConfig holds for the whole site, "
        found.append(("routing_domain", f"{message}SetDomainConfig for a domain"))
    return found


def _other_kind(kind: ActionKind, name: str) -> str:
    if name not in ("tenant", "campaign") or kind in OVERRIDES:
        return ""
    start = "Bounce" if kind.startswith("Bounce") else "Suspend"
    return f", or ask for {start}{name.title()}"


def _list(names: tuple[str, ...]) -> str:
    return " or ".join(names)


def _read_value(kind: ActionKind, request: ActionRequest, found: list[Violation]) -> Any:
    if kind not in OVERRIDES:
        found += [
            (name, f"is not taken by {kind}: leave it out")
            for name in ("option", "value")
            if getattr(request, name)
        ]
        return None
    if not request.option:
        found.append(("option", f"is required for {kind}"))
        return None
    try:
        option = find_settable(str(kind), request.option)
    except InvalidValueError as error:
        found.append(("option", str(error)))
        return None
    try:
        return parse_value(option, request.value)
    except InvalidValueError as error:
        found.append(("value", f'"{request.value[:80]}": {error}'))
        return None


def _check_duration(request: ActionRequest) -> list[Violation]:
    if request.duration is not None and request.duration <= timedelta():
        return [("duration", "is above zero")]
    if request.duration is None and not request.is_pinned:
        return [("duration", "is required, unless the action is pinned")]
    return []
