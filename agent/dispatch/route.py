"""
Route: to which hosts a session may connect for its mail, and what was asked of them over TLS.

It is made for one domain and serves others as long as they have the same hosts and ask for no more.
"""

from collections.abc import Callable, Collection

from msgspec.structs import replace

from agent.delivery import internal
from agent.delivery.plan import Candidate, Host, HostFilter, NoWay, make_plan
from agent.delivery.record import Response
from agent.delivery.tls_policy import DomainTls
from agent.dispatch.options import PathOptions
from agent.dispatch.tls_demands import TlsDemands
from agent.dns import DnsUnavailable, DomainNotFound, FoundMx, Resolver


class Route:
    """Where a session goes; made anew when it has been used up or serves no more."""

    def __init__(
        self,
        resolver: Resolver,
        demands: TlsDemands,
        *,
        options: Callable[[], PathOptions],
        shuffle: Callable[[list[Candidate]], None],
    ) -> None:
        """*options* tells what holds now; *shuffle* disorders addresses of one preference."""
        self._resolver = resolver
        self._demands = demands
        self._options = options
        self._shuffle = shuffle
        self._candidates: list[Candidate] | None = None
        #: By which answer it was made or found to serve, and the hosts that it names.
        self._found: FoundMx | None = None
        self._hosts: frozenset[str] = frozenset()
        #: What the domain that it was made for asks of TLS.
        self.tls = DomainTls()
        #: Whether a connection was opened along it.
        self.has_served = False

    @property
    def is_made(self) -> bool:
        """Whether there is one, used up or not."""
        return self._candidates is not None

    @property
    def has_more(self) -> bool:
        """Whether a host is left to be tried."""
        return bool(self._candidates)

    def take(self) -> Candidate:
        """The next address to try; there is one."""
        assert self._candidates
        return self._candidates.pop(0)

    def put_first(self, candidate: Candidate) -> None:
        """Let an address be the next to be tried."""
        self._candidates = [candidate, *(self._candidates or [])]

    def leave_out(self, tried: Collection[Candidate]) -> None:
        """Try none of these."""
        self._candidates = [each for each in self._candidates or () if each not in tried]

    def end(self) -> None:
        """Try no more hosts."""
        self._candidates = []

    def forget(self) -> None:
        """Make another one before the next connection."""
        self._candidates = None

    async def make(self, domain: str, *, source_address: str) -> Response | None:
        """Find the hosts of *domain*; what is to be said of its mail where there is no way."""
        options = self._options()
        try:
            found = await self._resolver.mx_answer(domain)
            self._found, self._hosts = found, _names_of(found)
            self.tls = await self._tls_of(domain, is_secure_mx=found.is_secure)
            hosts = await self._find_hosts(found, options)
        except DomainNotFound:
            return internal.no_such_domain(domain)
        except DnsUnavailable as error:
            return internal.lookup_failed(domain, str(error))
        if found.hosts and not hosts:
            return internal.not_named_by_policy(domain)
        host_filter = HostFilter(
            prohibited=options.prohibited, skipped=options.skipped, source_address=source_address
        )
        plan = make_plan(hosts, host_filter, self._shuffle)
        if isinstance(plan, NoWay):
            return plan.response
        self._candidates = list(plan)
        return None

    def serves_at_once(self, domain: str, *, accepted_name: str) -> bool:
        """As `serves`, asking nobody; False also where something would have to be asked."""
        mx = self._resolver.known_mx_answer(domain)
        if mx is None or not self.is_made:
            return False
        asked = self._demands.known_of_domain(domain, self._options(), is_secure_mx=mx.is_secure)
        return asked is not None and self._admits(domain, mx, asked, accepted_name)

    async def serves(self, domain: str, *, accepted_name: str) -> bool:
        """
        Whether mail for *domain* may go this way. Two host sets can bear one site name, and a
        domain's hosts can change: mail never goes to hosts that are not its own. *accepted_name*
        is that for which DANE accepted the open connection's certificate, empty for none.
        """
        mx = await self._mx_of(domain)
        is_secure = self.tls.is_secure if mx is None else mx.is_secure
        asked = await self._tls_of(domain, is_secure_mx=is_secure)
        return self._admits(domain, mx, asked, accepted_name)

    def _admits(
        self, domain: str, mx: FoundMx | None, asked: DomainTls, accepted_name: str
    ) -> bool:
        if mx is not None and mx is not self._found:
            if _names_of(mx) != self._hosts:
                return False
            self._found = mx
        if asked == self.tls:
            return True
        if not self.tls.covers(asked, self._hosts):
            return False
        if accepted_name == self.tls.domain != domain:
            # DANE: a certificate for that domain's name says nothing to this one.
            return False
        if domain != self.tls.domain:
            self.tls = replace(self.tls, domain=domain)
        return True

    async def _find_hosts(self, found: FoundMx, options: PathOptions) -> list[Host]:
        return [
            Host(
                name=mx.host,
                preference=mx.preference,
                addresses=await self._addresses(mx.host, options),
            )
            for mx in found.hosts
            if _is_null(mx.host) or self.tls.may_have(mx.host)
        ]

    async def _addresses(self, host: str, options: PathOptions) -> tuple[str, ...]:
        if _is_null(host):
            return ()
        try:
            return await self._resolver.addresses(host, options.ip_strategy)
        except (DnsUnavailable, DomainNotFound):
            return ()

    async def _mx_of(self, domain: str) -> FoundMx | None:
        """The MX hosts of *domain*; None: the DNS does not tell now."""
        try:
            known = self._resolver.known_mx_answer(domain)
            return known or await self._resolver.mx_answer(domain)
        except (DnsUnavailable, DomainNotFound):
            return None

    async def _tls_of(self, domain: str, *, is_secure_mx: bool) -> DomainTls:
        return await self._demands.of_domain(domain, self._options(), is_secure_mx=is_secure_mx)


def _names_of(found: FoundMx) -> frozenset[str]:
    return frozenset(mx.host for mx in found.hosts)


def _is_null(host: str) -> bool:
    # RFC 7505: the domain takes no mail.
    return host in (".", "")
