"""
Automation rules: from drafts to rules that can act.

Every field is checked, and all that is wrong is reported at once. What the actions do is not known
here (see `policy_server.automation`).
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from policy_server.rules import values
from policy_server.rules.catalogue import Kind, Option, build_catalogue
from policy_server.rules.issues import plain
from policy_server.rules.layers import (
    Action,
    AdjustConfig,
    AutomationDraft,
    AutomationRule,
    BlockDraft,
    Bounce,
    BounceCampaign,
    BounceTenant,
    Immediate,
    OptionAction,
    SetConfig,
    SetDomainConfig,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
    Threshold,
    Trigger,
)
from policy_server.rules.nearest import suggest
from policy_server.rules.patterns import check_pattern
from policy_server.rules.values import InvalidValueError, OptionValue

#: Actions written as a bare word.
_PLAIN_ACTIONS: Mapping[str, Action] = MappingProxyType(
    {
        "Suspend": Suspend(),
        "SuspendTenant": SuspendTenant(),
        "SuspendCampaign": SuspendCampaign(),
        "Bounce": Bounce(),
        "BounceTenant": BounceTenant(),
        "BounceCampaign": BounceCampaign(),
    }
)
_TRIGGERS = ("Immediate", "Threshold")
_MODES = ("enforce", "observe")
_SET_FIELDS = frozenset({"name", "value"})
_ADJUST_FIELDS = frozenset({"name", "factor", "floor", "recover_step", "recover_every"})
_ADJUSTABLE = frozenset({Kind.LIMIT, Kind.RATE})
#: A smaller one would need very many steps to recover a large value.
LEAST_RECOVER_STEP = 1.01
#: Each step is a change that every agent hears of.
LEAST_RECOVER_EVERY = timedelta(seconds=1)
#: With the steps it may take, an end within the calendar.
MOST_RECOVER_EVERY = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with one field of an automation rule."""

    code: str
    #: The field: regex, action, trigger, duration, match_internal or mode.
    field: str
    value: Any
    message: str
    is_warning: bool = False


class _Findings:
    """Gathers what is wrong, so that all of it is reported at once."""

    def __init__(self) -> None:
        self.found: list[Finding] = []

    def attempt(
        self,
        field: str,
        value: Any,
        parse: Callable[[Any], Any],
        *,
        show: Callable[[Any], Any] = lambda value: value,
    ) -> Any:
        try:
            return parse(value)
        except InvalidValueError as error:
            self.found.append(Finding(f"bad_{field}", field, show(value), str(error)))
            return None

    @property
    def has_errors(self) -> bool:
        return any(not finding.is_warning for finding in self.found)


def parse_rule(
    draft: AutomationDraft, *, block: BlockDraft, layer: str, position: int, ordinal: int
) -> tuple[AutomationRule | None, tuple[Finding, ...]]:
    """
    Parse one rule of *block*; None when it is wrong.

    *ordinal* numbers rules of the same text in the block, so that their keys differ.
    """
    findings = _Findings()
    _check_regexes(draft, findings)
    actions = _parse_actions(draft, findings)
    trigger = findings.attempt("trigger", draft.trigger, _parse_trigger)
    duration = findings.attempt("duration", draft.duration, _parse_duration)
    internal = findings.attempt("match_internal", draft.match_internal, values.parse_bool)
    mode = findings.attempt("mode", draft.mode, _parse_mode)
    found = tuple(findings.found)
    if findings.has_errors:
        return None, found
    rule = AutomationRule(
        key=_make_key(draft, block=block, layer=layer, ordinal=ordinal),
        layer=layer,
        scope=block.scope,
        name=block.name,
        source=block.source,
        mx_rollup=block.mx_rollup,
        position=position,
        regexes=tuple(draft.regexes),
        actions=actions,
        trigger=trigger,
        duration=duration,
        match_internal=internal,
        observe=mode == "observe",
    )
    return rule, found


def rule_text(draft: AutomationDraft) -> str:
    """Return what makes two rules of one block the same."""
    fields = (draft.regexes, draft.actions, draft.trigger, draft.duration, draft.match_internal)
    return json.dumps(plain(fields), sort_keys=True)


def _make_key(draft: AutomationDraft, *, block: BlockDraft, layer: str, ordinal: int) -> str:
    place = (layer, block.scope.value, block.name, block.source, block.mx_rollup, ordinal)
    return hashlib.sha256(json.dumps([place, rule_text(draft)]).encode()).hexdigest()[:32]


