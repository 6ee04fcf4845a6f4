"""The bounce message: right in form whatever replies, addresses and headers hold."""

import email
import email.policy
import quopri
from email.message import EmailMessage, Message

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.dsn import LARGEST_HEADER, Failure, Report, build_dsn, header_of, status_of
from agent.delivery.record import Response

NO_SUCH_USER = Response(code=550, enhanced_code=(5, 1, 1), content="no such user")
EXPIRED = Response(code=551, enhanced_code=(5, 4, 7), content="too old", internal=True)
ORIGINAL = (
    b"Received: from a by b\r\nMessage-ID: <1@x.example>\r\nSubject: hello\r\n"
    b"Bcc: secret@x.example\r\n\r\nthe body\r\n"
)
TOP_FIELDS = [
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "In-Reply-To",
    "References",
    "Auto-Submitted",
    "MIME-Version",
    "Content-Type",
    "Content-Transfer-Encoding",
]
REPORT_FIELDS = {
    "Final-Recipient",
    "Action",
    "Status",
    "Remote-MTA",
    "Diagnostic-Code",
    "Last-Attempt-Date",
}


def failure(recipient: str = "bad@big.example", **more) -> Failure:
    given = {"response": NO_SUCH_USER, "remote_mta": "mx.big.example", "last_attempt": 1000.0}
    return Failure(recipient=recipient, **{**given, **more})


def report(*failures: Failure, **more) -> Report:
    given = {
        "id": "01arz3ndektsv4rrffq69g5fav",
        "reporting_mta": "mta1.sender.example",
        "mail_from": "mailer-daemon@mta1.sender.example",
        "to": "from@sender.example",
        "now": 1000.0,
        "arrival": 100.0,
        "original": ORIGINAL,
    }
    return Report(failures=failures or (failure(),), **{**given, **more})


def parse(dsn: bytes) -> tuple[EmailMessage, EmailMessage, EmailMessage, EmailMessage]:
    """The message and its three parts, after a check of the outer form."""
    assert dsn.endswith(b"\r\n")
    assert max(map(len, dsn.split(b"\r\n"))) <= 998
    assert dsn.count(b"\n") == dsn.count(b"\r") == dsn.count(b"\r\n")
    assert b"\0" not in dsn
    message = email.message_from_bytes(dsn, policy=email.policy.SMTP)
    assert not message.defects
    assert message.get_content_type() == "multipart/report"
    assert message.get_param("report-type") == "delivery-status"
    parts = message.get_payload()
    assert len(parts) == 3
    return message, *parts


def raw_parts(dsn: bytes) -> list[bytes]:
    """The contents of the three parts, decoded by hand: the library decodes no nested message."""
    message = email.message_from_bytes(dsn)
    delimiter = f"--{message.get_boundary()}".encode()
    contents = []
    for piece in dsn.split(delimiter)[1:4]:
        header, _, content = piece.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        content = content.removesuffix(b"\r\n")
        contents.append(quopri.decodestring(content) if b"quoted-printable" in header else content)
    return contents


def blocks(status: bytes) -> list[Message]:
    """The blocks of fields of a report."""
    return [
        email.message_from_bytes(block, policy=email.policy.compat32)
        for block in status.split(b"\r\n\r\n")
        if block
    ]


def test_a_dsn_says_what_happened_to_people_and_to_programs():
    dsn = build_dsn(report())

    message, text, status, header = parse(dsn)
    assert message["From"] == "Mail Delivery System <mailer-daemon@mta1.sender.example>"
    assert message["To"] == "from@sender.example"
    assert message["Auto-Submitted"] == "auto-replied"
    assert message["Message-ID"] == "<01arz3ndektsv4rrffq69g5fav@mta1.sender.example>"
    assert message["In-Reply-To"] == message["References"] == "<1@x.example>"
    assert message["Date"] == "Thu, 01 Jan 1970 00:16:40 -0000"
    assert status.get_content_type() == "message/delivery-status"
    assert header.get_content_type() == "text/rfc822-headers"
    about, recipient = blocks(raw_parts(dsn)[1])
    assert about.items() == [
        ("Reporting-MTA", "dns; mta1.sender.example"),
        ("Arrival-Date", "Thu, 01 Jan 1970 00:01:40 -0000"),
    ]
    assert recipient.items() == [
        ("Final-Recipient", "rfc822; bad@big.example"),
        ("Action", "failed"),
        ("Status", "5.1.1"),
        ("Remote-MTA", "dns; mx.big.example"),
        ("Diagnostic-Code", "smtp; 550 5.1.1 no such user"),
        ("Last-Attempt-Date", "Thu, 01 Jan 1970 00:16:40 -0000"),
    ]
    said = text.get_content()
    assert "<bad@big.example>" in said
    assert "Host mx.big.example answered:\n      550 5.1.1 no such user" in said.replace("\r", "")
    assert "What to do: check the address" in said
    assert raw_parts(dsn)[2] == ORIGINAL[: ORIGINAL.index(b"\r\n\r\n") + 2]
    assert b"the body" not in dsn


