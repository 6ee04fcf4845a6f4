import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.mta_sts import (
    LONGEST_MAX_AGE,
    Mode,
    NoPolicy,
    StsPolicy,
    parse_policy,
    read_record,
)

POLICY = (
    b"version: STSv1\r\nmode: enforce\r\nmx: mx1.a.example\r\nmx: *.b.example\r\nmax_age: 86400\r\n"
)


def test_a_policy_is_read():
    expected = StsPolicy(mode=Mode.ENFORCE, mx=("mx1.a.example", "*.b.example"), max_age=86400)

    assert parse_policy(POLICY) == expected
    assert parse_policy(POLICY.replace(b"\r\n", b"\n")) == expected
    assert parse_policy(POLICY.removesuffix(b"\r\n")) == expected
    assert parse_policy(b"max_age:86400  \n" + POLICY + b"future-key: x\n\n") == expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (b"mode: enforce", b"mode: none", ("none", 86400)),
        (b"mode: enforce\r\nmx: mx1.a.example\r\nmx: *.b.example", b"mode: none", ("none", 86400)),
        (b"max_age: 86400", b"max_age: 0", ("enforce", 0)),
        (b"max_age: 86400", b"max_age: 9999999999", ("enforce", LONGEST_MAX_AGE)),
        # Of a key that must not be repeated the first counts.
        (b"mode: enforce", b"mode: testing\r\nmode: enforce", ("testing", 86400)),
    ],
)
def test_bounds_and_repetitions(old, new, expected):
    policy = parse_policy(POLICY.replace(old, new))

    assert (policy.mode.value, policy.max_age) == expected


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (b"version: STSv1", b"version: STSv2", "version 'STSv2'"),
        (b"version: STSv1\r\n", b"", "version ''"),
        (b"mode: enforce", b"mode: Enforce", "mode 'Enforce': expected one of enforce, testing"),
        (b"mode: enforce\r\n", b"", "mode ''"),
        (b"max_age: 86400", b"max_age: soon", "max_age 'soon': expected seconds from 0"),
        (b"max_age: 86400", b"max_age: -1", "max_age '-1'"),
        (b"max_age: 86400", b"max_age: 99999999999", "max_age '99999999999'"),
        (b"mx: mx1.a.example\r\nmx: *.b.example\r\n", b"", "mx is missing"),
        (b"mx: mx1.a.example", b"mx: a.*.example", "mx 'a.*.example'"),
        (b"mx: mx1.a.example", b"mx: *", "mx '*'"),
        (b"mx: mx1.a.example", b"mx: ", "mx ''"),
        (b"mx: mx1.a.example", b"just words", "line 3 'just words'"),
        (b"mx1", b"\xff", "byte 35: no UTF-8"),
        (b"\r\nmode", b"\r\nx: " + b"y" * 65536 + b"\r\nmode", "more than 65536 bytes"),
    ],
)
def test_what_is_no_policy_is_told(old, new, told):
    with pytest.raises(NoPolicy) as raised:
        parse_policy(POLICY.replace(old, new))

    assert told in str(raised.value)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=1"], "1"),
        (["v=spf1 -all", "v=STSv1; id=1; future=x"], "1"),
        (["v=STSv1; future=x; id=1"], "1"),
        (["v=STSv1; id=1", "v=STSv1; id=2"], None),
        (["v=STSv2; id=1"], None),
        (["id=1; v=STSv1"], None),
        (["v=STSv1"], None),
        (["v=STSv1; id="], None),
        (["v=STSv1; id=a-b"], None),
        (["v=STSv1; id=" + "1" * 33], None),
        ([], None),
    ],
)
def test_records(texts, expected):
    assert read_record(texts) == expected


@pytest.mark.parametrize(
    ("host", "is_named"),
    [
        ("mx1.a.example", True),
        ("MX1.A.Example.", True),
        ("mx2.a.example", False),
        ("x.b.example", True),
        ("b.example", False),
        ("x.y.b.example", False),
        ("xb.example", False),
        ("", False),
        (".", False),
        ("192.0.2.1", False),
    ],
)
def test_hosts_are_matched(host, is_named):
    assert parse_policy(POLICY).permits(host) == is_named


@given(st.binary(max_size=300))
def test_any_octets_are_a_policy_or_none(body):
    try:
        policy = parse_policy(body)
    except NoPolicy:
        return
    assert 0 <= policy.max_age <= LONGEST_MAX_AGE


LABEL = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
NAME = st.lists(LABEL, min_size=2, max_size=4).map(".".join)


@given(
    st.sampled_from(Mode),
    st.lists(st.tuples(st.booleans(), NAME), min_size=1, max_size=5, unique=True),
    st.integers(min_value=0, max_value=LONGEST_MAX_AGE),
)
def test_what_was_written_is_read(mode, patterns, max_age):
    mx = tuple(f"*.{name}" if is_wild else name for is_wild, name in patterns)
    lines = ["version: STSv1", f"mode: {mode.value}", *(f"mx: {each}" for each in mx)]

    policy = parse_policy("\n".join([*lines, f"max_age: {max_age}"]).encode())

    assert policy == StsPolicy(mode=mode, mx=mx, max_age=max_age)
    for is_wild, name in patterns:
        assert policy.permits(f"x.{name}" if is_wild else name)


@given(NAME, LABEL, LABEL)
def test_a_star_stands_for_one_label(name, first, second):
    policy = StsPolicy(mode=Mode.ENFORCE, mx=(f"*.{name}",), max_age=1)

    assert policy.permits(f"{first}.{name}")
    assert not policy.permits(name)
    assert not policy.permits(f"{first}.{second}.{name}")


@given(st.lists(st.text(max_size=60), max_size=4))
def test_any_texts_are_records_or_none(texts):
    found = read_record(texts)

    assert found is None or (found.isascii() and found.isalnum() and len(found) <= 32)
