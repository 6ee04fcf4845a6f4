"""
TLS policy: what the receiving domain asks of the TLS of its mail, and what a session with one of
its hosts therefore does.

1. What the path's options ask is the least; a domain may ask for more, never for less.
2. TLSA records that can be used decide alone: MTA-STS is not asked about that host (RFC 8461
   section 2).
3. An answer about TLSA records that can't be trusted takes the host out: nothing is sent to it.
4. An MTA-STS policy in mode `enforce` lets mail go to the hosts it names alone, over TLS with a
   certificate for the host's name. In mode `testing` it changes nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

import msgspec

from agent.delivery.dane import Tlsa
from agent.delivery.mta_sts import Mode, StsPolicy
from agent.delivery.tls import TlsMode


class DaneResult(StrEnum):
    """What the DNS says of a host's TLSA records."""

    #: The names that lead to the host are not signed, or nobody vouches for the signatures.
    INSECURE_CHAIN = "insecure_chain"
    #: There are none, provably.
    NOT_APPLICABLE = "not_applicable"
    #: There are some, and none that mail can use.
    UNUSABLE = "unusable"
    OK = "ok"
    #: No answer, or one whose signatures are wrong: the resolver tells neither from the other.
    TEMPFAIL = "tempfail"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaneFinding:
    """The TLSA records of one host."""

    result: DaneResult
    records: tuple[Tlsa, ...] = ()
    #: The name at which they stand, without port and protocol; asked for in the handshake.
    base: str = ""


NO_DANE = DaneFinding(result=DaneResult.INSECURE_CHAIN)


class DomainTls(msgspec.Struct, frozen=True, kw_only=True):
    """What one routing domain asks."""

    domain: str = ""
    #: None: it has none, or its policy is not honoured.
    sts: StsPolicy | None = None
    #: The DNS vouches for its MX hosts, and TLSA records are honoured.
    is_secure: bool = False

    @property
    def is_enforced(self) -> bool:
        """Whether mail may go to hosts named by the policy alone."""
        return self.sts is not None and self.sts.mode is Mode.ENFORCE

    def permits(self, host: str) -> bool:
        """Whether mail may go to *host*, as far as MTA-STS can tell without its TLSA records."""
        return self.sts is None or not self.is_enforced or self.sts.permits(host)

    def may_have(self, host: str) -> bool:
        """Whether a plan may hold *host*: its TLSA records may yet decide."""
        return self.is_secure or self.permits(host)

    def covers(self, other: "DomainTls", hosts: Collection[str]) -> bool:
        """
        Whether mail of *other* may go over connections to *hosts* that were opened for this
        domain.
        """
        if other.is_secure and not self.is_secure:
            return False
        if not other.is_enforced:
            return True
        # What DANE has authenticated need not bear a certificate that MTA-STS would accept.
        return (
            self.is_enforced
            and self.is_secure == other.is_secure
            and all(other.permits(host) for host in hosts if self.permits(host))
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsDemand:
    """How TLS is used with one host."""

    mode: TlsMode
    #: What asked for it: "mta-sts enforce", "mta-sts testing", "dane"; empty: the path's options.
    asked_by: str = ""
    #: The records that the certificate is compared with, in place of the trusted authorities.
    records: tuple[Tlsa, ...] = ()
    #: The names for which a certificate of a DANE authority is accepted.
    names: tuple[str, ...] = ()
    #: The name in the handshake; empty: the host's.
    server_name: str = ""
    #: What a policy in mode `testing` has against this host already; empty: nothing.
    complaint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRefused:
    """Why nothing is sent to a host."""

    asked_by: str
    reason: str


ENFORCE, TESTING, DANE = "mta-sts enforce", "mta-sts testing", "dane"
DANE_UNUSABLE = "dane unusable"
#: All that `asked_by` can be: the values of a metric's label.
ASKED_BY = (ENFORCE, TESTING, DANE, DANE_UNUSABLE)


def demand_for(
    configured: TlsMode, host: str, *, domain: DomainTls, dane: DaneFinding
) -> TlsDemand | HostRefused:
    """Say how TLS is used with *host* for mail of *domain*."""
    match dane.result:
        case DaneResult.TEMPFAIL:
            return HostRefused(asked_by=DANE, reason="DANE: no trustworthy answer about TLSA")
        case DaneResult.OK:
            return TlsDemand(
                mode=TlsMode.REQUIRED,
                asked_by=DANE,
                records=dane.records,
                # RFC 7672 section 3.2.2; the MX answer is secure, else there would be no records.
                names=tuple(dict.fromkeys((dane.base, domain.domain))),
                server_name=dane.base,
            )
        case DaneResult.UNUSABLE:
            configured = _encrypted(configured)
    if domain.is_enforced:
        if not domain.permits(host):
            return HostRefused(
                asked_by=ENFORCE, reason=f"MTA-STS: the policy of {domain.domain} does not name it"
            )
        return TlsDemand(mode=TlsMode.REQUIRED, asked_by=ENFORCE)
    is_unusable = dane.result is DaneResult.UNUSABLE
    if domain.sts is not None and domain.sts.mode is Mode.TESTING:
        complaint = "" if domain.sts.permits(host) else "the policy does not name it"
        return TlsDemand(mode=configured, asked_by=TESTING, complaint=complaint)
    return TlsDemand(mode=configured, asked_by=DANE_UNUSABLE if is_unusable else "")


def _encrypted(mode: TlsMode) -> TlsMode:
    """RFC 7672 section 2.2: records that can't be used still say that there is TLS."""
    return TlsMode.REQUIRED if mode is TlsMode.REQUIRED else TlsMode.REQUIRED_INSECURE