def test_mail_that_grew_too_old_shows_the_last_reply():
    last = Response(code=452, enhanced_code=(4, 2, 2), content="mailbox full")
    dsn = build_dsn(report(failure(response=EXPIRED, last_response=last, is_expired=True)))

    (_, recipient), text = blocks(raw_parts(dsn)[1]), raw_parts(dsn)[0].decode()
    assert recipient["Status"] == "5.4.7"
    assert recipient["Diagnostic-Code"] == "smtp; 452 4.2.2 mailbox full"
    assert "in the time that is given" in text
    assert "452 4.2.2 mailbox full" in text


def test_mail_that_was_never_tried_names_no_host_and_no_attempt():
    dsn = build_dsn(
        report(failure(response=EXPIRED, is_expired=True, remote_mta="", last_attempt=None))
    )

    _, recipient = blocks(raw_parts(dsn)[1])
    assert recipient["Diagnostic-Code"] == "smtp; 551 5.4.7 too old"
    assert "Remote-MTA" not in recipient
    assert "Last-Attempt-Date" not in recipient


def test_recipients_of_one_reason_stand_together_and_all_are_reported():
    other = Response(code=554, content="refused")
    failures = [failure(f"u{number}@big.example") for number in range(80)]
    dsn = build_dsn(report(*failures, failure("v@big.example", response=other)))

    text, status, _ = raw_parts(dsn)
    assert text.count(b"no such user") == 1
    assert b"and 31 more, which the attached report names." in text
    assert [block["Final-Recipient"] for block in blocks(status)[1:]] == [
        f"rfc822; {each.recipient}" for each in (*failures, failure("v@big.example"))
    ]


@pytest.mark.parametrize(
    ("response", "status"),
    [
        pytest.param(NO_SUCH_USER, "5.1.1", id="its own"),
        pytest.param(Response(code=550), "5.0.0", id="from 5xx"),
        pytest.param(Response(code=450), "4.0.0", id="from 4xx"),
        pytest.param(Response(code=550, enhanced_code=(2, 0, 0)), "5.0.0", id="2.x is no failure"),
        pytest.param(Response(code=0), "5.0.0", id="no code at all"),
    ],
)
def test_the_status_is_that_of_the_reply_or_made_from_its_code(response, status):
    assert status_of(response) == status


def test_a_recipient_in_utf8_makes_the_report_a_global_one_that_7_bit_hosts_take():
    dsn = build_dsn(report(failure("ü@bücher.example")))

    message, _, status, _ = parse(dsn)
    assert dsn.isascii()
    assert "Content-Transfer-Encoding" not in message
    assert status.get_content_type() == "message/global-delivery-status"
    assert "Final-Recipient: utf-8; ü@bücher.example" in raw_parts(dsn)[1].decode()


def test_a_sender_in_utf8_gets_8_bit_parts_for_its_host_needs_smtputf8_anyway():
    original = "Subject: grüße\r\n\r\n".encode()
    dsn = build_dsn(report(failure("ü@big.example"), to="ä@sender.example", original=original))

    message, _, status, header = parse(dsn)
    assert message["Content-Transfer-Encoding"] == "8bit"
    assert message["To"] == "ä@sender.example"
    assert status["Content-Transfer-Encoding"] == "8bit"
    assert header.get_content_type() == "message/global-headers"
    assert "Subject: grüße\r\n".encode() in dsn


@pytest.mark.parametrize(
    ("original", "kind"),
    [
        pytest.param("Subject: grüße\r\n\r\n".encode(), "message/global-headers", id="UTF-8"),
        pytest.param(b"Subject: gr\xfc\xdfe\r\n\r\n", "text/rfc822-headers", id="Latin-1"),
        pytest.param(b"Subject: a\0b\r\n\r\n", "text/rfc822-headers", id="NUL"),
        pytest.param(b"Subject: " + b"x" * 2000 + b"\r\n\r\n", "text/rfc822-headers", id="long"),
    ],
)
def test_a_header_that_is_no_7_bit_data_is_encoded(original, kind):
    dsn = build_dsn(report(original=original))

    *_, header = parse(dsn)
    assert header.get_content_type() == kind
    assert raw_parts(dsn)[2] == original[:-2]


