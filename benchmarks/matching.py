"""
What matching one outcome costs, by the number of patterns consulted.

The patterns are those of the built-in rules, then variations of them, each with a word of its own;
one in a hundred has look-around, which RE2 can't express. One reply matches a few of them and one
none; each is tried with another number at its end, so that no result can be remembered.
"""

import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import chain, count, islice
from typing import TypeVar

from benchmarks.report import Report
from policy_server.automation.matching import CompiledRules, Effort, compile_rules, match_outcome
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply, reply_text
from policy_server.builtin import builtin_rules_path
from policy_server.rule_files.reader import read_rule_file
from policy_server.rules.layers import AutomationRule, Immediate, Scope, Suspend
from policy_server.rules.parse import parse_layer

SIZES = (10, 100, 1_000)
_OUTCOMES = 2_000
#: Loops over all patterns are slow: fewer outcomes are enough.
_LOOPED = 100
_ROUNDS = 5
_NOW = datetime(2026, 8, 1, tzinfo=UTC)
_REPLIES = {
    "matching": Reply(
        code=421,
        enhanced_code=(4, 7, 0),
        content="[TSS04] Messages from 192.0.2.7 temporarily deferred due to unexpected volume or"
        " user complaints - 4.16.55.1; see https://postmaster.yahooinc.com/error-codes",
    ),
    "other": Reply(
        code=250,
        enhanced_code=(2, 0, 0),
        content="OK 1735689600 d2e1a72fcca58-1aeb5e8a7f1si1234567b3a.12 - gsmtp, queued for"
        " delivery to the mailbox of the recipient",
    ),
}


def measure(sizes: Sequence[int] = SIZES) -> Report:
    """Measure each number of patterns with both replies."""
    report = Report(
        name="matching",
        title="Cost of matching one outcome, in microseconds",
        columns=(
            "patterns",
            "reply",
            "one pass",
            "by 10 patterns",
            "one re.search",
            "to one re.search",
            "loop of re.search",
            "to the loop",
            "compiling ms",
        ),
        notes=[
            '"by 10 patterns": ratio to the first row of that reply (1: the cost does not grow);',
            '"one re.search": the first pattern alone; "loop": all patterns, one after the other;',
            "ratios above 1 are slower than what they are compared with",
        ],
    )
    first: dict[str, float] = {}
    for size in sizes:
        patterns = _make_patterns(size)
        rules = tuple(map(_make_rule, patterns))
        began = time.perf_counter()
        compiled = compile_rules(rules)
        compiling = time.perf_counter() - began
        for name, reply in _REPLIES.items():
            outcomes = [_make_outcome(reply, number) for number in range(_OUTCOMES)]
            texts = [reply_text(outcome.reply) for outcome in outcomes]
            single, *others = map(re.compile, patterns)
            effort = Effort(clock=time.monotonic)

            ours = _time(partial(_match, compiled, effort), outcomes)
            one = _time(single.search, texts)
            looped = _time(partial(_search_all, (single, *others)), texts[:_LOOPED])
            first.setdefault(name, ours)
            report.rows.append(
                {
                    "patterns": size,
                    "reply": name,
                    "one pass": ours * 1e6,
                    "by 10 patterns": ours / first[name],
                    "one re.search": one * 1e6,
                    "to one re.search": ours / one,
                    "loop of re.search": looped * 1e6,
                    "to the loop": ours / looped,
                    "compiling ms": compiling * 1e3,
                }
            )
    return report


def _match(compiled: CompiledRules, effort: Effort, outcome: Outcome) -> None:
    match_outcome(compiled, outcome, effort)


def _search_all(patterns: Sequence[re.Pattern[str]], text: str) -> None:
    for pattern in patterns:
        pattern.search(text)


def _make_patterns(size: int) -> list[str]:
    draft, _ = read_rule_file(str(builtin_rules_path()))
    layer, _ = parse_layer(draft)
    base = [
        pattern for block in layer.blocks for rule in block.automation for pattern in rule.regexes
    ]
    varied = (_vary(base[number % len(base)], number) for number in count())
    return list(islice(chain(base, varied), size))


def _vary(pattern: str, number: int) -> str:
    # As KumoMTA's own files have it: not where the text is the program's own.
    look = "(?!.*internal)" if number % 100 == 0 else ""
    flags = "(?i)" if pattern.startswith("(?i)") else ""
    return rf"{flags}{look}(?:{pattern.removeprefix(flags)}).*reason {number}\d*\b"


def _make_rule(pattern: str) -> AutomationRule:
    return AutomationRule(
        key=pattern,
        layer="base",
        scope=Scope.DEFAULT,
        name="",
        source="",
        mx_rollup=True,
        position=0,
        regexes=(pattern,),
        actions=(Suspend(),),
        trigger=Immediate(),
        duration=timedelta(hours=1),
    )


def _make_outcome(reply: Reply, number: int) -> Outcome:
    return Outcome(
        event_id=str(number),
        event_time=_NOW,
        type=OutcomeType.TRANSIENT_FAILURE,
        recipient_domain="yahoo.com",
        routing_domain="yahoo.com",
        reply=Reply(
            code=reply.code,
            enhanced_code=reply.enhanced_code,
            content=f"{reply.content} ({number})",
        ),
    )


_Item = TypeVar("_Item")


def _time(work: Callable[[_Item], object], items: Sequence[_Item]) -> float:
    """Return the seconds that one item takes, at the best of several rounds."""
    best = float("inf")
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        for item in items:
            work(item)
        best = min(best, time.perf_counter() - began)
    return best / len(items)
