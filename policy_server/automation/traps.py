"""
Traps: rules that would match what our own agents write because of the rule's effect.

Such a rule feeds itself: it bounces mail, an agent reports the bounce in a text of its own, the
rule matches that and goes on for ever. What agents write themselves concerns only rules with
`match_internal`, so no other rule can be one.

1. Bounces are reported with the action's reason, which has the rule's own patterns in it.
2. Mail that waits too long expires: so do suspended mail and, where a limit is lowered, throttled.
3. An override can make an agent give up for a cause of its own: a short time limit, a host that is
   skipped, TLS that is required.

The texts stand here a second time, as the server does not import the agent; a test holds the two
equal. Numbers and names in them are examples.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import regex

from policy_server.automation.actions import block_title
from policy_server.automation.matching import Effort, PatternError, compile_pattern
from policy_server.rules.layers import (
    Action,
    AutomationRule,
    Bounce,
    BounceCampaign,
    BounceTenant,
    OptionAction,
    Suspend,
    SuspendCampaign,
    SuspendTenant,
)

#: Followed by the reason of the action.
BOUNCED = "551 5.7.1 Administrator bounced with reason: "
EXPIRED = (
    "551 5.4.7 Next delivery time would be 604800s after creation, which exceeds max_age=604800s"
)
#: Followed by the command.
TIMED_OUT = "421 4.4.2 failed to send message: timed out waiting for the reply to "
UNREACHABLE = (
    "400 failed to connect to any candidate hosts: mx.example.com/192.0.2.7:25: connect timed out"
)
ONLY_SKIPPED = "451 4.4.4 MX consisted solely of hosts on the skip_hosts list"
PROHIBITED = "550 5.4.4 192.0.2.7 is on the list of prohibited_hosts"
TOO_MANY_FAILURES = (
    "451 4.4.1 bulk delay of ready queue: too many successive connection failures where there "
    "was no answer from any hosts listed in MX"
)

#: What an override of an option may make agents write, besides letting mail expire.
TEXTS_OF_OPTIONS: Mapping[str, tuple[str, ...]] = {
    "skip_hosts": (ONLY_SKIPPED,),
    "prohibited_hosts": (PROHIBITED,),
    "consecutive_connection_failures_before_delay": (TOO_MANY_FAILURES,),
    "mail_from_timeout": (TIMED_OUT + "MAIL FROM",),
    "rcpt_to_timeout": (TIMED_OUT + "RCPT TO",),
    "data_timeout": (TIMED_OUT + "DATA",),
    "data_dot_timeout": (TIMED_OUT + ".",),
    # What fails before the first mail is sent over a connection is a host that can't be used.
    **dict.fromkeys(
        (
            "connect_timeout",
            "banner_timeout",
            "ehlo_timeout",
            "starttls_timeout",
            "auth_timeout",
            "smtp_port",
            "enable_tls",
        ),
        (UNREACHABLE,),
    ),
}
_BOUNCES = (Bounce, BounceTenant, BounceCampaign)
_SUSPENSIONS = (Suspend, SuspendTenant, SuspendCampaign)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trap:
    """A pattern that matches what the rule itself leads to."""

    rule: AutomationRule
    pattern: str
    #: What an agent writes.
    text: str

    @property
    def message(self) -> str:
        """Say what is wrong, for people."""
        return (
            f'"{self.pattern}" also matches what agents write because of this rule,'
            f' "{self.text}", so it would go on by itself: drop match_internal, or make the'
            " pattern narrower"
        )


def own_texts(rule: AutomationRule) -> tuple[str, ...]:
    """List what agents write because of *rule*, as patterns see it."""
    found = (text for action in rule.actions for text in _texts_of(action, rule))
    return tuple(dict.fromkeys(found))


def find_traps(rules: Iterable[AutomationRule], effort: Effort) -> Iterator[Trap]:
    """Find the traps among *rules*, each rule's first; *effort* bounds what that may take."""
    for rule in rules:
        if rule.match_internal and (trap := _find_trap(rule, effort)) is not None:
            yield trap


def _find_trap(rule: AutomationRule, effort: Effort) -> Trap | None:
    texts = own_texts(rule)
    for pattern in rule.regexes:
        try:
            compiled = compile_pattern(pattern)
        except PatternError:
            continue
        for text in texts:
            is_slow = isinstance(compiled, regex.Pattern)
            if effort.search(compiled, text) if is_slow else compiled.search(text):
                return Trap(rule=rule, pattern=pattern, text=text)
    return None


def _texts_of(action: Action, rule: AutomationRule) -> tuple[str, ...]:
    if isinstance(action, _BOUNCES):
        return (BOUNCED + _reason_of(rule),)
    if isinstance(action, _SUSPENSIONS):
        return (EXPIRED,)
    if isinstance(action, OptionAction):
        return (EXPIRED, *TEXTS_OF_OPTIONS.get(action.name, ()))
    return ()


def _reason_of(rule: AutomationRule) -> str:
    # As `ActionInForce.reason` has it once the rule has acted.
    patterns = " | ".join(rule.regexes)
    return f"{rule.layer}: {block_title(rule)} automation {rule.position}: {patterns}"
