"""
The sink at work: listeners, the DNS server, the HTTP view of the counts, and the report.

    async with Sink(parse_sink_settings({"provider": [{"name": "bigmail"}]})) as sink:
        sink.listening["bigmail"]   # (("127.0.0.1", 40123),)
        sink.report()["providers"]["bigmail"]["total"]
"""

import asyncio
import contextlib
import json
import logging
import os
import random
import ssl
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.errors import SettingsError
from agent.sink.dns_server import DnsServer
from agent.sink.http import SinkHttp
from agent.sink.provider import ProviderState
from agent.sink.session import Session, Step
from agent.sink.settings import Provider, SinkSettings

logger = logging.getLogger(__name__)

_BIND_ATTEMPTS = 50
_BACKLOG = 1024
_READ_OCTETS = 64 * 1024
#: How long a connection that we ended is read on, so that our last reply is not lost to a reset.
_LINGER_SECONDS = 2.0


class Sink:
    """All simulated providers of one configuration."""

    def __init__(self, settings: SinkSettings) -> None:
        """Prepare; nothing listens before `start`."""
        self.settings = settings
        started = time.monotonic_ns()
        self._started = started
        self.providers = {
            provider.name: ProviderState(
                provider,
                chance=random.Random(f"{settings.sink.seed}/{provider.name}"),
                started=started,
                max_identities=settings.sink.max_identities,
            )
            for provider in settings.provider
        }
        #: Where each provider listens.
        self.listening: dict[str, tuple[tuple[str, int], ...]] = {}
        self.dns: DnsServer | None = None
        self.http: SinkHttp | None = None
        self._servers: list[asyncio.Server] = []
        self._sessions: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen everywhere; on an error nothing is left open. Errors: OSError, SettingsError."""
        try:
            for provider in self.settings.provider:
                self.listening[provider.name] = await self._listen(provider)
            if self.settings.dns is not None:
                host, _, port = self.settings.dns.listen.rpartition(":")
                self.dns = DnsServer(self.settings.dns.zone, host=host, port=int(port))
                await self.dns.start()
            if self.settings.sink.http_listen:
                host, _, port = self.settings.sink.http_listen.rpartition(":")
                self.http = SinkHttp(self.providers, self.report, host=host, port=int(port))
                await self.http.start()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Stop listening and drop every connection."""
        for server in self._servers:
            server.close()
        for task in tuple(self._sessions):
            task.cancel()
        await asyncio.gather(*self._sessions, return_exceptions=True)
        for server in self._servers:
            await server.wait_closed()
        self._servers.clear()
        if self.dns is not None:
            await self.dns.stop()
        if self.http is not None:
            await self.http.stop()

    async def __aenter__(self) -> "Sink":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def report(self, *, identities: bool = False) -> dict[str, Any]:
        """What was seen so far, JSON-ready; *identities* adds every accepted message."""
        now = time.monotonic_ns()
        providers = {}
        exceeded = []
        for name, state in self.providers.items():
            clients = {client: tally.as_json() for client, tally in state.clients.items()}
            total = state.total.as_json()
            exceeded += [f"{name}: {sentence}" for sentence in total["exceeded"]]
            for client, counts in clients.items():
                exceeded += [f"{name}, {client}: {text}" for text in counts["exceeded"]]
            providers[name] = {
                "total": total,
                "clients": clients,
                "pushing_back": state.is_pushing_back(now),
                "identities": len(state.identities.seen),
                "duplicates": state.identities.duplicates,
                "identities_dropped": state.identities.dropped,
            }
            if identities:
                providers[name]["accepted"] = dict(state.identities.seen)
        elapsed = (now - self._started) / 10**9
        return {"elapsed_seconds": elapsed, "exceeded": exceeded, "providers": providers}

    def write_report(self, path: Path) -> None:
        """Write the report with every identity, whole or not at all."""
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(self.report(identities=True), indent=1))
        os.replace(partial, path)

    async def _listen(self, provider: Provider) -> tuple[tuple[str, int], ...]:
        """Bind all addresses; those with port 0 share one number that the system chooses."""
        places = [
            (host, int(port)) for host, _, port in (p.rpartition(":") for p in provider.listen)
        ]
        context = _tls_context(provider)
        for attempt in range(_BIND_ATTEMPTS):
            bound: list[asyncio.Server] = []
            chosen = 0
            try:
                for host, port in places:
                    server = await self._bind(provider, host.strip("[]"), port or chosen, context)
                    bound.append(server)
                    chosen = chosen or (0 if port else server.sockets[0].getsockname()[1])
            except OSError:
                for server in bound:
                    server.close()
                if not chosen or attempt == _BIND_ATTEMPTS - 1:
                    raise
                continue
            self._servers += bound
            return tuple(server.sockets[0].getsockname()[:2] for server in bound)
        raise AssertionError("the loop above returns or raises")

    async def _bind(
        self, provider: Provider, host: str, port: int, context: ssl.SSLContext | None
    ) -> asyncio.Server:
        state = self.providers[provider.name]

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._supervise(state, reader, writer, context)

        return await asyncio.start_server(serve, host, port, backlog=_BACKLOG)

    async def _supervise(
        self,
        state: ProviderState,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        context: ssl.SSLContext | None,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._sessions.add(task)
        client = str((writer.get_extra_info("peername") or ("unknown",))[0])
        session = Session(
            state, client, now=time.monotonic_ns(), id_header=self.settings.sink.id_header
        )
        try:
            await _converse(session, reader, writer, context)
        except (OSError, asyncio.CancelledError):
            pass  # the client went away (TLS errors are OSErrors too), or we are stopping
        finally:
            session.disconnected()
            self._sessions.discard(task)
            writer.close()


async def _converse(
    session: Session,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    context: ssl.SSLContext | None,
) -> None:
    is_silent = False
    while True:
        step = None if is_silent else session.next_step(time.monotonic_ns())
        if step is None:
            data = await reader.read(_READ_OCTETS)
            if not data:
                return
            if not is_silent:
                session.feed(data)
            continue
        is_silent = step.silent
        if await _act(step, session, reader, writer, context):
            return


async def _act(
    step: Step,
    session: Session,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    context: ssl.SSLContext | None,
) -> bool:
    """Do what *step* says; whether the connection is over."""
    if step.delay:
        await writer.drain()
        await asyncio.sleep(step.delay)
    writer.write(step.reply)
    await writer.drain()
    if step.start_tls:
        assert context is not None
        await writer.start_tls(context)
        session.tls_started()
    if not step.close:
        return False
    session.disconnected()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LINGER_SECONDS):
            if writer.can_write_eof():
                writer.write_eof()
            else:
                return True
            while await reader.read(_READ_OCTETS):
                pass
    return True


def _tls_context(provider: Provider) -> ssl.SSLContext | None:
    if provider.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(provider.certificate, provider.private_key)
    except (OSError, ssl.SSLError) as error:
        place = f'provider "{provider.name}": certificate "{provider.certificate}"'
        raise SettingsError([f"{place}: {error}"]) from error
    return context
