"""
DANE: whether a certificate is the one that a host's TLSA records name (RFC 6698, 7671, 7672).

Whether the records may be believed is told by the DNS (`agent.dns`); here they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from hashlib import sha256, sha512

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import (
    Criticality,
    ExtensionPolicy,
    PolicyBuilder,
    Store,
    VerificationError,
)

#: Certificates of a peer's chain that are looked at.
_LONGEST_CHAIN = 10
#: Trust anchors that are tried.
_MOST_ANCHORS = 4

# RFC 5280 section 4.1: an optional version, then serial number, signature, issuer, validity and
# subject, then the key.
_VERSION_TAG = 0xA0
_FIELDS_BEFORE_KEY = 5

# What the library raises for certificates that can't be read, or read only in part.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


class Usage(IntEnum):
    """What a record names: RFC 7672 section 3.1 lets mail use these alone."""

    #: DANE-TA: an authority in the peer's chain.
    AUTHORITY = 2
    #: DANE-EE: the peer's own certificate.
    PEER = 3


class Selector(IntEnum):
    """Which part of the certificate is compared."""

    CERTIFICATE = 0
    PUBLIC_KEY = 1


class Matching(IntEnum):
    """How it is compared."""

    FULL = 0
    SHA256 = 1
    SHA512 = 2


_DIGESTS = {Matching.SHA256: sha256, Matching.SHA512: sha512}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tlsa:
    """A record that mail can use."""

    usage: Usage
    selector: Selector
    matching: Matching
    data: bytes


def parse_tlsa(wire: bytes) -> Tlsa | None:
    """Read the data of a TLSA record; None where mail can't use it."""
    if len(wire) < 4:
        return None
    try:
        record = Tlsa(
            usage=Usage(wire[0]),
            selector=Selector(wire[1]),
            matching=Matching(wire[2]),
            data=wire[3:],
        )
    except ValueError:
        return None
    return record if _is_whole(record) else None


def usable_records(wires: Sequence[bytes]) -> tuple[Tlsa, ...]:
    """
    The records among *wires* that mail can use. Of several digests of one kind the strongest
    count alone (RFC 7671 section 9): a weak one that matched by force must not undo it.
    """
    found = [record for wire in wires if (record := parse_tlsa(wire)) is not None]
    strongest: dict[tuple[Usage, Selector], Matching] = {}
    for record in found:
        kind = (record.usage, record.selector)
        strongest[kind] = max(strongest.get(kind, Matching.FULL), record.matching)
    return tuple(
        dict.fromkeys(
            record
            for record in found
            if record.matching in (Matching.FULL, strongest[record.usage, record.selector])
        )
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Authenticated:
    """The chain is the one that the records name."""

    #: The name that the certificate was accepted for; empty where names do not matter.
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mismatch:
    """The chain is not the one that the records name."""

    reason: str


def check_chain(
    chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str], now: datetime
) -> Authenticated | Mismatch:
    """
    Compare a peer's *chain* (DER, its own certificate first) with *records*. For an authority the
    chain must lead to it, be valid *now* and bear one of *names*; for the peer's own certificate
    neither names nor dates count (RFC 7672 section 3.1.1).
    """
    if not chain:
        return Mismatch(reason="the peer showed no certificate")
    peer = chain[0]
    if any(_matches(record, peer) for record in records if record.usage is Usage.PEER):
        return Authenticated()
    authorities = [record for record in records if record.usage is Usage.AUTHORITY]
    if not authorities:
        return Mismatch(reason="the certificate matches no TLSA record")
    return _check_authorities(chain[:_LONGEST_CHAIN], authorities, names, now)