def _check_regexes(draft: AutomationDraft, findings: _Findings) -> None:
    if not draft.regexes:
        message = 'regex is missing: write regex = "..." or a list of patterns'
        findings.found.append(Finding("missing_regex", "regex", None, message))
    for pattern in draft.regexes:
        findings.attempt("regex", pattern, _parse_pattern)


def _parse_pattern(raw: Any) -> str:
    if not isinstance(raw, str):
        raise InvalidValueError("a pattern is a text in quotes")
    check_pattern(raw)
    return raw


def _parse_actions(draft: AutomationDraft, findings: _Findings) -> tuple[Action, ...]:
    if not draft.actions:
        message = 'action is missing: write action = "Suspend", for example'
        findings.found.append(Finding("missing_action", "action", None, message))
    parsed: list[Action] = []
    for raw in draft.actions:
        action = findings.attempt("action", raw, parse_action, show=hide_secret)
        if action is None:
            continue
        if _is_repeated(action, parsed):
            message = "the rule says this more than once; the first holds"
            shown = hide_secret(raw)
            findings.found.append(Finding("repeated_action", "action", shown, message, True))
        else:
            parsed.append(action)
    return tuple(parsed)


def _is_repeated(action: Action, earlier: Sequence[Action]) -> bool:
    """Whether an earlier action is of this kind and, where it changes an option, on this one."""
    return any(
        type(other) is type(action) and getattr(other, "name", "") == getattr(action, "name", "")
        for other in earlier
    )


def hide_secret(raw: Any) -> Any:
    """Return an action as people may see it: a secret's value is left out, however spelt."""
    if not isinstance(raw, Mapping):
        return raw
    options = build_catalogue().options
    shown = {}
    for name, fields in raw.items():
        option = options.get(str(fields.get("name"))) if isinstance(fields, Mapping) else None
        is_secret = option is not None and option.is_secret
        shown[name] = _hide_all_but_name(fields) if is_secret else fields
    return shown


def _hide_all_but_name(fields: Mapping[str, Any]) -> dict[str, Any]:
    # The key may be misspelt, and its value be the secret all the same.
    return {key: value if key == "name" else "(hidden)" for key, value in fields.items()}


def parse_action(raw: Any) -> Action:
    """Parse one action as rule files write it. Errors: `InvalidValueError`."""
    if isinstance(raw, str):
        return _parse_plain_action(raw)
    if not isinstance(raw, Mapping) or len(raw) != 1:
        raise InvalidValueError(
            'an action is a name such as "Suspend", or {SetConfig={name="...", value=...}}'
        )
    ((name, fields),) = raw.items()
    parse = _TABLE_ACTIONS.get(name)
    if parse is None:
        raise InvalidValueError(_unknown_action(name))
    if not isinstance(fields, Mapping):
        raise InvalidValueError(f"{name} takes a table of fields, such as {{name=..., ...}}")
    return parse(fields)


def _parse_plain_action(name: str) -> Action:
    if name in _TABLE_ACTIONS:
        raise InvalidValueError(f'{name} takes fields: write {{{name}={{name="...", ...}}}}')
    action = _PLAIN_ACTIONS.get(name)
    if action is None:
        raise InvalidValueError(_unknown_action(name))
    return action


def _unknown_action(name: str) -> str:
    known = (*_PLAIN_ACTIONS, *_TABLE_ACTIONS)
    if name in _PLAIN_ACTIONS:
        return f'{name} takes no fields: write action = "{name}"'
    return f'unknown action "{name}"{suggest(name, known) or "."} Known are {", ".join(known)}'


def _parse_set_config(fields: Mapping[str, Any]) -> SetConfig:
    name, value = _parse_setting("SetConfig", fields)
    return SetConfig(name=name, value=value)


def _parse_set_domain_config(fields: Mapping[str, Any]) -> SetDomainConfig:
    name, value = _parse_setting("SetDomainConfig", fields)
    return SetDomainConfig(name=name, value=value)


def _parse_setting(action: str, fields: Mapping[str, Any]) -> tuple[str, OptionValue]:
    _require_fields(action, fields, _SET_FIELDS)
    option = find_settable(action, fields["name"])
    try:
        return option.name, option.parse(fields["value"])
    except InvalidValueError as error:
        raise InvalidValueError(f"{action} {option.name}: {error}") from None


