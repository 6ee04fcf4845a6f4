import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadRecipient, BadSender
from agent.smtp.addresses import domain_of, parse_recipient, parse_sender


@pytest.mark.parametrize(
    ("text", "smtp_utf8", "expected"),
    [
        pytest.param("user@example.com", False, "user@example.com", id="plain"),
        pytest.param("User@EXAMPLE.com", False, "User@example.com", id="the domain has no case"),
        pytest.param("a.b+c@x.example", False, "a.b+c@x.example", id="tag"),
        pytest.param('"a b@c"@x.example', False, '"a b@c"@x.example', id="quoted"),
        pytest.param("u@bücher.example", False, "u@xn--bcher-kva.example", id="u-label"),
        pytest.param("ü@bücher.example", True, "ü@xn--bcher-kva.example", id="utf-8 local part"),
        pytest.param("@a.example,@b.example:u@c.example", False, "u@c.example", id="source route"),
        pytest.param("u@_dmarc.example.com", False, "u@_dmarc.example.com", id="underscore"),
    ],
)
def test_addresses_are_brought_to_one_form(text, smtp_utf8, expected):
    assert parse_recipient(text, smtp_utf8=smtp_utf8) == expected
    assert domain_of(expected) == domain_of(expected).lower()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "@example.com",
        "user@",
        "user@example..com",
        "user@-example.com",
        "user@example.com:25",
        "user@[127.0.0.1]",
        "user@127.0.0.1",
        "us er@example.com",
        ".user@example.com",
        "us\r\ner@example.com",
        "user@exa\nmple.com",
        "user@example.com\n",
        "ü@example.com",
        "a" * 65 + "@example.com",
        "a@" + "b." * 130 + "com",
        '"a\r\n"@example.com',
    ],
)
def test_what_is_no_address_is_refused(text):
    with pytest.raises(BadRecipient):
        parse_recipient(text)


def test_a_refused_recipient_names_its_field():
    with pytest.raises(BadRecipient) as caught:
        parse_recipient("nobody", number=3)

    assert caught.value.field == "recipients[3]"
    assert caught.value.reply.startswith("553 5.1.3 ")


def test_the_null_sender_is_a_sender():
    assert parse_sender("") == ""
    with pytest.raises(BadSender):
        parse_sender("nobody")


@given(st.text(max_size=40), st.booleans())
def test_any_text_is_an_address_or_refused(text, smtp_utf8):
    try:
        address = parse_recipient(text + "@example.com", smtp_utf8=smtp_utf8)
    except BadRecipient:
        return
    assert parse_recipient(address, smtp_utf8=True) == address
    assert not set("\r\n\0") & set(address)
