from datetime import timedelta
from hashlib import sha256, sha512
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.delivery.dane import (
    Authenticated,
    Matching,
    Mismatch,
    Selector,
    Usage,
    check_chain,
    parse_tlsa,
    usable_records,
)
from tests.unit.agent.delivery.certificates import NOW, Made, make

HOST = "mx.big.example"
ROOT = make("root", is_authority=True)
MIDDLE = make("middle", ROOT, is_authority=True)
PEER = make(HOST, MIDDLE)
CHAIN = (PEER.der, MIDDLE.der)
STRANGER = make(HOST)


def _wire(usage: int, selector: int, matching: int, made: Made) -> bytes:
    selected = made.der if selector == 0 else made.public_key
    digested = {
        0: selected,
        1: sha256(selected).digest(),
        2: sha512(selected).digest(),
    }[matching]
    return bytes((usage, selector, matching)) + digested


@pytest.mark.parametrize(("usage", "selector", "matching"), [*product((2, 3), (0, 1), (0, 1, 2))])
def test_every_kind_of_record_accepts_its_own_certificate_alone(usage, selector, matching):
    own, other = (PEER, STRANGER) if usage == 3 else (MIDDLE, make("x", is_authority=True))
    good = usable_records([_wire(usage, selector, matching, own)])
    bad = usable_records([_wire(usage, selector, matching, other)])

    assert len(good) == len(bad) == 1
    assert isinstance(check_chain(CHAIN, good, [HOST], NOW), Authenticated)
    assert isinstance(check_chain(CHAIN, bad, [HOST], NOW), Mismatch)


@pytest.mark.parametrize(
    "chain",
    [
        (PEER.der,),
        (make("mx.other.example", MIDDLE).der,),
        (make(HOST, MIDDLE, valid=(-30, -10)).der,),
        (make(HOST).der,),
    ],
    ids=["no-chain", "other-name", "expired", "self-signed"],
)
def test_for_the_peers_own_certificate_neither_names_nor_dates_count(chain):
    record = bytes((3, 0, 1)) + sha256(chain[0]).digest()

    assert check_chain(chain, usable_records([record]), [HOST], NOW) == Authenticated()


AUTHORITY_CASES = [
    pytest.param((PEER.der, MIDDLE.der), MIDDLE, [HOST], "", id="good"),
    pytest.param((PEER.der, MIDDLE.der, ROOT.der), ROOT, [HOST], "", id="two-steps"),
    pytest.param((PEER.der, ROOT.der, MIDDLE.der), ROOT, [HOST], "", id="out-of-order"),
    pytest.param((PEER.der, MIDDLE.der), MIDDLE, ["big.example", HOST], "", id="second-name"),
    pytest.param((PEER.der, MIDDLE.der), MIDDLE, ["big.example"], "subjectAltName", id="name"),
    pytest.param((PEER.der,), MIDDLE, [HOST], "no certificate of the chain", id="not-sent"),
    pytest.param((PEER.der, ROOT.der), ROOT, [HOST], "exhausted", id="gap"),
    pytest.param((STRANGER.der, MIDDLE.der), MIDDLE, [HOST], "exhausted", id="not-issued-by-it"),
    # The record is for an authority: the peer's own certificate is none.
    pytest.param((PEER.der, MIDDLE.der), PEER, [HOST], "no certificate of the chain", id="peer"),
]


@pytest.mark.parametrize(("chain", "anchor", "names", "mistake"), AUTHORITY_CASES)
def test_the_chain_must_lead_to_the_authority(chain, anchor, names, mistake):
    verdict = check_chain(chain, usable_records([_wire(2, 1, 1, anchor)]), names, NOW)

    if mistake:
        assert isinstance(verdict, Mismatch)
        assert mistake in verdict.reason
    else:
        assert verdict == Authenticated(name=HOST)


def test_a_whole_authority_in_the_record_need_not_be_sent():
    records = usable_records([_wire(2, 0, 0, ROOT)])

    assert check_chain(CHAIN, records, [HOST], NOW) == Authenticated(name=HOST)