def _check_authorities(
    chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str], now: datetime
) -> Authenticated | Mismatch:
    anchors = [der for der in chain[1:] if any(_matches(record, der) for record in records)]
    # A whole certificate in the record need not be sent by the peer (RFC 7671 section 5.2.2).
    anchors += [
        record.data
        for record in records
        if record.selector is Selector.CERTIFICATE and record.matching is Matching.FULL
    ]
    anchors = list(dict.fromkeys(anchors))[:_MOST_ANCHORS]
    if not anchors:
        return Mismatch(reason="no certificate of the chain matches a TLSA record")
    try:
        read = [x509.load_der_x509_certificate(der) for der in chain]
        trusted = [x509.load_der_x509_certificate(der) for der in anchors]
    except _UNREADABLE:
        return Mismatch(reason="a certificate can't be read")
    reason = "the chain does not lead to the authority of the TLSA record"
    for anchor in trusted:
        for name in names:
            mistake = _verify(read, anchor, name, now)
            if not mistake:
                return Authenticated(name=name)
            reason = mistake
    return Mismatch(reason=reason)


def _verify(
    chain: Sequence[x509.Certificate], anchor: x509.Certificate, name: str, now: datetime
) -> str:
    """Why the chain does not lead from *anchor* to *name*; empty: it does."""
    authorities = ExtensionPolicy.permit_all().require_present(
        x509.BasicConstraints, Criticality.AGNOSTIC, _must_be_authority
    )
    peers = ExtensionPolicy.permit_all().require_present(
        x509.SubjectAlternativeName, Criticality.AGNOSTIC, None
    )
    try:
        verifier = (
            PolicyBuilder()
            .store(Store([anchor]))
            .time(now)
            .extension_policies(
                ca_policy=authorities.may_be_present(
                    x509.KeyUsage, Criticality.AGNOSTIC, _must_sign_certificates
                ),
                ee_policy=peers.may_be_present(
                    x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _must_serve
                ),
            )
            .build_server_verifier(x509.DNSName(name))
        )
        verifier.verify(chain[0], list(chain[1:]))
    except VerificationError as error:
        return f"the certificate is not accepted for {name}: {str(error).partition(' (')[0]}"
    except _UNREADABLE:
        return f"the certificate is not accepted for {name}"
    return ""


def _must_be_authority(
    policy: object, certificate: x509.Certificate, extension: x509.BasicConstraints
) -> None:
    if not extension.ca:
        raise ValueError("an issuer is no authority")


def _must_sign_certificates(
    policy: object, certificate: x509.Certificate, extension: x509.KeyUsage | None
) -> None:
    if extension is not None and not extension.key_cert_sign:
        raise ValueError("an issuer may not sign certificates")


def _must_serve(
    policy: object, certificate: x509.Certificate, extension: x509.ExtendedKeyUsage | None
) -> None:
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    if extension is not None and not allowed & set(extension):
        raise ValueError("the certificate is not for servers")


def _matches(record: Tlsa, der: bytes) -> bool:
    selected = der if record.selector is Selector.CERTIFICATE else _public_key(der)
    if not selected:
        return False
    digest = _DIGESTS.get(record.matching)
    return record.data == (selected if digest is None else digest(selected).digest())


def _public_key(der: bytes) -> bytes:
    """
    The subjectPublicKeyInfo of a certificate, octet for octet, whatever kind of key it is; empty
    where there is none to be found.
    """
    try:
        _, place, _ = _element(der, 0)  # Certificate
        _, place, end = _element(der, place)  # TBSCertificate
        tag, _, after = _element(der, place)
        if tag == _VERSION_TAG:
            place = after
        for _ in range(_FIELDS_BEFORE_KEY):
            _, _, place = _element(der, place)
        _, _, after = _element(der, place)
    except IndexError:
        return b""
    return der[place:after] if after <= end <= len(der) else b""


def _element(der: bytes, place: int) -> tuple[int, int, int]:
    """The tag at *place*, where its content begins and where it ends. Errors: `IndexError`."""
    tag, length, start = der[place], der[place + 1], place + 2
    if length >= 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[place + 2 : start], "big")
    if start + length > len(der):
        raise IndexError
    return tag, start, start + length


def _is_whole(record: Tlsa) -> bool:
    if (digest := _DIGESTS.get(record.matching)) is not None:
        return len(record.data) == digest().digest_size
    try:
        if record.selector is Selector.PUBLIC_KEY:
            load_der_public_key(record.data)
        else:
            x509.load_der_x509_certificate(record.data)
    except _UNREADABLE:
        return False
    return True
