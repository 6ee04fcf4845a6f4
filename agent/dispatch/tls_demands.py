"""
TlsDemands: finds out what receiving domains ask of TLS: their MTA-STS policies, and the TLSA
records of their hosts. What follows from it is decided in `agent.delivery.tls_policy`.
"""

import logging
from collections import Counter
from collections.abc import Mapping

from agent.delivery.dane import usable_records
from agent.delivery.mta_sts import Mode, StsPolicy
from agent.delivery.tls_policy import (
    ASKED_BY,
    DANE,
    NO_DANE,
    DaneFinding,
    DaneResult,
    DomainTls,
    HostRefused,
    TlsDemand,
    demand_for,
)
from agent.dispatch.options import PathOptions
from agent.dns import DnsUnavailable, DomainNotFound, Resolver
from agent.mta_sts.policies import MtaStsPolicies

logger = logging.getLogger(__name__)

_TEMPFAIL = DaneFinding(result=DaneResult.TEMPFAIL)


class TlsDemands:
    """What domains and hosts ask, and how often it was met."""

    def __init__(self, resolver: Resolver, policies: MtaStsPolicies | None) -> None:
        """*policies*: None: MTA-STS is not asked about."""
        self._resolver = resolver
        self._policies = policies
        self._has_warned = False
        self._sessions: Counter[str] = Counter(dict.fromkeys(ASKED_BY, 0))
        self._failures: Counter[str] = Counter(dict.fromkeys(ASKED_BY, 0))
        self._dane: Counter[str] = Counter({result.value: 0 for result in DaneResult})

    @property
    def sessions(self) -> Mapping[str, float]:
        """Sessions that were opened as a domain asks, by what it published."""
        return {name: float(count) for name, count in self._sessions.items()}

    @property
    def failures(self) -> Mapping[str, float]:
        """Hosts that did not meet it; of mode `testing`, whether mail was sent or not."""
        return {name: float(count) for name, count in self._failures.items()}

    @property
    def dane_results(self) -> Mapping[str, float]:
        """What the DNS said of hosts' TLSA records."""
        return {name: float(count) for name, count in self._dane.items()}

    async def of_domain(
        self, domain: str, options: PathOptions, *, is_secure_mx: bool
    ) -> DomainTls:
        """What *domain* asks; waits where nothing is known of it yet, but not for long."""
        if (known := self.known_of_domain(domain, options, is_secure_mx=is_secure_mx)) is not None:
            return known
        assert self._policies is not None
        policy = await self._policies.policy_for(domain)
        return self._asked(domain, policy, options, is_secure_mx=is_secure_mx)

    def known_of_domain(
        self, domain: str, options: PathOptions, *, is_secure_mx: bool
    ) -> DomainTls | None:
        """As `of_domain`, without waiting; None: it is not known yet."""
        if domain.startswith("["):
            return DomainTls(domain=domain)
        policy = None
        if options.enable_mta_sts and self._policies is not None:
            is_known, policy = self._policies.known_policy(domain)
            if not is_known:
                return None
        return self._asked(domain, policy, options, is_secure_mx=is_secure_mx)

    def _asked(
        self, domain: str, policy: StsPolicy | None, options: PathOptions, *, is_secure_mx: bool
    ) -> DomainTls:
        if policy is not None and policy.mode is Mode.NONE:
            policy = None
        if options.enable_dane and not self._resolver.trusts_ad:
            self._warn()
        return DomainTls(domain=domain, sts=policy, is_secure=options.enable_dane and is_secure_mx)

    async def of_host(
        self, host: str, domain: DomainTls, options: PathOptions
    ) -> TlsDemand | HostRefused:
        """What a session with *host* for mail of *domain* does about TLS."""
        finding = NO_DANE
        if options.enable_dane:
            finding = await self._find_records(host, options) if domain.is_secure else NO_DANE
            self._dane[finding.result.value] += 1
        demand = demand_for(options.tls_mode, host, domain=domain, dane=finding)
        if isinstance(demand, HostRefused):
            self.failed(host, demand.asked_by, demand.reason)
        elif demand.complaint:
            self.failed(host, demand.asked_by, demand.complaint)
        return demand

    def opened(self, demand: TlsDemand) -> None:
        """Count a session."""
        if demand.asked_by:
            self._sessions[demand.asked_by] += 1

    def failed(self, host: str, asked_by: str, reason: str) -> None:
        """Count and tell that *host* is not as its domain says."""
        if not asked_by:
            return
        self._failures[asked_by] += 1
        logger.info(
            "tls policy not met", extra={"host": host, "policy": asked_by, "reason": reason}
        )

    async def _find_records(self, host: str, options: PathOptions) -> DaneFinding:
        """RFC 7672 section 2.2: which records count for *host*, whose MX answer is secure."""
        try:
            bases = await self._bases(host, options)
            if not bases:
                return NO_DANE
            for base in bases:
                found = await self._resolver.tlsa(base, options.port)
                if not found.records or not found.is_secure:
                    continue
                records = usable_records(found.records)
                result = DaneResult.OK if records else DaneResult.UNUSABLE
                return DaneFinding(result=result, records=records, base=base)
        except (DnsUnavailable, DomainNotFound) as error:
            logger.info("dane not to be decided", extra={"host": host, "reason": str(error)})
            return _TEMPFAIL
        return DaneFinding(result=DaneResult.NOT_APPLICABLE)

    async def _bases(self, host: str, options: PathOptions) -> tuple[str, ...]:
        """The names at which records may stand, the first one first."""
        addresses = await self._resolver.address_answer(host, options.ip_strategy)
        canonical = addresses.canonical or host
        if addresses.is_secure:
            return (host,) if canonical == host else (canonical, host)
        if canonical == host:
            return ()
        # The host's own zone may be signed although its alias leads into one that is not.
        alias = await self._resolver.alias(host)
        return (host,) if alias.values and alias.is_secure else ()

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "dane without effect",
                extra={
                    "policy": DANE,
                    "reason": "the resolvers' AD bit is not trusted; use a validating resolver on"
                    " loopback, or set dns.trust_ad where the way to it is safe",
                },
            )
