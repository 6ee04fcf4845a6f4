"""
Conversions between the messages of the RuleService and what the server knows of rules.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from penstock.v1 import rule_service_pb2 as pb
from policy_server.conversions.times import write_bound, write_time
from policy_server.errors import InvalidRequest
from policy_server.rule_files.reader import FileFormat
from policy_server.rules.diff import BlockDiff, Change, LayerDiff, OptionDiff
from policy_server.rules.issues import and_more, describe_issue, plain
from policy_server.rules.layers import Issue, Severity
from policy_server.store.history import Revision
from policy_server.store.layers import LayerRow
from policy_server.store.rule_errors import RuleError

#: The most entries that an answer lists where there may be as many as a file has lines.
MOST_LISTED = 1000
#: Longest text of one violation, and of all: they travel in a trailer of 8 KiB.
_LONGEST_VIOLATION = 500
_LONGEST_VIOLATIONS = 5000

_FORMATS: Mapping[int, FileFormat] = {
    pb.RULE_FILE_FORMAT_UNSPECIFIED: FileFormat.TOML,
    pb.RULE_FILE_FORMAT_TOML: FileFormat.TOML,
    pb.RULE_FILE_FORMAT_JSON: FileFormat.JSON,
}
_SEVERITIES: Mapping[str, pb.RuleSeverity] = {
    Severity.WARNING: pb.RULE_SEVERITY_WARNING,
    Severity.ERROR: pb.RULE_SEVERITY_ERROR,
}
_CHANGES: Mapping[Change | None, pb.RuleChange] = {
    None: pb.RULE_CHANGE_UNSPECIFIED,
    Change.ADDED: pb.RULE_CHANGE_ADDED,
    Change.REMOVED: pb.RULE_CHANGE_REMOVED,
    Change.CHANGED: pb.RULE_CHANGE_CHANGED,
}


def read_format(number: int) -> FileFormat:
    """Read a format. Raises `InvalidRequest` for one that is not known."""
    try:
        return _FORMATS[number]
    except KeyError:
        raise InvalidRequest("format is TOML or JSON", field="format") from None


def refuse(issues: Iterable[Issue], *, field: str, what: str) -> InvalidRequest:
    """Make the error that tells of every mistake, as far as there is room."""
    described = [describe_issue(issue)[:_LONGEST_VIOLATION] for issue in issues]
    violations: list[tuple[str, str]] = []
    room = _LONGEST_VIOLATIONS
    for text in described:
        room -= len(text.encode())
        if violations and room < 0:
            break
        violations.append((field, text))
    message = f"{what}: {described[0]}{and_more(len(described) - 1)}"
    return InvalidRequest(message, field=field, violations=violations)


def to_layer(row: LayerRow) -> pb.Layer:
    """Convert a layer."""
    return pb.Layer(
        name=row.name,
        position=row.position,
        enabled=row.enabled,
        block_count=row.blocks,
        description=row.description,
        valid_from_time=write_bound(row.valid_from),
        valid_until_time=write_bound(row.valid_until),
    )


def to_issue(issue: Issue) -> pb.RuleIssue:
    """Convert an issue; secrets in its value are hidden."""
    return pb.RuleIssue(
        severity=_SEVERITIES[issue.severity],
        code=issue.code,
        file=issue.file,
        line=issue.line or 0,
        block=issue.block,
        option=issue.option,
        value=_to_json(issue.value),
        message=issue.message,
    )


def to_layer_change(diff: LayerDiff) -> pb.LayerChange:
    """Convert what changes in a layer."""
    return pb.LayerChange(
        layer=diff.layer,
        change=_CHANGES[diff.change],
        blocks=map(_to_block_change, diff.blocks[:MOST_LISTED]),
        block_count=len(diff.blocks),
        reordered=diff.is_reordered,
    )


def to_revision(revision: Revision) -> pb.RuleRevision:
    """Convert a revision."""
    return pb.RuleRevision(
        revision=revision.id,
        commit_time=write_time(revision.committed_at),
        author=revision.author,
        summary=revision.summary,
        row_count=revision.changes,
    )


def to_rule_error(error: RuleError) -> pb.RuleError:
    """Convert what the server wrote down."""
    return pb.RuleError(
        id=error.id,
        severity=_SEVERITIES[error.severity],
        code=error.code,
        layer=error.layer,
        block=error.block,
        block_id=error.block_id or 0,
        option=error.option,
        value=_to_json(error.value),
        message=error.message,
        since_revision=error.since_revision,
    )


def _to_block_change(diff: BlockDiff) -> pb.BlockChange:
    return pb.BlockChange(
        block=diff.block,
        change=_CHANGES[diff.change],
        options=map(_to_option_change, diff.options),
    )


def _to_option_change(diff: OptionDiff) -> pb.OptionChange:
    return pb.OptionChange(
        option=diff.option,
        change=_CHANGES[diff.change],
        old_value="" if diff.change is Change.ADDED else json.dumps(diff.old),
        new_value="" if diff.change is Change.REMOVED else json.dumps(diff.new),
    )


def _to_json(value: Any) -> str:
    return "" if value is None else json.dumps(plain(value))
