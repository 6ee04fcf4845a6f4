"""Issues as people and programs read them, and how a block is called in them."""

import json
from collections.abc import Mapping
from typing import Any

from policy_server.rules.layers import Issue, Scope


def block_title(scope: Scope, name: str, source: str) -> str:
    """
    Name a block as rule files do.

    >>> block_title(Scope.PROVIDER, "google", "ip-1")
    'provider."google".sources."ip-1"'
    """
    match scope:
        case Scope.DEFAULT:
            title = "default"
        case Scope.PROVIDER:
            title = f"provider.{_quote(name)}"
        case Scope.DOMAIN:
            title = _quote(name)
    return f"{title}.sources.{_quote(source)}" if source else title


def describe_issue(issue: Issue) -> str:
    """Put an issue on one line: place, block, what is wrong."""
    place = issue.file
    if issue.file and issue.line is not None:
        place = f"{issue.file}:{issue.line}"
    elif issue.block_id is not None:
        place = f"rule_blocks {issue.block_id}"
    parts = [place, f"[{issue.block}]" if issue.block else "", issue.message]
    return ": ".join(part for part in parts if part)


def issue_json(issue: Issue) -> dict[str, Any]:
    """Return an issue as commands print it under --json."""
    return {
        "file": issue.file,
        "line": issue.line,
        "block": issue.block,
        "option": issue.option,
        "value": plain(issue.value),
        "message": issue.message,
        "code": issue.code,
    }


def and_more(count: int) -> str:
    """
    Say at the end of a message how many mistakes more there are.

    >>> and_more(1), and_more(0)
    (', and 1 more mistake', '')
    """
    return f", and {count} more mistake{'s' if count > 1 else ''}" if count else ""


def plain(value: Any) -> Any:
    """Return a value made of JSON's types; TOML's dates become texts, secrets are hidden."""
    if isinstance(value, Mapping):
        return {
            str(name): "(hidden)" if name == "key_data" else plain(entry)
            for name, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def quote_value(value: Any) -> str:
    """Show a value in a message, as JSON, shortened."""
    text = json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _quote(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)
