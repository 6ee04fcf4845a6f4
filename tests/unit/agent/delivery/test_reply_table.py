"""
Every reply at every step, as reference tables of other programs have it, and what it means for each
recipient; and every response that the agent makes itself.

A row is a transaction: the replies to MAIL, to each RCPT, to DATA and to the end of the message.
"""

import inspect
from typing import Any

import pytest

from agent.delivery import internal
from agent.delivery.classify import Replies, Result, classify, parse_reply, result_of
from agent.delivery.record import Response

D, T, P, A = Result.DELIVERED, Result.TRANSIENT, Result.PERMANENT, Result.AGAIN
OK, GO = "250 2.0.0 ok", "354 go on"
LOST = internal.broken(".", "connection lost")
LATE = internal.timed_out(".")


def _reply(text: str) -> Response:
    code, _, rest = text.partition(" ")
    return parse_reply(int(code), rest)


def _case(name: str, expected: list[tuple[Result, str]], **replies: Any) -> Any:
    return pytest.param(replies, expected, id=name)


CASES = [
    _case("all is well", [(D, "250")], rcpt=[OK], data=GO, ends=[OK]),
    _case("any 2xx to the end is success", [(D, "259")], rcpt=[OK], data=GO, ends=["259 ok"]),
    # MAIL: one reply for all.
    _case("MAIL put off", [(T, "451"), (T, "451")], mail="451 4.7.1 later", rcpt=[], of=2),
    _case("MAIL refused", [(P, "550"), (P, "550")], mail="550 5.7.1 no", rcpt=[], of=2),
    _case("MAIL refused, in a pipeline", [(P, "550")], mail="550 no", rcpt=["503 first MAIL"]),
    _case("MAIL 421", [(T, "421")], mail="421 4.7.0 bye", rcpt=[]),
    _case("MAIL 421 and the end", [(T, "421")], mail="421 bye", rcpt=[], failure=LOST),
    _case("MAIL 503", [(T, "503")], mail="503 5.5.1 out of order", rcpt=[]),
    _case("MAIL 354", [(T, "354")], mail="354 what", rcpt=[]),
    _case("MAIL 555, a parameter", [(P, "555")], mail="555 5.5.4 SMTPUTF8?", rcpt=[]),
    # RCPT: each recipient has a reply of its own.
    _case(
        "RCPT mixed",
        [(D, "250"), (P, "550"), (T, "450"), (D, "250")],
        rcpt=[OK, "550 5.1.1 gone", "450 4.2.1 later", OK],
        data=GO,
        ends=[OK],
    ),
    _case(
        "RCPT 251 and 252 are acceptance",
        [(D, "250"), (D, "250")],
        rcpt=["251 will forward", "252 can't verify"],
        data=GO,
        ends=[OK],
    ),
    _case("RCPT 251 alone", [(D, "250")], rcpt=["251 will forward"], data=GO, ends=[OK]),
    _case(
        "RCPT 251, the message refused", [(P, "554")], rcpt=["251 ok"], data=GO, ends=["554 spam"]
    ),
    _case("RCPT 503", [(T, "503")], rcpt=["503 need MAIL"]),
    _case("RCPT 354", [(T, "354")], rcpt=["354 what"]),
    _case("RCPT 199: no class of replies", [(T, "199")], rcpt=["199 what"]),
    _case("RCPT 600: no class of replies", [(T, "600")], rcpt=["600 what"]),
    _case("RCPT 000", [(T, "0")], rcpt=["0 what"]),
    _case("RCPT 552 5.2.2: a full mailbox", [(P, "552")], rcpt=["552 5.2.2 full"]),
    _case("RCPT 552 bare, the first", [(T, "552")], rcpt=["552 full"]),
    _case("RCPT 552 5.5.3, the first", [(T, "552")], rcpt=["552 5.5.3 too many"]),
    _case("RCPT 452 bare, alone", [(T, "452")], rcpt=["452 full"]),
    _case(
        "RCPT 452 4.2.2", [(D, "250"), (T, "452")], rcpt=[OK, "452 4.2.2 full"], data=GO, ends=[OK]
    ),
    _case(
        "RCPT one too many, told by its code",
        [(D, "250"), (A, "452")],
        rcpt=[OK, "452 4.5.3 too many"],
        data=GO,
        ends=[OK],
    ),
    _case(
        "RCPT one too many again, told by its code",
        [(D, "250"), (A, "452")],
        rcpt=[OK, "452 4.5.3 too many"],
        data=GO,
        ends=[OK],
        suspected=[1],
    ),
    _case(
        "RCPT perhaps one too many",
        [(D, "250"), (A, "452")],
        rcpt=[OK, "452 full"],
        data=GO,
        ends=[OK],
    ),
    _case(
        "RCPT perhaps one too many, for the second time",
        [(D, "250"), (T, "452")],
        rcpt=[OK, "452 full"],
        data=GO,
        ends=[OK],
        suspected=[1],
    ),
    _case(
        "RCPT perhaps one too many, 552",
        [(D, "250"), (A, "552")],
        rcpt=[OK, "552 full"],
        data=GO,
        ends=[OK],
    ),
    _case(
        "RCPT 5.5.3 after one that was taken",
        [(D, "250"), (A, "552")],
        rcpt=[OK, "552 5.5.3 too many"],
        data=GO,
        ends=[OK],
    ),
    _case("RCPT all refused", [(P, "550"), (P, "551")], rcpt=["550 no", "551 no"]),
    _case("RCPT all refused, DATA too", [(P, "550")], rcpt=["550 no"], data="554 nobody"),
    _case("RCPT all refused, DATA 354", [(P, "550")], rcpt=["550 no"], data=GO),
    _case("RCPT 421", [(T, "421"), (T, "421")], rcpt=[], of=2, failure=_reply("421 4.7.0 bye")),
    _case(
        "RCPT 421 to the second: the first had a reply, but no end",
        [(T, "421"), (T, "421")],
        rcpt=[OK],
        of=2,
        failure=_reply("421 4.7.0 bye"),
    ),
    _case(
        "RCPT: what was refused stays refused when the connection breaks",
        [(P, "550"), (T, "400"), (T, "400")],
        rcpt=["550 5.1.1 gone", OK],
        of=3,
        failure=LOST,
    ),
    # DATA: for those that were accepted.
    _case("DATA put off", [(T, "451"), (P, "550")], rcpt=[OK, "550 no"], data="451 later"),
    _case("DATA refused", [(P, "554"), (T, "450")], rcpt=[OK, "450 later"], data="554 no"),
    _case("DATA 503", [(T, "503")], rcpt=[OK], data="503 out of order"),
    _case("DATA 250: nothing was taken", [(T, "451")], rcpt=[OK], data="250 what"),
    _case("DATA 421", [(T, "421")], rcpt=[OK], data=None, failure=_reply("421 bye")),
    # The end of the message.
    _case(
        "the end put off", [(T, "452"), (P, "550")], rcpt=[OK, "550 no"], data=GO, ends=["452 full"]
    ),
    _case(
        "the end refused", [(P, "554"), (P, "554")], rcpt=[OK, OK], data=GO, ends=["554 5.7.1 spam"]
    ),
    _case("the end 552: too large", [(P, "552")], rcpt=[OK], data=GO, ends=["552 5.3.4 large"]),
    _case(
        "the end bare 552 is no matter of recipients",
        [(P, "552")],
        rcpt=[OK],
        data=GO,
        ends=["552 x"],
    ),
    _case("the end 421", [(T, "421")], rcpt=[OK], data=GO, ends=["421 4.3.2 bye"]),
    _case("the end 503", [(T, "503")], rcpt=[OK], data=GO, ends=["503 what"]),
    _case("the end 354", [(T, "354")], rcpt=[OK], data=GO, ends=["354 what"]),
    _case("no end: lost", [(T, "400")], rcpt=[OK], data=GO, failure=LOST),
    _case("no end: too late", [(T, "421"), (P, "550")], rcpt=[OK, "550 no"], data=GO, failure=LATE),
    # LMTP: an end for each that was accepted.
    _case(
        "LMTP each its own",
        [(D, "250"), (P, "550"), (T, "452"), (P, "554")],
        rcpt=[OK, "550 no", OK, OK],
        data=GO,
        ends=[OK, "452 4.2.2 full", "554 no"],
        is_lmtp=True,
    ),
    _case(
        "LMTP cut short",
        [(D, "250"), (T, "400"), (T, "400")],
        rcpt=[OK, OK, OK],
        data=GO,
        ends=[OK],
        failure=LOST,
        is_lmtp=True,
    ),
    _case(
        "LMTP 421 in the middle: nothing follows",
        [(D, "250"), (T, "421"), (T, "354")],
        rcpt=[OK, OK, OK],
        data=GO,
        ends=[OK, "421 bye"],
        is_lmtp=True,
    ),
    _case(
        "LMTP a 2xx of another kind", [(D, "251")], rcpt=[OK], data=GO, ends=["251 x"], is_lmtp=True
    ),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_what_a_transaction_means_for_each_recipient(
    given: dict[str, Any], expected: list[tuple[Result, str]]
) -> None:
    count = given.get("of", len(given["rcpt"]))
    recipients = tuple(f"r{number}" for number in range(count or 1))
    data = given.get("data")

    results = classify(
        Replies(
            recipients=recipients,
            mail=_reply(given.get("mail", OK)),
            rcpt=tuple(map(_reply, given["rcpt"])),
            data=None if data is None else _reply(data),
            ends=tuple(map(_reply, given.get("ends", []))),
            failure=given.get("failure"),
            is_lmtp=given.get("is_lmtp", False),
        ),
        suspected=frozenset(recipients[place] for place in given.get("suspected", [])),
    )

    assert [each.recipient for each in results] == list(recipients)
    assert [(each.result, str(each.response.code)) for each in results] == expected


#: Each internal response: its codes, and how its text begins.
INTERNAL: dict[str, tuple[Response, Result, str]] = {
    "NULL_MX": (internal.NULL_MX, P, "556 5.1.10 Recipient address has a null MX"),
    "NO_ADDRESSES": (internal.NO_ADDRESSES, T, "451 4.4.4 MX didn't resolve to any hosts"),
    "ONLY_SKIPPED": (
        internal.ONLY_SKIPPED,
        T,
        "451 4.4.4 MX consisted solely of hosts on the skip",
    ),
    "TOO_MANY_FAILURES": (
        internal.TOO_MANY_FAILURES,
        T,
        "451 4.4.1 bulk delay of ready queue: too m",
    ),
    "NOT_ASKED": (internal.NOT_ASKED, T, "451 4.4.2 the transaction ended before"),
    "UNEXPECTED_REPLY": (internal.UNEXPECTED_REPLY, T, "451 4.5.0 unexpected reply"),
    "NEEDS_8BITMIME": (
        internal.NEEDS_8BITMIME,
        P,
        "554 5.6.3 content is 8bit, destination does not",
    ),
    "NEEDS_SMTPUTF8": (
        internal.NEEDS_SMTPUTF8,
        P,
        "554 5.6.7 envelope is 8bit, destination does n",
    ),
    "UNSENDABLE_ADDRESS": (internal.UNSENDABLE_ADDRESS, P, "553 5.1.3 the address can't be sent"),
    "prohibited": (
        internal.prohibited("127.0.0.1"),
        P,
        "550 5.4.4 127.0.0.1 is on the list of proh",
    ),
    "no_such_domain": (
        internal.no_such_domain("x"),
        P,
        "550 5.1.2 MX lookup for x: no such domain",
    ),
    "lookup_failed": (
        internal.lookup_failed("x", "why"),
        T,
        "451 4.4.4 MX lookup for x failed: why",
    ),
    "policy_unavailable": (
        internal.policy_unavailable("x"),
        T,
        "451 4.4.4 policy for x is unavailable",
    ),
    "not_named_by_policy": (
        internal.not_named_by_policy("x"),
        T,
        "451 4.4.4 MTA-STS enforce policy for x permits none of its MX hosts",
    ),
    "unreachable": (
        internal.unreachable(("a: refused", "b: late")),
        T,
        "400 failed to connect to any candidate hosts: a: refused, b: late",
    ),
    "timed_out": (
        LATE,
        T,
        "421 4.4.2 failed to send message: timed out waiting for the reply to .",
    ),
    "stalled": (
        internal.stalled("DATA", 30.4),
        T,
        "451 4.4.1 dispatcher watchdog ended a session that made no progress; phase=DATA "
        "time_in_phase=30s",
    ),
    "broken": (LOST, T, "400 failed to send message: connection lost"),
    "bounced": (internal.bounced("why"), P, "551 5.7.1 Administrator bounced with reason: why"),
    "expired": (
        internal.expired(90.0, 60.0),
        P,
        "551 5.4.7 Next delivery time would be 90s after creation, which exceeds max_age=60s",
    ),
}


@pytest.mark.parametrize("name", INTERNAL)
def test_what_the_agent_says_itself(name: str) -> None:
    response, result, text = INTERNAL[name]

    enhanced = ".".join(map(str, response.enhanced_code)) + " " if response.enhanced_code else ""
    assert f"{response.code} {enhanced}{response.content}".startswith(text)
    assert response.internal
    assert result_of(response) is result
    assert internal.is_ordered(response) is (name == "bounced")
    if response.enhanced_code:
        assert response.enhanced_code[0] == response.code // 100


def test_an_order_to_bounce_needs_no_reason() -> None:
    assert internal.is_ordered(internal.bounced(""))


def test_every_internal_response_is_in_the_table() -> None:
    made = {
        name
        for name, value in vars(internal).items()
        if isinstance(value, Response)
        or (inspect.isfunction(value) and inspect.signature(value).return_annotation is Response)
    }

    assert made - {"_made"} == INTERNAL.keys()


def test_a_long_list_of_failures_is_cut() -> None:
    response = internal.unreachable(tuple(f"host{number}" for number in range(1000)))

    assert "host9" in response.content
    assert "host10" not in response.content
