"""
Connector: from a candidate address to a session that mail can be sent over: connection, EHLO,
STARTTLS and AUTH as the path's options ask for.
"""

import time
from asyncio import to_thread
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

from agent.delivery.dane import check_chain
from agent.delivery.plan import Candidate
from agent.delivery.tls import (
    OPPORTUNISTIC,
    VERIFIED,
    Handshake,
    Memory,
    TlsStep,
    may_authenticate,
    next_tls_step,
)
from agent.delivery.tls_policy import DomainTls, HostRefused, TlsDemand
from agent.dispatch.dialogue import Broken
from agent.dispatch.options import PathOptions
from agent.dispatch.peer import CandidateFailed, Peer, connect
from agent.dispatch.secrets import SecretMissing, read_secret
from agent.dispatch.tls_contexts import TlsContexts
from agent.dispatch.tls_demands import TlsDemands

_MOST_BROKEN = 10_000
#: How long broken TLS is remembered where the path goes on in the clear but names no time.
_DEFAULT_MEMORY_SECONDS = 900.0


class BrokenTls:
    """
    Hosts whose TLS failed not long ago, by path and host: one bad host of a plan does not take
    the others into the clear.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: OrderedDict[tuple[str, str], float] = OrderedDict()

    def holds(self, path_name: str, host: str) -> bool:
        """Whether a failure is remembered."""
        return self._until.get((path_name, host), 0.0) > self._clock()

    def remember(self, path_name: str, host: str, seconds: float) -> None:
        """Remember a failure."""
        self._until[(path_name, host)] = self._clock() + seconds
        self._until.move_to_end((path_name, host))
        while len(self._until) > _MOST_BROKEN:
            self._until.popitem(last=False)


class Connector:
    """Opens sessions for all paths."""

    def __init__(
        self,
        contexts: TlsContexts,
        broken: BrokenTls,
        demands: TlsDemands,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*clock* gives seconds since the epoch, for the dates of certificates."""
        self._contexts = contexts
        self._broken = broken
        self._clock = clock
        #: What receiving domains ask of TLS.
        self.demands = demands

    async def open(
        self,
        candidate: Candidate,
        *,
        domain: DomainTls,
        path_name: str,
        source_address: str,
        ehlo_domain: str,
        options: PathOptions,
        pace: Callable[[], Awaitable[None]],
        on_progress: Callable[[str], None],
    ) -> Peer:
        """
        Open a session with *candidate* for mail of *domain*; *pace* is awaited before each
        connection, so that each is counted; *on_progress* is told how far it is. Errors:
        `CandidateFailed`.
        """
        demand = await self.demands.of_host(candidate.host, domain, options)
        if isinstance(demand, HostRefused):
            raise CandidateFailed(f"{candidate.host}: {demand.reason}")
        in_clear = False
        while True:
            await pace()
            peer = await connect(
                candidate,
                source_address=source_address,
                ehlo_domain=ehlo_domain,
                options=options,
                on_progress=on_progress,
            )
            is_ready = False
            try:
                step, reason = await self._secure(
                    peer, demand, path_name, ehlo_domain, options, in_clear=in_clear
                )
                if reason and not in_clear:
                    self.demands.failed(candidate.host, demand.asked_by, reason)
                if step is TlsStep.NEXT_HOST:
                    raise CandidateFailed(f"{candidate.host}: {reason}")
                if step is TlsStep.CLEAR_AGAIN:
                    in_clear = True
                    continue
                await _authenticate(peer, options)
                is_ready = True
                self.demands.opened(demand)
                return peer
            except Broken as error:
                said = f"{error.response.code} {error.response.content}"
                raise CandidateFailed(f"{candidate.host}: {said}") from None
            except SecretMissing as error:
                raise CandidateFailed(f"{candidate.host}: {error}") from None
            finally:
                if not is_ready:
                    await peer.quit()

    async def _secure(
        self,
        peer: Peer,
        demand: TlsDemand,
        path_name: str,
        ehlo_domain: str,
        options: PathOptions,
        *,
        in_clear: bool,
    ) -> tuple[TlsStep, str]:
        """What to do about TLS, and what stood in its way; empty: nothing."""
        host, mode = peer.candidate.host, demand.mode
        peer.on_progress("EHLO")
        await peer.greet(ehlo_domain, use_lmtp=options.use_lmtp)
        memory = Memory(
            is_broken=in_clear or self._broken.holds(path_name, host),
            may_reconnect=options.reconnect_in_clear,
        )
        offered = "starttls" in peer.offered
        step = next_tls_step(mode, offered=offered, handshake=Handshake.NOT_TRIED, memory=memory)
        if step is TlsStep.NEXT_HOST:
            return step, "STARTTLS is required, but not offered"
        if step is TlsStep.CLEAR:
            return step, "no TLS" if demand.asked_by else ""
        handshake, reason = await self._start_tls(peer, demand, options)
        step = next_tls_step(mode, offered=offered, handshake=handshake, memory=memory)
        if handshake is Handshake.GOOD:
            # RFC 3207 section 4.2: what was said in the clear counts no more.
            peer.on_progress("EHLO")
            await peer.greet(ehlo_domain, use_lmtp=options.use_lmtp)
        elif handshake is Handshake.FAILED and mode in OPPORTUNISTIC:
            # Where TLS is required there is nothing to remember, and what a policy asked of this
            # mail must not take the host's other mail into the clear.
            self._remember(path_name, host, options, step)
        return step, reason

    async def _start_tls(
        self, peer: Peer, demand: TlsDemand, options: PathOptions
    ) -> tuple[Handshake, str]:
        peer.on_progress("STARTTLS")
        if not demand.records:
            is_verified = demand.mode in VERIFIED
            context = await self._contexts.context(options, is_verified=is_verified)
            return await peer.start_tls(context)
        now = datetime.fromtimestamp(self._clock(), UTC)
        return await peer.start_tls(
            await self._contexts.context(options, is_verified=False),
            server_name=demand.server_name,
            check=lambda chain: check_chain(chain, demand.records, demand.names, now),
        )

    def _remember(self, path_name: str, host: str, options: PathOptions, step: TlsStep) -> None:
        seconds = options.remember_broken_tls
        if seconds is None and step is TlsStep.CLEAR_AGAIN:
            seconds = _DEFAULT_MEMORY_SECONDS
        if seconds is not None:
            self._broken.remember(path_name, host, seconds)


async def _authenticate(peer: Peer, options: PathOptions) -> None:
    if not options.auth_username:
        return
    allowed = may_authenticate(
        is_encrypted=peer.is_encrypted,
        is_verified=peer.is_verified,
        allow_clear=options.auth_in_clear,
        allow_unverified=options.auth_unverified,
    )
    if not allowed:
        raise CandidateFailed(f"{peer.candidate.host}: AUTH is not allowed over this session")
    peer.on_progress("AUTH")
    password = await to_thread(read_secret, options.config.smtp_auth_plain_password)
    await peer.authenticate(options.auth_username, password)
