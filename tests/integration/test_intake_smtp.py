"""The SMTP port with a real spool behind it, spoken to by real clients."""

import asyncio
import signal
import smtplib
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path

import aiosmtplib
import pytest

from agent.delivery.record import Record, RecordType
from agent.errors import SpoolUnavailable, TryLater
from agent.queue.entry import Entry
from agent.setting_values import Address, SpaceFloor
from agent.settings import ListenSection, Settings
from agent.smtp.intake import IncomingMessage, Intake
from agent.smtp.listener import SmtpListener
from agent.spool.messages import Destination, NewMessage
from agent.spool.sqlite import SqliteSpool

PLAIN = b"From: a@x.example\r\nSubject: hello\r\n\r\nbody\r\n"
ENVELOPE = b"MAIL FROM:<a@x.y>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n"
ONE_MESSAGE = b"EHLO c\r\n" + ENVELOPE + PLAIN + b".\r\n"


@dataclass
class Host:
    """A running listener and what came out of it."""

    listener: SmtpListener
    intake: Intake
    spool: SqliteSpool
    accepted: list[Entry] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)

    @property
    def port(self) -> int:
        return self.listener.port

    async def bodies(self) -> list[bytes]:
        loaded = [await self.spool.load(entry.id) for entry in self.accepted]
        return [message.body for message in loaded if message is not None]


@pytest.fixture
async def start(tmp_path: Path):
    """Start hosts whose `[listen]` and `[spool]` are given."""
    hosts: list[Host] = []

    async def start_host(
        *, min_free_space: SpaceFloor | None = None, max_messages: int = 10**6, **listen
    ) -> Host:
        settings = Settings.model_validate(
            {
                "agent": {"name": "test", "data_dir": tmp_path},
                "listen": {"smtp": "127.0.0.1:0", **listen},
                "spool": {
                    "min_free_space": min_free_space or SpaceFloor(),
                    "max_messages": max_messages,
                },
            }
        )
        spool = await SqliteSpool.open(settings.agent.data_dir)
        accepted: list[Entry] = []
        records: list[Record] = []
        intake = Intake(settings, spool, accept=accepted.extend, log=records.extend)
        listener = SmtpListener(settings, intake)
        await listener.start()
        hosts.append(Host(listener, intake, spool, accepted, records))
        return hosts[-1]

    yield start_host
    for host in hosts:
        await host.listener.stop()
        await host.intake.drain()
        await host.spool.close()


async def connect(host: Host) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", host.port)


async def dialogue(host: Host, *pieces: bytes) -> list[str]:
    """Send *pieces* at once, then QUIT; every reply line until the end."""
    reader, writer = await connect(host)
    writer.write(b"".join(pieces) + b"QUIT\r\n")
    text = await reader.read()
    writer.close()
    await writer.wait_closed()
    return text.decode().splitlines()


async def test_a_message_is_on_disk_and_in_the_queues_when_it_is_acknowledged(start):
    host = await start()
    message = EmailMessage()
    message["From"], message["Subject"], message["X-Tenant"] = "a@x.example", "hi", "acme"
    message["X-Campaign"] = "news"
    message.set_content("body\n.dot\n")

    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=host.port) as client:
        refused, reply = await client.send_message(
            message,
            sender="a@x.example",
            recipients=["u@One.example", "v@two.example", "w@one.example", "u@one.example"],
        )

    assert refused == {}
    stored = await host.spool.load(host.accepted[0].id)
    assert reply == f"2.0.0 queued as {stored.message_id}"
    names = ["news:acme@one.example", "news:acme@two.example"]
    assert [entry.queue_name for entry in host.accepted] == names
    assert await host.spool.entries() == host.accepted
    loaded = await host.spool.load(host.accepted[0].id)
    assert loaded is not None
    assert loaded.recipients == ("u@one.example", "w@one.example")
    assert (loaded.tenant, loaded.campaign) == ("acme", "news")
    assert loaded.body.startswith(b"Received: from ")
    assert b"with ESMTP id " + loaded.message_id.encode() in loaded.body
    assert b"X-Tenant" not in loaded.body
    assert b"X-Campaign" not in loaded.body
    assert loaded.body.endswith(b"\r\n\r\nbody\r\n.dot\r\n")


