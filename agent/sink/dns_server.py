"""
A small DNS server for loopback, over UDP and TCP, that answers from a table.

It is for tests and the demo: no recursion, no transfer, no signatures.

    async with DnsServer({"mx": {"bigmail.example": [[10, "mx.bigmail.example"]]}}) as dns:
        dns.address   # "127.0.0.1:40123"
"""

import asyncio
import struct
from collections import deque
from collections.abc import Mapping
from types import TracebackType
from typing import Any, cast

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype

from agent.sink.zone import Zone, answer_query

_BIND_ATTEMPTS = 50
_KEPT_QUERIES = 10_000
_TCP_IDLE_SECONDS = 10.0
_MAX_UDP_ANSWER = 4096


class DnsServer:
    """Answers DNS questions from a zone, which may be replaced while it runs."""

    def __init__(
        self, zone: Zone | Mapping[str, Any], *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Prepare to answer from *zone* on *host*; *port* 0 leaves the choice to the system."""
        self.zone = zone if isinstance(zone, Zone) else Zone.from_mapping(zone)
        self.host = host
        self.port = port
        #: The newest questions as (name, type), oldest first.
        self.queries: deque[tuple[str, str]] = deque(maxlen=_KEPT_QUERIES)
        self._tcp: asyncio.Server | None = None
        self._udp: asyncio.DatagramTransport | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where it listens, as `host:port`."""
        return f"{self.host}:{self.port}"

    async def start(self) -> None:
        """Listen on one port number for UDP and TCP."""
        wanted = self.port
        for attempt in range(_BIND_ATTEMPTS):
            try:
                return await self._listen(wanted)
            except OSError:
                await self.stop()
                self.port = wanted
                if wanted or attempt == _BIND_ATTEMPTS - 1:
                    raise
        return None

    async def _listen(self, port: int) -> None:
        self._tcp = await asyncio.start_server(self._serve_tcp, self.host, port)
        self.port = self._tcp.sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        self._udp, _ = await loop.create_datagram_endpoint(
            lambda: _UdpAnswers(self), local_addr=(self.host, self.port)
        )

    async def stop(self) -> None:
        """Stop listening and close what is open."""
        if self._udp is not None:
            self._udp.close()
            self._udp = None
        if self._tcp is not None:
            self._tcp.close()
            for task in tuple(self._connections):
                task.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)
            await self._tcp.wait_closed()
            self._tcp = None
        await asyncio.sleep(0)  # lets the closed UDP transport run its last callback

    async def __aenter__(self) -> "DnsServer":
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()

    def answer(self, wire: bytes, *, max_size: int) -> bytes | None:
        """Answer one message in wire form; None for silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        for question in query.question:
            name = question.name.to_text(omit_final_dot=True).lower()
            self.queries.append((name, dns.rdatatype.to_text(question.rdtype)))
        response = answer_query(query, self.zone)
        if response is None:
            return None
        if max_size < 65535:
            max_size = min(max_size, max(query.payload, 512))
        try:
            return response.to_wire(max_size=max_size)
        except dns.exception.TooBig:
            truncated = dns.message.make_response(query)
            truncated.flags |= dns.flags.TC
            return truncated.to_wire()

    async def _serve_tcp(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            async with asyncio.timeout(_TCP_IDLE_SECONDS):
                while True:
                    (size,) = struct.unpack("!H", await reader.readexactly(2))
                    wire = self.answer(await reader.readexactly(size), max_size=65535)
                    if wire is not None:
                        writer.write(struct.pack("!H", len(wire)) + wire)
                        await writer.drain()
        except (asyncio.IncompleteReadError, OSError, TimeoutError, asyncio.CancelledError):
            pass  # the client went away, or we are stopping: nothing is left to say
        finally:
            self._connections.discard(task)
            writer.close()


class _UdpAnswers(asyncio.DatagramProtocol):
    def __init__(self, server: DnsServer) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Selector transports are no DatagramTransport by class before Python 3.13.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        wire = self._server.answer(data, max_size=_MAX_UDP_ANSWER)
        if wire is not None and self._transport is not None:
            self._transport.sendto(wire, addr)
