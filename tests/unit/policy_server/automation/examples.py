"""Rules and outcomes for the tests of automation."""

from datetime import UTC, datetime, timedelta
from typing import Any

from policy_server.automation.outcomes import Outcome, OutcomeType, Reply
from policy_server.rules.layers import (
    Action,
    AutomationRule,
    Immediate,
    Scope,
    Suspend,
    Trigger,
)

START = datetime(2026, 8, 1, 12, tzinfo=UTC)


def make_rule(**changes: Any) -> AutomationRule:
    """A rule that suspends for an hour at every match."""
    actions: tuple[Action, ...] = (Suspend(),)
    trigger: Trigger = Immediate()
    values: dict[str, Any] = {
        "key": "base/provider yahoo/0",
        "layer": "base",
        "scope": Scope.PROVIDER,
        "name": "yahoo",
        "source": "",
        "mx_rollup": True,
        "position": 0,
        "regexes": (r"\[TS04\]",),
        "actions": actions,
        "trigger": trigger,
        "duration": timedelta(hours=1),
    }
    return AutomationRule(**(values | changes))


def make_outcome(event_id: str = "e1", minutes: float = 0, **changes: Any) -> Outcome:
    """A reply of Yahoo's to ip-1, so many minutes after the start."""
    values: dict[str, Any] = {
        "event_id": event_id,
        "event_time": START + timedelta(minutes=minutes),
        "type": OutcomeType.TRANSIENT_FAILURE,
        "recipient_domain": "yahoo.com",
        "routing_domain": "yahoo.com",
        "site_name": "(mta5|mta6).am0.yahoodns.net",
        "path_name": "ip-1->(mta5|mta6).am0.yahoodns.net",
        "egress_source": "ip-1",
        "reply": Reply(code=421, enhanced_code=(4, 7, 0), content="[TS04] deferred"),
    }
    return Outcome(**(values | changes))
