"""
Link: the connection of a session. It is opened along the route, used for so many transactions, and
given up when the peer is gone or other rules hold; then the route says where the session goes on.
"""

import asyncio
from collections.abc import Awaitable, Callable

from agent.delivery.plan import Candidate
from agent.delivery.record import Response
from agent.dispatch.options import PathOptions
from agent.dispatch.path import Path
from agent.dispatch.peer import CandidateFailed, Peer, SourceUnusable
from agent.dispatch.route import Route
from agent.dispatch.settling import Way
from agent.errors import AgentError
from agent.queue.names import QueueName
from penstock.v1.egress_path_pb2 import ReconnectStrategy


class Paused(AgentError):
    """
    The session has to end: the connection rate asks for a wait that is too long to hold a slot, the
    slot is gone, or the source can't be used.
    """


class Link:
    """The connection of one session, or none, and the route that it is opened along."""

    def __init__(
        self,
        path: Path,
        *,
        session_id: str,
        host_name: str,
        pace: Callable[[], Awaitable[None]],
        on_progress: Callable[[str], None],
    ) -> None:
        """
        *host_name* is said in EHLO where the rules name none; *pace* waits until the next attempt
        to connect may be made, or raises `Paused`; *on_progress* is told what is waited for.
        """
        self.peer: Peer | None = None
        self.route = Route(
            path.services.resolver,
            path.services.connector.demands,
            options=lambda: path.options,
            shuffle=path.services.random.shuffle,
        )
        #: Transactions on this connection.
        self.transactions = 0
        #: The peer has to be told to forget the transaction before.
        self.needs_reset = False
        self._path = path
        self._services = path.services
        self._session_id = session_id
        self._host_name = host_name
        self._pace = pace
        self._on_progress = on_progress
        #: By what the connection was opened.
        self._opened_by: PathOptions | None = None
        self._opening: asyncio.Timeout | None = None

    @property
    def is_used_up(self) -> bool:
        """Whether the session has no further message to send this way."""
        if self.peer is None:
            # A route that has been used up after it served ends the session, not the next message.
            return self.route.has_served and not self.route.has_more
        options = self._path.options
        return self.transactions >= options.max_deliveries or not self._is_as_opened(options)

    def _is_as_opened(self, options: PathOptions) -> bool:
        """Whether it may be used on: not what was opened by other rules, for TLS above all."""
        before = self._opened_by
        return before is options or (before is not None and before.posture == options.posture)

    def serves_at_once(self, domain: str) -> bool:
        """Whether it is open and known to be for *domain* too."""
        peer = self.peer
        return peer is not None and self.route.serves_at_once(
            domain, accepted_name=peer.accepted_name
        )

    async def leave_other_hosts(self, domain: str) -> None:
        """Hang up, and plan anew, where mail for *domain* must not go."""
        route, peer = self.route, self.peer
        if not route.is_made:
            return
        if await route.serves(domain, accepted_name=peer.accepted_name if peer else ""):
            return
        route.forget()
        route.has_served = False
        await self.close()

    async def find_route(self, domain: str) -> Response | None:
        """Plan where to connect for *domain*; what is to be said of its mail if there is no way."""
        source_address = self._path.source.source_address or ""
        return await self.route.make(domain, source_address=source_address)

    async def open_next(self, failures: list[str]) -> bool:
        """
        Open a connection along the route; False: there is none to be had, and *failures* says of
        each host why. Errors: `Paused`.
        """
        while self.route.has_more:
            candidate = self.route.take()
            try:
                await self._open(candidate)
            except SourceUnusable as error:
                self._services.sources.fail(self._path.policy.egress_source, str(error))
                raise Paused from None
            except CandidateFailed as error:
                failures.append(str(error))
                continue
            return True
        return False

    async def _open(self, candidate: Candidate) -> None:
        path, options = self._path, self._path.options
        source = path.source
        self._opening = opening = asyncio.timeout(None)
        try:
            async with opening:
                self.peer = await self._services.connector.open(
                    candidate,
                    domain=self.route.tls,
                    path_name=path.name,
                    source_address=source.source_address or "",
                    ehlo_domain=options.ehlo_domain or source.ehlo_domain or self._host_name,
                    options=options,
                    pace=self._pace,
                    on_progress=self._on_progress,
                )
        except TimeoutError:
            if not opening.expired():
                raise
            # Cut off; nothing has been tried.
            raise Paused from None
        finally:
            self._opening = None
        path.failures = 0
        self._opened_by, self.route.has_served = options, True
        self.transactions, self.needs_reset = 0, False

    def drop_if_gone(self) -> None:
        """Give the connection up if it does not stand any more."""
        if self.peer is not None and not self.peer.is_open:
            self.drop()

    def drop(self) -> None:
        """The connection is gone; the strategy says where the session goes on."""
        peer, self.peer = self.peer, None
        if peer is None:
            return
        peer.abort()
        match self._path.options.reconnect:
            case ReconnectStrategy.RECONNECT_STRATEGY_RECONNECT_SAME_HOST:
                self.route.put_first(peer.candidate)
            case ReconnectStrategy.RECONNECT_STRATEGY_TERMINATE_SESSION:
                self.route.end()
            case _:
                pass

    def cut(self) -> None:
        """End it now, open or being opened."""
        if self._opening is not None:
            self._opening.reschedule(asyncio.get_running_loop().time())
        self.abort()

    def abort(self) -> None:
        """Cut the connection, if there is one."""
        if self.peer is not None:
            self.peer.abort()

    async def close(self) -> None:
        """Take leave of the peer, if there is one."""
        if self.peer is not None:
            peer, self.peer = self.peer, None
            await peer.quit()

    def way(self, queue: QueueName) -> Way:
        """How mail of *queue* goes or would have gone, for records."""
        peer, policy = self.peer, self._path.policy
        return Way(
            pool=self._services.settings.queue_for(queue.domain).egress_pool,
            source=policy.egress_source,
            policy=policy,
            session_id=self._session_id,
            source_address=peer.source_address if peer else "",
            peer=peer.name if peer else None,
            tls_version=peer.tls_version if peer else "",
            tls_cipher=peer.tls_cipher if peer else "",
        )