@pytest.mark.parametrize(
    ("peer", "issuer"),
    [
        (make(HOST, MIDDLE, valid=(-30, -10)), MIDDLE),
        (make(HOST, MIDDLE, valid=(10, 30)), MIDDLE),
        (make(HOST, MIDDLE, serves=False), MIDDLE),
        (make(HOST, old := make("old", is_authority=True, valid=(-30, -10))), old),
        (make(HOST, mute := make("mute", is_authority=True, may_sign=False)), mute),
        (make(HOST, PEER), PEER),
    ],
    ids=["expired", "not-yet", "not-for-servers", "old-issuer", "may-not-sign", "no-authority"],
)
def test_a_chain_that_is_not_valid_is_refused(peer, issuer):
    records = usable_records([_wire(2, 0, 1, issuer)])

    assert isinstance(check_chain((peer.der, issuer.der), records, [HOST], NOW), Mismatch)
    if issuer is MIDDLE:
        good = make(HOST, MIDDLE)
        assert isinstance(check_chain((good.der, issuer.der), records, [HOST], NOW), Authenticated)


def test_dates_are_those_of_the_clock_that_is_given():
    records = usable_records([_wire(2, 0, 1, MIDDLE)])

    assert isinstance(check_chain(CHAIN, records, [HOST], NOW), Authenticated)
    assert isinstance(check_chain(CHAIN, records, [HOST], NOW + timedelta(days=31)), Mismatch)


@pytest.mark.parametrize(
    "wire",
    [
        b"",
        b"\x03\x01\x01",
        bytes((0, 0, 1)) + bytes(32),
        bytes((1, 0, 1)) + bytes(32),
        bytes((4, 0, 1)) + bytes(32),
        bytes((255, 0, 1)) + bytes(32),
        bytes((3, 2, 1)) + bytes(32),
        bytes((3, 0, 3)) + bytes(32),
        bytes((3, 0, 1)) + bytes(31),
        bytes((3, 0, 2)) + bytes(32),
        bytes((3, 0, 0)) + b"no certificate",
        bytes((2, 1, 0)) + b"no key",
    ],
)
def test_what_mail_can_not_use_is_left_out(wire):
    assert parse_tlsa(wire) is None


def test_of_two_digests_of_one_kind_the_strongest_counts_alone():
    """A SHA-256 of this certificate does not help where the SHA-512 is of another."""
    weak, strong = _wire(3, 1, 1, PEER), _wire(3, 1, 2, STRANGER)

    assert isinstance(check_chain(CHAIN, usable_records([weak]), [HOST], NOW), Authenticated)
    assert isinstance(check_chain(CHAIN, usable_records([weak, strong]), [HOST], NOW), Mismatch)


def test_no_certificate_matches_nothing():
    of_nothing = bytes((3, 1, 1)) + sha256(b"").digest()

    assert isinstance(check_chain((), usable_records([of_nothing]), [HOST], NOW), Mismatch)
    assert isinstance(check_chain((b"?",), usable_records([of_nothing]), [HOST], NOW), Mismatch)


@given(st.binary(max_size=120))
def test_any_octets_are_read_or_left_out(wire):
    record = parse_tlsa(wire)

    if record is not None:
        again = bytes((record.usage, record.selector, record.matching)) + record.data
        assert again == wire
        assert record.matching is Matching.FULL or len(record.data) in (32, 64)


@given(st.sampled_from(Usage), st.sampled_from(Selector), st.sampled_from([1, 2]), st.binary())
def test_a_digest_is_read_exactly_where_its_length_is_right(usage, selector, matching, data):
    is_whole = len(data) == {1: 32, 2: 64}[matching]

    assert (parse_tlsa(bytes((usage, selector, matching)) + data) is not None) == is_whole


@given(st.lists(st.binary(max_size=400), max_size=4))
def test_any_chain_is_judged_without_an_error_and_never_accepted_for_another(chain):
    for record in (_wire(3, 1, 1, PEER), _wire(2, 0, 1, MIDDLE), _wire(2, 0, 0, MIDDLE)):
        assert isinstance(check_chain(chain, usable_records([record]), [HOST], NOW), Mismatch)


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_a_changed_octet_of_the_certificate_undoes_the_match(place, change):
    changed = bytearray(PEER.der)
    changed[place % len(changed)] ^= change
    record = usable_records([_wire(3, 0, 2, PEER)])

    assert isinstance(check_chain((bytes(changed),), record, [HOST], NOW), Mismatch)
