"""
What is done for each message, reply and question, by itself: nanoseconds of CPU, against the
simplest code that could stand in its place.

Each is the best of several rounds, so that other work on the machine matters little. Everything is
in the processor's caches, though, which it is not between the other work of a server: there the
same steps take half as long again or twice as long.
"""

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import cycle
from typing import Any, TypeVar

from agent.queue.pool import SourcePool
from agent.throttle.permit import try_take
from agent.throttle.rate import Rate, RateThrottle
from benchmarks.blocks import domain_of, make_layer, make_sites
from benchmarks.report import Report
from penstock.v1.policy_service_pb2 import GetEgressPathConfigRequest, MxHost
from policy_server.answering.answers import build_answer
from policy_server.answering.requests import Asked, read_request
from policy_server.answering.scope_answers import ScopeAnswers
from policy_server.automation.matching import Effort, compile_rules, match_outcome
from policy_server.automation.outcomes import Outcome, OutcomeType, Reply, reply_text
from policy_server.builtin import builtin_rules_path
from policy_server.rule_files.reader import read_rule_file
from policy_server.rules.config import to_config
from policy_server.rules.layers import AutomationRule
from policy_server.rules.parse import parse_layer
from policy_server.rules.resolve import Question, resolve
from policy_server.rules.scopes import find_scopes
from policy_server.rules.snapshot import Snapshot, compile_snapshot

_ITEMS = 5_000
_ROUNDS = 15
_BLOCKS = 10_000
_SECOND = 1_000_000_000
_NOW = datetime(2026, 8, 1, tzinfo=UTC)
_BUSY = "4.7.0 [TSS04] temporarily deferred due to unexpected volume or user complaints, number "
_QUEUED = "2.0.0 OK 1735689600 d2e1a72fcca58-1aeb5e8a7f1si1234567b3a.12 - queued for delivery as "


def measure() -> Report:
    """Measure throttle, choice of a source, match and resolve, each in a few cases."""
    report = Report(
        name="hot_paths",
        title="Hot paths by themselves, nanoseconds of CPU",
        columns=("what", "case", "ns", "simplest", "its ns", "ratio"),
        notes=["ratio: to the simplest code, which does less; 1 is as fast"],
    )
    gc.collect()
    gc.disable()
    try:
        for case in (*_throttle(), *_choose(), *_match(), *_resolve()):
            report.rows.append(case.to_row())
    finally:
        gc.enable()
    return report


@dataclass(frozen=True, slots=True)
class _Case:
    what: str
    name: str
    seconds: float
    simplest: str
    its_seconds: float

    def to_row(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "case": self.name,
            "ns": round(self.seconds * 1e9),
            "simplest": self.simplest,
            "its ns": round(self.its_seconds * 1e9),
            "ratio": self.seconds / self.its_seconds,
        }


_Time = TypeVar("_Time", int, float)