async def test_each_destination_has_a_reception_record(start):
    host = await start()

    await dialogue(
        host,
        b"EHLO c\r\nMAIL FROM:<a@x.y>\r\nRCPT TO:<u@one.example>\r\nRCPT TO:<u@two.example>\r\n",
        b"DATA\r\n" + PLAIN + b".\r\n",
    )

    assert [record.type for record in host.records] == [RecordType.RECEPTION] * 2
    assert [record.recipients for record in host.records] == [
        ("u@one.example",),
        ("u@two.example",),
    ]
    assert len({record.event_id for record in host.records}) == 2
    peer = host.records[0].peer_address
    assert peer is not None
    assert (peer.name, peer.addr) == ("c", "127.0.0.1")
    assert host.records[0].size == len((await host.bodies())[0])


async def test_many_messages_of_one_pipelined_write_are_all_taken(start):
    host = await start()
    one = b"MAIL FROM:<a@x.y>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n" + PLAIN + b".\r\n"

    replies = await dialogue(host, b"EHLO c\r\n", one * 25)

    queued = [line for line in replies if line.startswith("250 2.0.0 queued as ")]
    assert len(set(queued)) == len(host.accepted) == 25
    assert replies[-1].startswith("221 ")


async def test_the_standard_library_client_is_served(start):
    host = await start()

    def send() -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", host.port) as client:
            client.ehlo()
            assert client.has_extn("pipelining")
            assert client.has_extn("smtputf8")
            return client.sendmail(
                "a@x.example",
                ["ü@bücher.example", "bad@@x", "v@two.example"],
                PLAIN,
                mail_options=["SMTPUTF8", "BODY=8BITMIME"],
            )

    refused = await asyncio.to_thread(send)

    assert refused["bad@@x"][0] == 553
    assert [entry.queue_name for entry in host.accepted] == [
        "xn--bcher-kva.example",
        "two.example",
    ]
    assert b"with UTF8SMTP id" in (await host.bodies())[0]


async def test_recipients_beyond_the_limit_wait_for_another_message(start):
    host = await start(max_recipients=2)

    replies = await dialogue(
        host,
        b"EHLO c\r\nMAIL FROM:<a@x.y>\r\n",
        *(b"RCPT TO:<u%d@one.example>\r\n" % number for number in range(3)),
        b"DATA\r\n" + PLAIN + b".\r\n",
    )

    assert [line for line in replies if line.startswith("452")] == ["452 4.5.3 too many recipients"]
    loaded = await host.spool.load(host.accepted[0].id)
    assert loaded is not None
    assert len(loaded.recipients) == 2


@pytest.mark.parametrize(
    ("listen", "content", "expected"),
    [
        pytest.param({}, b"A: 1\r\n\r\nbare\nline\r\n", "554 5.6.0", id="bare LF"),
        pytest.param({}, b"A: 1\r\n\r\nbare\rreturn\r\n", "554 5.6.0", id="bare CR"),
        pytest.param(
            {}, b"A: 1\r\n\r\nx\n.\r\nMAIL FROM:<e@v.il>\r\n", "554 5.6.0", id="smuggled, LF.CRLF"
        ),
        pytest.param(
            {}, b"A: 1\r\n\r\nx\r\n.\nMAIL FROM:<e@v.il>\r\n", "554 5.6.0", id="smuggled, CRLF.LF"
        ),
        pytest.param({}, b"A: 1\r\n\r\n" + b"x" * 999 + b"\r\n", "554 5.6.0", id="long line"),
        pytest.param({}, b"A: 1\r\n\r\nx\r\n\0.\r\n", "554 5.6.0", id="NUL"),
        pytest.param({"max_hops": 2}, b"Received: x\r\n" * 3, "554 5.4.6", id="loop"),
        pytest.param({}, b"X-Tenant: a@b\r\n\r\n", "554 5.6.0", id="tenant no queue can name"),
        pytest.param({"max_message_size": 20}, PLAIN, "552 5.3.4", id="too big"),
    ],
)
async def test_a_message_that_cannot_be_taken_is_refused_whole(start, listen, content, expected):
    host = await start(**listen)

    replies = await dialogue(
        host,
        b"EHLO c\r\nMAIL FROM:<a@x.y>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n",
        content + b".\r\n",
    )

    assert replies[-2][:9] == expected
    assert host.accepted == []
    assert await host.spool.entries() == []


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param(
            {"min_free_space": SpaceFloor(share=0.999999)}, "452 4.3.1 too little", id="disk"
        ),
        pytest.param({"max_messages": 1}, "451 4.3.1 too many messages", id="queues"),
    ],
)
async def test_mail_is_put_off_while_the_agent_protects_itself(start, settings, expected):
    host = await start(**settings)
    if "max_messages" in settings:
        await host.spool.add(
            [
                NewMessage(
                    id="m",
                    sender="",
                    destinations=(Destination(queue_name="a", recipients=("u@a",)),),
                    body=b"",
                    created=0.0,
                )
            ]
        )

    replies = await dialogue(host, b"EHLO c\r\nMAIL FROM:<a@x.y>\r\n")

    assert replies[-2].startswith(expected)