def parse_adjustment(fields: Mapping[str, Any]) -> AdjustConfig:
    """Parse the fields of AdjustConfig. Errors: `InvalidValueError`."""
    _require_fields("AdjustConfig", fields, _ADJUST_FIELDS)
    option = find_settable("AdjustConfig", fields["name"])
    if option.kind not in _ADJUSTABLE:
        raise InvalidValueError(f"AdjustConfig works on limits and rates, not on {option.name}")
    floor = _parse_adjust_field("floor", fields["floor"], option.parse)
    every = _parse_adjust_field("recover_every", fields["recover_every"], values.parse_duration)
    if not LEAST_RECOVER_EVERY <= every <= MOST_RECOVER_EVERY:
        raise InvalidValueError("AdjustConfig recover_every is from 1 second to 7 days")
    return AdjustConfig(
        name=option.name,
        factor=_parse_number(
            "factor", fields["factor"], lambda number: 0 < number < 1, "between 0 and 1"
        ),
        floor=floor,
        recover_step=_parse_number(
            "recover_step",
            fields["recover_step"],
            lambda number: LEAST_RECOVER_STEP <= number < math.inf,
            f"above 1, of at least {LEAST_RECOVER_STEP}",
        ),
        recover_every=every,
    )


def _parse_adjust_field(name: str, raw: Any, parse: Callable[[Any], Any]) -> Any:
    try:
        return parse(raw)
    except InvalidValueError as error:
        raise InvalidValueError(f"AdjustConfig {name}: {error}") from None


def _parse_number(name: str, raw: Any, is_allowed: Callable[[float], bool], allowed: str) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not is_allowed(raw):
        raise InvalidValueError(f"AdjustConfig {name} is a number {allowed}")
    return raw


_TABLE_ACTIONS: Mapping[str, Callable[[Mapping[str, Any]], OptionAction]] = MappingProxyType(
    {
        "SetConfig": _parse_set_config,
        "SetDomainConfig": _parse_set_domain_config,
        "AdjustConfig": parse_adjustment,
    }
)


def _require_fields(action: str, fields: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in fields:
        if name not in known:
            raise InvalidValueError(f'{action} has no field "{name}"{suggest(name, known)}')
    for name in sorted(known - fields.keys()):
        raise InvalidValueError(f"{action} needs the field {name}")


def find_settable(action: str, name: Any) -> Option:
    """Find an option that an action may set; *action* is named in the `InvalidValueError`."""
    options = build_catalogue().options
    option = options.get(name) if isinstance(name, str) else None
    if option is None:
        raise InvalidValueError(f'{action}: unknown option "{name}"{suggest(str(name), options)}')
    if option.provider_only:
        raise InvalidValueError(
            f"{action} works on one path and can't set {name}; set {name.removeprefix('provider_')}"
        )
    if option.is_secret:
        # The ledger of actions shows values, which a secret must never be.
        raise InvalidValueError(f"{action} can't set the secret {name}; set it in a block")
    return option


def _parse_trigger(raw: Any) -> Trigger:
    if raw == "Immediate":
        return Immediate()
    if isinstance(raw, Mapping) and raw.keys() == {"Threshold"}:
        return _parse_threshold(raw["Threshold"])
    name = next(iter(raw), "") if isinstance(raw, Mapping) else raw
    hint = suggest(str(name), _TRIGGERS)
    raise InvalidValueError(f'a trigger is "Immediate" or {{Threshold="10/hr"}}{hint}')


def _parse_threshold(raw: Any) -> Threshold:
    rate = values.parse_rate(raw)
    if rate.local or rate.max_burst is not None:
        raise InvalidValueError('a threshold is COUNT/PERIOD alone, such as "10/hr"')
    return Threshold(count=rate.count, period=rate.period)


def _parse_duration(raw: Any) -> timedelta:
    if raw is None:
        raise InvalidValueError('duration is missing: write duration = "1 hour", for example')
    duration = values.parse_duration(raw)
    if not duration:
        raise InvalidValueError("a duration of 0 would end as it begins")
    return duration


def _parse_mode(raw: Any) -> str:
    if raw not in _MODES:
        raise InvalidValueError(f"a mode is enforce or observe{suggest(str(raw), _MODES)}")
    return str(raw)