class _TokenBucket:
    """A throttle as many write it: in floating point, which is a little wrong now and then."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self.tokens, self.last = burst, 0.0

    def try_take(self, now: float) -> float:
        self.tokens = min(self.burst, self.tokens + (now - self.last) * self.per_second)
        self.last = now
        if self.tokens >= 1:
            self.tokens -= 1
            return 0.0
        return (1 - self.tokens) / self.per_second


def _throttle() -> Iterator[_Case]:
    allowed = range(_SECOND, _SECOND + _ITEMS * 10_000_000, 10_000_000)
    refused = range(_SECOND, _SECOND + _ITEMS)
    for name, times in (("passes", allowed), ("has to wait", refused)):
        throttles = (RateThrottle(Rate(count=6_000, period_ns=60 * _SECOND, max_burst=1)),)
        bucket = _TokenBucket(100, 1)
        # Then the first event has passed, and the others come too soon.
        try_take(throttles, times[0] - 10_000_000)
        bucket.try_take((times[0] - 10_000_000) / _SECOND)
        seconds = [now / _SECOND for now in times]
        span = times[-1] - times[0] + 10_000_000 if name == "passes" else 0
        yield _Case(
            "throttle",
            name,
            _best(partial(try_take, throttles), *_rounds(times, span)),
            "token bucket in floats",
            _best(bucket.try_take, *_rounds(seconds, span / _SECOND)),
        )


def _rounds(times: Sequence[_Time], span: _Time) -> list[list[_Time]]:
    """Let time go on from round to round, by *span*."""
    return [[now + span * number for now in times] for number in range(_ROUNDS)]


def _choose() -> Iterator[_Case]:
    for count in (1, 10, 100):
        names = [f"ip-{number}" for number in range(count)]
        pool, in_turn = SourcePool(dict.fromkeys(names, 1)), cycle(names)
        suspended = frozenset(names[::2]) if count > 1 else frozenset()

        def is_usable(name: str, suspended: frozenset[str] = suspended) -> bool:
            return name not in suspended

        def choose(_number: int, pool: SourcePool = pool) -> str | None:
            return pool.choose(is_usable)

        def take_next(_number: int, in_turn: Iterator[str] = in_turn) -> str:
            return next(in_turn)

        yield _Case(
            "choose",
            f"a source of {count}, {len(suspended)} of them suspended",
            _best(choose, range(_ITEMS)),
            "the next of a cycle",
            _best(take_next, range(_ITEMS)),
        )


def _match() -> Iterator[_Case]:
    rules = _read_builtin()
    compiled = compile_rules(rules)
    patterns = [re.compile(regex) for rule in rules for regex in rule.regexes]
    effort = Effort(clock=time.monotonic)

    def match(outcome: Outcome) -> None:
        match_outcome(compiled, outcome, effort)

    def search(text: str) -> None:
        for pattern in patterns:
            pattern.search(text)

    for name, code, text in (("that matches", 421, _BUSY), ("that does not", 250, _QUEUED)):
        outcomes = [_make_outcome(code, f"{text}{number}") for number in range(_ITEMS)]
        texts = [reply_text(outcome.reply) for outcome in outcomes[:100]]
        yield _Case(
            "match",
            f"a reply {name}, {len(patterns)} patterns",
            _best(match, outcomes),
            "loop of re.search",
            _best(search, texts),
        )


def _read_builtin() -> tuple[AutomationRule, ...]:
    draft, _ = read_rule_file(str(builtin_rules_path()))
    layer, _ = parse_layer(draft)
    return tuple(rule for block in layer.blocks for rule in block.automation)


def _make_outcome(code: int, content: str) -> Outcome:
    return Outcome(
        event_id="1",
        event_time=_NOW,
        type=OutcomeType.TRANSIENT_FAILURE,
        recipient_domain="yahoo.com",
        routing_domain="yahoo.com",
        reply=Reply(code=code, enhanced_code=(4, 7, 0), content=content),
    )


def _resolve() -> Iterator[_Case]:
    snapshot = _make_snapshot()
    raw = [_request(number) for number in range(2, _ITEMS + 2)]
    asked = [read_request(one) for one in raw]
    questions = [one.question for one in asked if isinstance(one.question, Question)]
    scopes = [find_scopes(snapshot, question) for question in questions]
    pairs = list(zip(scopes, questions, strict=True))
    known = ScopeAnswers(kept=_ITEMS)
    merged, looked_up = "merge of three dicts", "dict look-up"
    dicts = _best(_merge_dicts, questions)
    by_bytes = dict(zip(raw, asked, strict=True))
    look_up = _best(by_bytes.__getitem__, raw)

    def find(question: Question) -> object:
        return find_scopes(snapshot, question)

    def explain(question: Question) -> object:
        return resolve(snapshot, question)

    def configure(question: Question) -> object:
        return to_config(resolve(snapshot, question))

    def build(pair: tuple[Any, Question]) -> object:
        return build_answer(*pair, (), revision=1)

    def build_again(pair: tuple[Any, Question]) -> object:
        return build_answer(*pair, (), revision=1, find_ruled=known.find)

    def read(one: bytes) -> Asked:
        return read_request(one)

    yield _Case("resolve", "a request that came before", _best(read, raw), looked_up, look_up)
    yield _Case("resolve", "scopes of a question", _best(find, questions), looked_up, look_up)
    yield _Case("resolve", "options, with origins", _best(explain, questions), merged, dicts)
    yield _Case("resolve", "the same as a message", _best(configure, questions), merged, dicts)
    yield _Case("resolve", "an answer, its rules merged", _best(build, pairs), merged, dicts)
    yield _Case("resolve", "an answer, its rules known", _best(build_again, pairs), merged, dicts)


def _make_snapshot() -> Snapshot:
    layer, _ = parse_layer(make_layer(_BLOCKS))
    sites = {site.domain: site for site in make_sites(_BLOCKS)}
    return compile_snapshot([layer], sites=sites, revision=1)


def _request(number: int) -> bytes:
    domain = domain_of(number)
    return GetEgressPathConfigRequest(
        routing_domain=domain,
        egress_source=f"ip-{number % 8}",
        mx_hosts=[MxHost(host=f"mx.{domain}", preference=10)],
    ).SerializeToString()


_BUILT_IN: Mapping[str, object] = {f"option_{number}": number for number in range(60)}
_DEFAULT: Mapping[str, object] = {"option_1": 10, "option_2": timedelta(seconds=1)}
_OWN: Mapping[str, object] = {"option_1": 20, "option_2": timedelta(seconds=60)}


def _merge_dicts(_question: Question) -> dict[str, object]:
    return {**_BUILT_IN, **_DEFAULT, **_OWN}


_Item = TypeVar("_Item")


def _best(work: Callable[[_Item], object], *rounds: Sequence[_Item]) -> float:
    """Return the seconds of CPU for one item, in the best round; one for all rounds will do."""
    best = float("inf")
    for items in rounds * _ROUNDS if len(rounds) == 1 else rounds:
        began = time.process_time()
        for item in items:
            work(item)
        best = min(best, (time.process_time() - began) / len(items))
    return best
