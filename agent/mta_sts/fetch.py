"""
Fetch: a domain's policy over HTTPS (RFC 8461 section 3.3).

The certificate must be good for `mta-sts.<domain>`; nothing is followed elsewhere, and no more is
read than a policy can be long.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from agent.delivery.mta_sts import LARGEST_POLICY, NoPolicy, StsPolicy, parse_policy
from agent.dns import DnsUnavailable, DomainNotFound, Resolver
from agent.errors import AgentError

#: Longest wait for a policy; RFC 8461 section 3.3 suggests a minute at most.
_SECONDS = 30.0
_PATH = "/.well-known/mta-sts.txt"
_HTTPS = 443
_PIECE = 16 * 1024


class FetchFailed(AgentError, ConnectionError):
    """A policy could not be fetched, or what was fetched is none."""

    def __init__(self, message: str, *, result: str) -> None:
        super().__init__(message)
        #: "unreachable", "refused" (by its status, redirection or kind of content) or "invalid".
        self.result = result


class PolicyFetcher:
    """Fetches policies."""

    def __init__(
        self,
        resolver: Resolver,
        *,
        trusted: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        port: int = _HTTPS,
        timeout: float = _SECONDS,
    ) -> None:
        """*trusted* makes the context that checks certificates; *timeout* is in seconds."""
        self._resolver = resolver
        self._trusted = trusted
        self._port = port
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._session: aiohttp.ClientSession | None = None
        self._opening = asyncio.Lock()

    async def fetch(self, domain: str) -> StsPolicy:
        """Fetch the policy of *domain*. Errors: `FetchFailed`."""
        authority = f"mta-sts.{domain}"
        place = authority if self._port == _HTTPS else f"{authority}:{self._port}"
        try:
            session = await self._open()
            async with session.get(f"https://{place}{_PATH}", allow_redirects=False) as response:
                body = await _read(response, authority)
        except FetchFailed:
            raise
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            text = f"{authority}: {type(error).__name__}: {error}"
            raise FetchFailed(text[:300], result="unreachable") from error
        try:
            return parse_policy(body)
        except NoPolicy as error:
            raise FetchFailed(f"{authority}: {error}", result="invalid") from error

    async def close(self) -> None:
        """Close what is open."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _open(self) -> aiohttp.ClientSession:
        async with self._opening:
            if self._session is not None:
                return self._session
            connector = aiohttp.TCPConnector(
                # Off the event loop: loading the trusted certificates takes tens of milliseconds.
                ssl=await asyncio.to_thread(self._trusted),
                resolver=_Names(self._resolver),
                use_dns_cache=False,
                force_close=True,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "text/plain", "Accept-Encoding": "identity"},
            )
            return self._session


async def _read(response: aiohttp.ClientResponse, authority: str) -> bytes:
    if response.status != 200:
        # RFC 8461 section 3.3: redirections are not followed.
        raise FetchFailed(f"{authority}: status {response.status}", result="refused")
    if response.content_type != "text/plain":
        kind = response.content_type[:80]
        raise FetchFailed(f"{authority}: {kind}: expected text/plain", result="refused")
    body = bytearray()
    async for piece in response.content.iter_chunked(_PIECE):
        body += piece
        if len(body) > LARGEST_POLICY:
            raise FetchFailed(f"{authority}: more than {LARGEST_POLICY} bytes", result="invalid")
    return bytes(body)


class _Names(AbstractResolver):
    """Lets the client use the agent's own resolver."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Look *host* up."""
        try:
            addresses = await self._resolver.addresses(host)
        except (DomainNotFound, DnsUnavailable) as error:
            raise OSError(str(error)) from error
        if not addresses:
            raise OSError(f"{host} has no address")
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        """Nothing is open."""
