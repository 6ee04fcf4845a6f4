import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadContent
from agent.smtp.content import (
    FieldFinder,
    check_hops,
    has_bare_line_end,
    has_long_line,
    normalise_line_ends,
    received_field,
    split_header,
)


@pytest.mark.parametrize(
    ("content", "header", "rest"),
    [
        pytest.param(b"A: 1\r\n\r\nbody\r\n", b"A: 1\r\n", b"\r\nbody\r\n", id="both"),
        pytest.param(b"A: 1\r\nB: 2\r\n", b"A: 1\r\nB: 2\r\n", b"", id="header alone"),
        pytest.param(b"\r\nbody\r\n", b"", b"\r\nbody\r\n", id="empty header"),
        pytest.param(b"Hello!\r\n", b"", b"\r\nHello!\r\n", id="text that is no field"),
        pytest.param(b"", b"", b"\r\n", id="nothing"),
    ],
)
def test_the_header_ends_at_the_first_empty_line(content, header, rest):
    assert split_header(content) == (header, rest)


@pytest.mark.parametrize(
    ("header", "value", "left"),
    [
        pytest.param(b"A: 1\r\nX-Tenant: acme\r\nB: 2\r\n", "acme", b"A: 1\r\nB: 2\r\n", id="one"),
        pytest.param(b"x-TENANT:acme\r\n", "acme", b"", id="any case, no blank"),
        pytest.param(b"X-Tenant: a\r\n b\r\nB: 2\r\n", "a b", b"B: 2\r\n", id="folded"),
        pytest.param(b"X-Tenant: a\r\nX-Tenant: b\r\n", "a", b"", id="the first counts"),
        pytest.param(b"X-Tenant-Id: a\r\n", "", b"X-Tenant-Id: a\r\n", id="another field"),
        pytest.param(b"A: x-tenant: b\r\n", "", b"A: x-tenant: b\r\n", id="in a value"),
        pytest.param(b"A: 1\r\n X-Tenant: b\r\n", "", b"A: 1\r\n X-Tenant: b\r\n", id="in a fold"),
    ],
)
def test_fields_that_steer_us_are_taken_out(header, value, left):
    assert FieldFinder("X-Tenant").take(header) == (value, left)


@pytest.mark.parametrize(("count", "is_refused"), [(3, False), (4, True)])
def test_mail_going_in_circles_is_refused(count, is_refused):
    header = b"Received: from a\r\n\tby b\r\n" * count + b"X-Received: no hop\r\n"

    if is_refused:
        with pytest.raises(BadContent, match="circles") as caught:
            check_hops(header, 3)
        assert caught.value.enhanced_code == "5.4.6"
    else:
        check_hops(header, 3)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\nb\n", b"a\r\nb\r\n"),
        (b"a\rb", b"a\r\nb\r\n"),
        (b"a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"a\r\r\nb\n", b"a\r\n\r\nb\r\n"),
        (b"", b"\r\n"),
    ],
)
def test_bare_line_ends_become_pairs(content, expected):
    assert normalise_line_ends(content) == expected


@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"a", b"."]), max_size=30).map(b"".join))
def test_normalised_content_has_no_bare_line_end_and_stays_so(content):
    normalised = normalise_line_ends(content)

    assert not has_bare_line_end(normalised)
    assert normalise_line_ends(normalised) == normalised
    assert normalised.replace(b"\r\n", b"").replace(b"\n", b"") == content.replace(
        b"\r", b""
    ).replace(b"\n", b"")


@given(st.lists(st.integers(0, 40), max_size=30), st.integers(1, 30))
def test_a_long_line_is_found_wherever_it_is(sizes, most):
    content = b"\r\n".join(b"x" * size for size in sizes)

    assert has_long_line(content, most) == any(size > most for size in sizes)


def test_the_trace_field_tells_of_tls():
    field = received_field(
        helo="c",
        peer="127.0.0.1",
        hostname="h",
        protocol="ESMTPS",
        message_id="i",
        now=0.0,
        tls="TLSv1.3 TLS_AES_256_GCM_SHA384",
    )

    assert b"by h with ESMTPS\r\n\t(TLSv1.3 TLS_AES_256_GCM_SHA384) id i;\r\n" in field


def test_the_trace_field_tells_who_gave_us_the_message():
    field = received_field(
        helo="client.example",
        peer="2001:db8::1",
        hostname="mta.example",
        protocol="ESMTP",
        message_id="01abc",
        now=0.0,
    )

    assert field == (
        b"Received: from client.example ([IPv6:2001:db8::1])\r\n"
        b"\tby mta.example with ESMTP id 01abc;\r\n"
        b"\tThu, 01 Jan 1970 00:00:00 -0000\r\n"
    )


@given(st.text(max_size=50))
def test_nothing_a_client_calls_itself_breaks_the_trace_field(helo):
    field = received_field(
        helo=helo, peer="127.0.0.1", hostname="h", protocol="SMTP", message_id="i", now=0.0
    )

    assert field.count(b"\r\n") == field.count(b"\n") == 3
