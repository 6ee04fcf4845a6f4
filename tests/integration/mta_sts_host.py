"""A host that publishes MTA-STS policies over HTTPS on loopback, for tests."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trustme
from aiohttp import web

ENFORCE = "version: STSv1\nmode: enforce\nmx: mx.big.example\nmax_age: 86400\n"


class PolicyHost:
    """Answers for one domain; what it answers may be changed while it runs."""

    def __init__(self) -> None:
        self.body: str | bytes = ENFORCE
        self.status, self.content_type, self.location = 200, "text/plain", ""
        #: While it is cleared, answers wait.
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        #: One a request: its host and path.
        self.asked: list[tuple[str, str]] = []
        self.port = 0

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        self.asked.append((request.host.partition(":")[0], request.path))
        await self.may_answer.wait()
        body = self.body.encode() if isinstance(self.body, str) else self.body
        response = web.Response(status=self.status, body=body, content_type=self.content_type)
        if self.location:
            response.headers["Location"] = self.location
        return response


@asynccontextmanager
async def policy_host(authority: trustme.CA, *names: str) -> AsyncIterator[PolicyHost]:
    """Listen with a certificate for *names*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    host = PolicyHost()
    runner = web.ServerRunner(web.Server(host.answer), shutdown_timeout=0.5)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    host.port = runner.addresses[0][1]
    try:
        yield host
    finally:
        host.may_answer.set()
        await runner.cleanup()
