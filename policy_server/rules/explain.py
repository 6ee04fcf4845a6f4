"""Where each value of an answer comes from, as JSON and as rows of a table."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policy_server.rules.catalogue import build_catalogue
from policy_server.rules.merge import Origin, ResolvedOption
from policy_server.rules.resolve import Question, Resolution
from policy_server.rules.values import OptionValue, format_value


@dataclass(frozen=True, slots=True)
class ExplainRow:
    """One option for a table: its value, who set it, what that replaced."""

    option: str
    value: str
    #: Empty for the built-in default.
    set_by: str
    overrode: str


def explain_json(
    resolution: Resolution, question: Question, *, revision: int, etag: str
) -> dict[str, Any]:
    """Return the answer with its origins, made of JSON's types."""
    return {
        "routing_domain": question.routing_domain,
        "egress_source": question.egress_source,
        "site_name": resolution.site_name,
        "path_name": resolution.path_name,
        "provider_names": list(resolution.provider_names),
        "revision": revision,
        "etag": etag,
        "options": {name: _explain_option(resolved) for name, resolved in _in_order(resolution)},
    }


def explain_rows(resolution: Resolution) -> tuple[ExplainRow, ...]:
    """Return a row for each option that has a value, in the catalogue's order."""
    return tuple(
        ExplainRow(
            name,
            _show(resolved.value),
            describe_origin(resolved.set_by) if resolved.set_by else "",
            ", ".join(
                f"{_show(value)} ({describe_origin(origin)})" for value, origin in resolved.overrode
            ),
        )
        for name, resolved in _in_order(resolution)
    )


def describe_origin(origin: Origin) -> str:
    """
    Name an origin in a few words.

    >>> describe_origin(Origin(layer="custom", scope="domain", name="foo.com", source="ip-1"))
    'custom: domain foo.com, source ip-1'
    """
    text = f"{origin.layer}: {origin.scope}"
    if origin.name:
        text += f" {origin.name}"
    if origin.source:
        text += f", source {origin.source}"
    if origin.automation_action_id is not None:
        text += f", action {origin.automation_action_id}"
    return text


def _in_order(resolution: Resolution) -> Iterator[tuple[str, ResolvedOption]]:
    options = resolution.options
    for name in build_catalogue().options:
        if name in options:
            yield name, options[name]


def _explain_option(resolved: ResolvedOption) -> dict[str, Any]:
    explained: dict[str, Any] = {
        "value": format_value(resolved.value),
        "set_by": _origin_json(resolved.set_by) if resolved.set_by else None,
        "overrode": [
            {"value": format_value(value), **_origin_json(origin)}
            for value, origin in resolved.overrode
        ],
    }
    if resolved.entries:
        explained["entries"] = {
            key: _origin_json(origin) for key, origin in resolved.entries.items()
        }
    return explained


def _origin_json(origin: Origin) -> dict[str, Any]:
    return {
        "layer": origin.layer,
        "scope": origin.scope,
        "name": origin.name,
        "source": origin.source,
        "block_id": origin.block_id,
        "automation_action_id": origin.automation_action_id,
    }


def _show(value: OptionValue) -> str:
    shown = format_value(value)
    if isinstance(shown, dict):
        return ", ".join(f"{key}: {entry}" for key, entry in shown.items())
    if isinstance(shown, list):
        return ", ".join(map(str, shown))
    return str(shown).lower() if isinstance(shown, bool) else str(shown)
