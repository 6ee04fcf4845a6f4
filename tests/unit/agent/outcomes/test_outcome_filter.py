import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from agent.convert import outcome_of
from agent.delivery.record import Record, RecordType, Response
from agent.outcomes.outcome_filter import (
    TIMEOUTS_ALLOWED,
    CompiledFilter,
    Effort,
    FilterPattern,
    OutcomeFilter,
    compile_filter,
    could_match,
    reply_text,
)
from policy_server.automation.outcomes import reply_text as servers_reply_text
from policy_server.conversions.outcomes import from_outcome

_HANGING = FilterPattern(regex=r"(?=a)(a|a)*$", is_backtracking=True)


def _compile(*patterns: FilterPattern) -> CompiledFilter:
    return compile_filter(OutcomeFilter(etag="f1", patterns=patterns))


def _could(compiled: CompiledFilter, text: str, *, internal: bool = False) -> bool:
    return could_match(compiled, Response(code=0, content=text, internal=internal), Effort())


@pytest.mark.parametrize(
    ("patterns", "text", "internal", "expected"),
    [
        pytest.param([FilterPattern(regex="slow")], "slow down", False, True, id="found"),
        pytest.param([FilterPattern(regex="slow")], "ok", False, False, id="not found"),
        pytest.param([FilterPattern(regex="slow")], "slow", True, False, id="not for internal"),
        pytest.param(
            [FilterPattern(regex="slow", match_internal=True)], "slow", True, True, id="internal"
        ),
        pytest.param(
            [FilterPattern(regex="(?=sl)slow", is_backtracking=True)],
            "slow",
            False,
            True,
            id="backtracking",
        ),
        pytest.param(
            [FilterPattern(regex="(?=sl)slow", is_backtracking=True)],
            "slow",
            True,
            False,
            id="backtracking, not for internal",
        ),
        pytest.param([FilterPattern(regex=".*")], "", False, False, id="no text matches nothing"),
        pytest.param([], "anything", False, False, id="no rules"),
        pytest.param([FilterPattern(regex="(")], "x", False, True, id="not compiled: sent"),
        pytest.param(
            [FilterPattern(regex="(", is_backtracking=True)], "x", False, True, id="nor here"
        ),
    ],
)
def test_an_outcome_could_match(patterns, text, internal, expected):
    assert _could(_compile(*patterns), text, internal=internal) is expected


def test_a_filter_that_lets_everything_through_does():
    compiled = compile_filter(OutcomeFilter(etag="all", send_all=True))

    assert _could(compiled, "anything")


def test_a_pattern_that_takes_too_long_has_outcomes_sent_and_is_given_up():
    compiled, effort = _compile(_HANGING), Effort()
    hostile = Response(code=0, content="a" * 200 + "b")
    with pytest.raises(TimeoutError):
        regex.compile(_HANGING.regex).search(hostile.content, timeout=0.02)

    answers = [could_match(compiled, hostile, effort) for _ in range(10)]

    assert answers == [True] * 10
    assert effort.timeouts == {_HANGING.regex: TIMEOUTS_ALLOWED}


_texts = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\r\n\t \x0b\x0c\x1c\x85\u2028\u2029\x00\ud800ab1."),
    ),
    max_size=60,
)


@given(
    code=st.integers(0, 999),
    enhanced=st.none() | st.tuples(*[st.integers(0, 999)] * 3),
    content=_texts | _texts.map(lambda text: text * 60),
)
def test_the_text_is_the_one_that_the_server_sees(code, enhanced, content):
    response = Response(code=code, enhanced_code=enhanced, content=content)
    record = Record(
        type=RecordType.BOUNCE,
        event_id="e1",
        timestamp=1.0,
        id="m1",
        sender="",
        recipients=("a@b.example",),
        response=response,
        created=1.0,
    )

    received = from_outcome(outcome_of(record))

    assert reply_text(response) == servers_reply_text(received.reply)