class FaultyStore:
    """A spool whose disk fails, or takes its time, until it is told to work."""

    entry_count = 0

    def __init__(self, spool: SqliteSpool) -> None:
        self._spool = spool
        self.is_broken = False
        self.entered = asyncio.Event()
        self.may_work = asyncio.Event()
        self.may_work.set()

    def add(self, messages: Sequence[NewMessage]) -> asyncio.Future[list[Entry]]:
        return asyncio.ensure_future(self._add(messages))

    async def _add(self, messages: Sequence[NewMessage]) -> list[Entry]:
        self.entered.set()
        await self.may_work.wait()
        if self.is_broken:
            raise SpoolUnavailable("no space left on device")
        return await self._spool.add(messages)


def make_faulty(host: Host, *, is_broken: bool = False, is_slow: bool = False) -> FaultyStore:
    store = FaultyStore(host.spool)
    store.is_broken = is_broken
    if is_slow:
        store.may_work.clear()
    host.intake._store = store
    return store


async def test_mail_is_put_off_while_the_spool_fails_and_taken_when_it_recovers(start):
    host = await start()
    store = make_faulty(host, is_broken=True)
    message = b"MAIL FROM:<a@x.y>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n" + PLAIN + b".\r\n"

    assert (await dialogue(host, b"EHLO c\r\n", message))[-2].startswith("451 4.3.0")
    assert host.accepted == []
    store.is_broken = False
    assert (await dialogue(host, b"EHLO c\r\n", message))[-2].startswith("250 2.0.0")


async def test_hosts_outside_relay_from_are_refused(start):
    host = await start(relay_from=("10.0.0.0/8",))

    assert (await dialogue(host))[0].startswith("554 5.7.1")


async def test_connections_beyond_the_limit_are_put_off_and_places_are_given_back(start):
    host = await start(max_connections=2)
    held = [await connect(host) for _ in range(2)]
    for reader, _ in held:
        assert (await reader.readline()).startswith(b"220 ")

    assert (await dialogue(host))[0].startswith("421 4.3.2")

    for reader, writer in held:
        writer.write(b"QUIT\r\n")
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert (await dialogue(host))[0].startswith("220 ")


async def test_one_client_can_not_take_all_connections(start):
    host = await start(max_connections_per_client=2)
    held = [await connect(host) for _ in range(2)]
    for reader, _ in held:
        assert (await reader.readline()).startswith(b"220 ")

    assert (await dialogue(host))[0].startswith("421 4.7.0 too many connections from your address")
    other = await asyncio.open_connection("127.0.0.1", host.port, local_addr=("127.0.0.9", 0))
    assert (await other[0].readline()).startswith(b"220 ")

    for _, writer in [*held, other]:
        writer.close()
        await writer.wait_closed()
    async with asyncio.timeout(10):
        while host.listener.by_peer:  # noqa: ASYNC110 # no event tells it
            await asyncio.sleep(0.01)
    assert (await dialogue(host))[0].startswith("220 ")


@pytest.mark.parametrize(
    ("said", "trickle"),
    [
        pytest.param(b"", b"N", id="a command that never ends"),
        pytest.param(b"EHLO c\r\n" + ENVELOPE, b"x\r\n", id="a message that never ends"),
    ],
)
async def test_a_client_that_trickles_is_sent_away(start, said, trickle):
    host = await start(client_timeout=timedelta(milliseconds=300))
    reader, writer = await connect(host)
    writer.write(said)

    async def drip() -> None:
        with suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(trickle)
                await asyncio.sleep(0.02)

    task = asyncio.create_task(drip())
    async with asyncio.timeout(10):
        # The reply may be lost where the connection ends with data unread.
        with suppress(ConnectionError):
            lines = (await reader.read()).splitlines()
            assert lines[-1].startswith(b"421 4.4.2 silent or slow for too long")

    assert host.intake.refusals.transient == 1
    assert not host.listener.connections
    writer.close()
    await task


