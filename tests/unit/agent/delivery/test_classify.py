"""What replies mean."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.batches import RecipientBatches
from agent.delivery.classify import (
    Replies,
    Result,
    TooMany,
    classify,
    parse_reply,
    result_of,
    too_many_recipients,
)

OK = parse_reply(250, "2.0.0 ok")
GO = parse_reply(354, "go")


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (250, Result.DELIVERED),
        (251, Result.DELIVERED),
        (354, Result.TRANSIENT),
        (421, Result.TRANSIENT),
        (450, Result.TRANSIENT),
        (503, Result.TRANSIENT),
        (550, Result.PERMANENT),
        (571, Result.PERMANENT),
        pytest.param(99, Result.TRANSIENT, id="no SMTP code bounces mail"),
        pytest.param(-1, Result.TRANSIENT, id="nor does none at all"),
        pytest.param(600, Result.TRANSIENT, id="nor one beyond the classes"),
    ],
)
def test_the_class_of_a_code_decides(code: int, result: Result) -> None:
    assert result_of(parse_reply(code, "")) is result


@pytest.mark.parametrize(
    ("code", "text", "verdict"),
    [
        (452, "4.5.3 too many recipients", TooMany.YES),
        (452, "too many recipients", TooMany.MAYBE),
        (552, "too much", TooMany.MAYBE),
        (452, "4.2.2 mailbox full", TooMany.NO),
        (450, "later", TooMany.NO),
    ],
)
def test_too_many_recipients_is_told_from_a_full_mailbox(
    code: int, text: str, verdict: TooMany
) -> None:
    assert too_many_recipients(parse_reply(code, text)) is verdict


def test_any_2xx_to_rcpt_is_acceptance() -> None:
    replies = Replies(
        recipients=("a", "b"),
        mail=OK,
        rcpt=(parse_reply(251, "will forward"), parse_reply(252, "can't verify")),
        data=GO,
        ends=(OK,),
    )

    assert [each.result for each in classify(replies)] == [Result.DELIVERED] * 2


def test_2xx_to_data_delivers_nothing() -> None:
    replies = Replies(recipients=("a",), mail=OK, rcpt=(OK,), data=OK)

    assert classify(replies)[0].result is Result.TRANSIENT


def test_one_too_many_is_sent_again_but_never_the_first() -> None:
    full = parse_reply(452, "too many")
    replies = Replies(recipients=("a", "b"), mail=OK, rcpt=(full, full))

    first, second = classify(replies)
    (_, again) = classify(replies, suspected=frozenset({"b"}))

    assert (first.result, second.result) == (Result.TRANSIENT, Result.AGAIN)
    assert again.result is Result.TRANSIENT


replies_strategy = st.builds(
    parse_reply,
    st.integers(-1, 999),
    st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")),
)


@given(
    mail=replies_strategy,
    rcpt=st.lists(replies_strategy, max_size=5),
    data=st.none() | replies_strategy,
    ends=st.lists(replies_strategy, max_size=4),
    is_lmtp=st.booleans(),
    failure=st.none() | replies_strategy,
)
def test_any_replies_classify_every_recipient_once(
    mail, rcpt, data, ends, is_lmtp, failure
) -> None:
    recipients = ("a", "b", "c", "d", "e")

    results = classify(
        Replies(
            recipients=recipients,
            mail=mail,
            rcpt=tuple(rcpt),
            data=data,
            ends=tuple(ends),
            is_lmtp=is_lmtp,
            failure=failure,
        )
    )

    assert tuple(each.recipient for each in results) == recipients
    for each in results:
        each.response.content.encode()
        if each.result is Result.DELIVERED:
            assert each.response in ends
            assert 200 <= each.response.code < 300


@given(
    capacity=st.integers(1, 5),
    text=st.sampled_from(["4.5.3 too many", "too many"]),
    count=st.integers(1, 30),
)
def test_batches_end_and_settle_every_recipient_once(capacity: int, text: str, count: int) -> None:
    """A peer that takes a few recipients a transaction."""
    batches = RecipientBatches([f"r{number}" for number in range(count)])
    settled = []
    transactions = 0
    while batches.waiting:
        transactions += 1
        batch = batches.peek(100)
        full = parse_reply(452, text)
        rcpt = tuple(OK if place < capacity else full for place in range(len(batch)))
        replies = Replies(recipients=batch, mail=OK, rcpt=rcpt, data=GO, ends=(OK,))
        settled += batches.settle(classify(replies, suspected=batches.suspected))

    assert sorted(each.recipient for each in settled) == sorted(f"r{n}" for n in range(count))
    assert transactions <= count