def test_what_hosts_say_in_other_than_ascii_is_escaped_in_a_plain_report():
    dsn = build_dsn(report(failure(response=Response(code=550, content="für immer"))))

    assert blocks(raw_parts(dsn)[1])[1]["Diagnostic-Code"] == r"smtp; 550 f\x{FC}r immer"
    assert "für immer" in raw_parts(dsn)[0].decode()


@pytest.mark.parametrize(
    ("message", "header"),
    [
        pytest.param(b"A: 1\r\nB: 2\r\n\r\nbody", b"A: 1\r\nB: 2\r\n", id="whole"),
        pytest.param(b"A: 1\nB: 2\n\nbody\r\n\r\nmore", b"A: 1\r\nB: 2\r\n", id="line feeds"),
        pytest.param(b"\r\nbody", b"", id="none"),
        pytest.param(b"", b"", id="empty"),
        pytest.param(b"A: 1", b"A: 1\r\n", id="header alone"),
        pytest.param(b"A: 1\r\n" * 20_000, b"A: 1\r\n" * (LARGEST_HEADER // 6), id="large"),
        pytest.param(
            b"x" * 100_000 + b"\r\n\r\n", b"x" * LARGEST_HEADER + b"\r\n", id="one long line"
        ),
    ],
)
def test_the_header_is_cut_out_in_whole_lines(message, header):
    assert header_of(message) == header


def test_a_header_that_holds_the_boundary_does_not_end_its_part():
    plain = build_dsn(report())
    boundary = email.message_from_bytes(plain).get_boundary()
    dsn = build_dsn(report(original=f"A: 1\r\n--{boundary}--\r\n\r\n".encode()))

    parse(dsn)
    assert raw_parts(dsn)[2] == f"A: 1\r\n--{boundary}--\r\n".encode()


nasty = st.text(
    st.characters() | st.sampled_from('\r\n\0\x85\u2028 ;<>"\\@.:=-_\ud800é'), max_size=80
)
responses = st.builds(
    Response,
    code=st.integers(0, 999),
    enhanced_code=st.none() | st.tuples(*[st.integers(0, 999)] * 3),
    content=nasty | st.text(min_size=500, max_size=1200) | st.just("x" * 3000),
    internal=st.booleans(),
)
failures = st.builds(
    Failure,
    recipient=nasty | st.just("a@b.example") | st.just("x" * 2000 + "@b.example"),
    response=responses,
    last_response=st.none() | responses,
    is_expired=st.booleans(),
    remote_mta=nasty,
    last_attempt=st.none() | st.floats(0, 4e9),
)
headers = st.lists(
    st.binary(max_size=60)
    | st.sampled_from(
        [
            b"\r\n",
            b"\n",
            b"\r",
            b"Message-ID: <a@b>\r\n",
            b"Message-ID: <a\r\nInjected: yes\r\n@b>\r\n",
            b"--=_id.0\r\n",
            b"--=_id.0--\r\n",
            b"Content-Type: text/html\r\n",
            b"x" * 1200,
        ]
    ),
    max_size=12,
).map(b"".join)


@given(
    failures=st.lists(failures, min_size=1, max_size=4),
    to=nasty | st.sampled_from(["a@b.example", "ü@b.example", '"a b"@c.example']),
    mail_from=nasty,
    reporting_mta=nasty,
    original=headers,
)
def test_whatever_comes_in_the_message_keeps_its_form(
    failures, to, mail_from, reporting_mta, original
):
    dsn = build_dsn(
        report(
            *failures,
            id="id",
            to=to,
            mail_from=mail_from,
            reporting_mta=reporting_mta,
            original=original,
        )
    )

    message, text, status, header = parse(dsn)
    assert [name for name in TOP_FIELDS if name in message] == message.keys()
    assert text.get_content_type() == "text/plain"
    assert text.get_content()
    assert status.get_content_type() in (
        "message/delivery-status",
        "message/global-delivery-status",
    )
    assert header.get_content_type() in ("text/rfc822-headers", "message/global-headers")
    about, *recipients = blocks(raw_parts(dsn)[1])
    assert about.keys() == ["Reporting-MTA", "Arrival-Date"]
    assert len(recipients) == len(failures)
    for block in recipients:
        assert set(block.keys()) <= REPORT_FIELDS
        assert len(block.keys()) == len(set(block.keys()))
        assert block["Action"] == "failed"
        assert block["Status"].split(".")[0] in ("4", "5")
    assert raw_parts(dsn)[2] == header_of(original)
    if to.isascii():
        assert dsn.isascii()