async def test_a_client_that_is_slow_but_steady_is_served(start):
    host = await start(client_timeout=timedelta(milliseconds=300))
    reader, writer = await connect(host)
    writer.write(b"EHLO c\r\n" + ENVELOPE)
    for _ in range(20):
        writer.write(b"x" * 98 + b"\r\n")
        await asyncio.sleep(0.04)

    writer.write(b".\r\nQUIT\r\n")
    assert b"250 2.0.0 queued" in await reader.read()
    writer.close()
    await writer.wait_closed()


async def test_a_client_whose_mail_does_not_fit_in_memory_is_put_off(start):
    host = await start(max_message_size=100_000, max_buffered_size=1)
    store = make_faulty(host, is_slow=True)
    clients = [await connect(host) for _ in range(3)]
    body = (b"x" * 98 + b"\r\n") * 900
    for _, writer in clients[:2]:
        store.entered.clear()
        writer.write(b"EHLO c\r\n" + ENVELOPE + body + b".\r\n")
        await store.entered.wait()

    reader, writer = clients[2]
    writer.write(b"EHLO c\r\n" + ENVELOPE + body)
    # The reply may be lost where the connection ends with data unread.
    with suppress(ConnectionError):
        assert (await reader.read()).splitlines()[-1].startswith(b"421 4.3.1")
    assert len(host.listener.connections) == 2

    store.may_work.set()
    await host.listener.stop()
    assert host.listener.buffered == 0
    assert len(host.accepted) == 2
    for _, writer in clients:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_a_silent_client_is_sent_away(start):
    host = await start(client_timeout=timedelta(milliseconds=50))
    reader, writer = await connect(host)

    lines = (await reader.read()).splitlines()

    assert lines[-1].startswith(b"421 4.4.2")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_is_gone_before_the_answer_loses_nothing(start):
    host = await start()
    store = make_faulty(host, is_slow=True)
    _, writer = await connect(host)
    writer.write(ONE_MESSAGE)
    await store.entered.wait()
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()

    store.may_work.set()
    await host.intake.drain()

    assert len(host.accepted) == 1
    assert await host.spool.entries() == host.accepted


async def test_stopping_answers_what_is_on_its_way_and_closes_the_rest(start):
    host = await start()
    store = make_faulty(host, is_slow=True)
    idle_reader, idle_writer = await connect(host)
    await idle_reader.readline()
    reader, writer = await connect(host)
    writer.write(ONE_MESSAGE)
    await store.entered.wait()

    stopping = asyncio.create_task(host.listener.stop())
    assert (await idle_reader.read()).startswith(b"421 4.3.2")
    store.may_work.set()
    await stopping

    lines = (await reader.read()).splitlines()
    assert lines[-2].startswith(b"250 2.0.0 queued as ")
    assert lines[-1].startswith(b"421 4.3.2")
    assert len(host.accepted) == 1
    for item in (writer, idle_writer):
        item.close()
        await item.wait_closed()


async def test_a_client_that_hangs_up_after_its_message_is_still_answered(start):
    host = await start()
    store = make_faulty(host, is_slow=True)
    reader, writer = await connect(host)
    writer.write(ONE_MESSAGE)
    writer.write_eof()
    await store.entered.wait()
    store.may_work.set()

    lines = (await reader.read()).splitlines()
    writer.close()
    await writer.wait_closed()

    assert lines[-1].startswith(b"250 2.0.0 queued as ")


async def test_a_log_that_cannot_be_written_does_not_refuse_stored_mail(start):
    host = await start()

    def fail(records: Sequence[Record]) -> None:
        raise OSError("no space left on device")

    host.intake._log = fail

    replies = await dialogue(
        host,
        b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<u@one.example>\r\nDATA\r\n" + PLAIN + b".\r\n",
    )

    assert replies[-2].startswith("250 2.0.0")
    assert len(host.accepted) == 1


