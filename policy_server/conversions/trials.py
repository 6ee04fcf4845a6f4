"""
Conversions between the messages of TestRules and what the server knows of trials.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.v1 import automation_service_pb2 as pb
from policy_server.automation.actions import block_title
from policy_server.automation.trial import TrialResult, describe_warnings
from policy_server.automation.unmatched import UnmatchedReplies
from policy_server.conversions.actions import to_action
from policy_server.errors import InvalidRequest
from policy_server.rule_files.reader import FileFormat
from policy_server.rules.issues import describe_issue
from policy_server.rules.layers import AutomationRule, Issue, Severity

#: Most warnings of an answer.
MAX_WARNINGS = 1000
_FORMATS: Mapping[str, FileFormat] = {
    "": FileFormat.TOML,
    **{format.value: format for format in FileFormat},
}
_FIRST = datetime.min.replace(tzinfo=UTC)
_LAST = datetime.max.replace(tzinfo=UTC)


def read_format(name: str) -> FileFormat:
    """Read a format. Errors: `InvalidRequest` for one that is not known."""
    if name not in _FORMATS:
        raise InvalidRequest(f'format "{name[:80]}" is not "toml" or "json"', field="format")
    return _FORMATS[name]


def read_span(request: pb.TestRulesRequest) -> tuple[datetime, datetime]:
    """Read from when until when stored outcomes are run over. Errors: `InvalidRequest`."""
    start, end = (
        _read_time(request, name, otherwise)
        for name, otherwise in (("start_time", _FIRST), ("end_time", _LAST))
    )
    if start >= end:
        raise InvalidRequest("start_time is not before end_time", field="end_time")
    if request.outcomes and (start, end) != (_FIRST, _LAST):
        message = "start_time and end_time are for stored outcomes; leave them out, or outcomes"
        raise InvalidRequest(message, field="start_time")
    return start, end


def to_response(result: TrialResult, issues: Iterable[Issue]) -> pb.TestRulesResponse:
    """Write what would have happened, and what is odd about the rules."""
    warnings = [
        *(describe_issue(issue) for issue in issues if issue.severity is Severity.WARNING),
        *describe_warnings(result),
    ]
    return pb.TestRulesResponse(
        actions=map(to_action, result.actions),
        rules=[
            pb.TestedRule(
                rule=_to_rule(tried.rule),
                match_count=tried.match_count,
                action_count=tried.action_count,
            )
            for tried in result.rules
        ],
        outcome_count=result.outcome_count,
        unmatched_count=result.unmatched_count,
        warnings=warnings[:MAX_WARNINGS],
        unmatched_replies=map(_to_unmatched, result.unmatched),
    )


def spell_enhanced(code: tuple[int, int, int] | None) -> str:
    """
    Write an enhanced code as replies do; nothing for none.

    >>> spell_enhanced((4, 7, 0))
    '4.7.0'
    """
    return ".".join(map(str, code)) if code else ""


def _to_rule(rule: AutomationRule) -> pb.AutomationRuleRef:
    return pb.AutomationRuleRef(
        layer=rule.layer, block=block_title(rule), position=rule.position, regexes=rule.regexes
    )


def _to_unmatched(replies: UnmatchedReplies) -> pb.UnmatchedReplies:
    return pb.UnmatchedReplies(
        code=replies.code,
        enhanced_code=spell_enhanced(replies.enhanced_code),
        text=replies.text,
        internal=replies.internal,
        count=replies.count,
        site_name=replies.site_name,
    )


def _read_time(request: pb.TestRulesRequest, name: str, otherwise: datetime) -> datetime:
    if not request.HasField(name):
        return otherwise
    message: Timestamp = getattr(request, name)
    try:
        return message.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"{name} is no time of the calendar", field=name) from error