def test_the_listen_address_may_name_any_free_port():
    assert ListenSection(smtp=Address("127.0.0.1", 0)).smtp.port == 0


async def test_a_client_that_reads_no_replies_is_noticed_and_gives_its_place_back(
    start, monkeypatch
):
    monkeypatch.setattr("agent.smtp.listener._LINGER_SECONDS", 0.05)
    host = await start(client_timeout=timedelta(milliseconds=300))
    reader, writer = await connect(host)
    await reader.readline()
    held = 0
    for _ in range(200):
        writer.write(b"EHLO c\r\n" * 8000)
        await asyncio.sleep(0)
        for connection in host.listener.connections:
            assert connection._transport is not None
            held = max(held, connection._transport.get_write_buffer_size())

    async with asyncio.timeout(10):
        while host.listener.connections:  # noqa: ASYNC110 # the end of a connection
            await asyncio.sleep(0.01)

    assert held < 1_000_000
    writer.transport.abort()
    with suppress(ConnectionError):
        await writer.wait_closed()


async def test_mail_by_all_ways_together_fits_in_memory_while_the_spool_is_slow(start):
    host = await start(max_message_size=30_000, max_buffered_size=90_000)
    assert host.listener.most_buffered < 120_000
    store = make_faulty(host, is_slow=True)
    content = PLAIN + (b"x" * 98 + b"\r\n") * 290
    incoming = IncomingMessage(
        sender="", recipients=("u@one.example",), content=content, protocol="gRPC"
    )
    tasks = [asyncio.create_task(host.intake.receive(incoming)) for _ in range(3)]
    await store.entered.wait()

    with pytest.raises(TryLater, match="too much mail"):
        await host.intake.receive(incoming)

    store.may_work.set()
    await asyncio.gather(*tasks)
    await host.intake.receive(incoming)
    assert len(host.accepted) == 4


async def test_fifty_concurrent_senders_share_the_disk_writes(start):
    host = await start()
    statements: list[str] = []
    host.spool._writer._connection.set_trace_callback(statements.append)
    per_sender = 10

    replies = await asyncio.gather(
        *(dialogue(host, b"EHLO c\r\n", (ENVELOPE + PLAIN + b".\r\n") * per_sender)
          for _ in range(50))
    )  # fmt: skip

    queued = [line for lines in replies for line in lines if "queued as" in line]
    assert len(set(queued)) == 50 * per_sender
    commits = statements.count("COMMIT")
    assert per_sender <= commits <= 50 * per_sender / 5, "each sender waits for its own answer"


# An agent that kills itself as a statement begins, or once a message is durable.
_DYING_HOST = """
import asyncio, os, signal, sys
from agent.settings import Settings
from agent.smtp.intake import Intake
from agent.smtp.listener import SmtpListener
from agent.spool.sqlite import SqliteSpool

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

async def main(directory, moment):
    settings = Settings.model_validate({
        "agent": {"data_dir": directory}, "listen": {"smtp": "127.0.0.1:0"},
        "spool": {"min_free_space": 0},
    })
    spool = await SqliteSpool.open(directory)
    after = die if moment == "after the commit" else lambda entries: None
    listener = SmtpListener(settings, Intake(settings, spool, accept=after, log=print))
    await listener.start()
    connection = spool._writer._connection
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,), "FULL: fsync each commit"
    if moment == "before the commit":
        connection.set_trace_callback(lambda text: die() if text == "COMMIT" else None)
    os.write(1, b"%d\\n" % listener.port)
    await asyncio.Event().wait()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize(("moment", "stored"), [("before the commit", 0), ("after the commit", 1)])
async def test_no_message_is_acknowledged_before_it_is_durable(tmp_path, moment, stored):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _DYING_HOST, str(tmp_path), moment, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    async with asyncio.timeout(30):
        port = int(await process.stdout.readline())
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ONE_MESSAGE)
        with suppress(ConnectionError):
            replies = (await reader.read()).decode().splitlines()
        assert await process.wait() == -signal.SIGKILL
        await process.communicate()
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()

    assert replies[-1].startswith("354 "), "killed before the answer, and no answer came"
    spool = await SqliteSpool.open(tmp_path)
    try:
        assert len(await spool.entries()) == stored
    finally:
        await spool.close()
