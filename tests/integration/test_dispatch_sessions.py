"""How a session uses its connection: how many messages, what between them, when it ends."""

import time
from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from tests.integration.dispatch_peers import Handler, Scripted, scripted_peer, smtp_peer
from tests.integration.dispatch_world import DOMAIN, make_config, world
from tests.integration.test_dispatch_connections import InOrder, use_two_hosts


@pytest.mark.parametrize(
    ("enable_rset", "refused", "commands"),
    [
        pytest.param(True, "", ["MAIL", "RSET", "MAIL", "RSET", "MAIL"], id="before all but one"),
        pytest.param(False, "", ["MAIL", "MAIL", "MAIL"], id="never, while all goes well"),
        pytest.param(False, "first", ["MAIL", "RSET", "MAIL", "MAIL"], id="always after a failure"),
    ],
)
async def test_rset_is_sent_between_messages_as_the_path_has_it(
    tmp_path: Path, enable_rset: bool, refused: str, commands: list[str]
) -> None:
    peer = Scripted({b"RCPT TO:<first": b"550 5.1.1 who"})
    async with scripted_peer(peer) as port, world(tmp_path) as here:
        here.policies.change(make_config(port, connection_limit=1, enable_rset=enable_rset))
        for name in (refused or "a", "b", "c"):
            await here.send(1, recipients=(name,))
        await here.until(lambda: len(here.log.records) == 3)

        said = [line[:4].decode() for read in peer.reads for line in read]
        assert [word for word in said if word in ("MAIL", "RSET")] == commands
        assert said.count("EHLO") == 1
        await here.stop()
        await here.start()


@pytest.mark.parametrize(
    ("idle_timeout", "connections"), [(8, 1), (1, 2)], ids=["shorter", "longer"]
)
async def test_a_rate_is_waited_for_in_the_session_or_without_one(
    tmp_path: Path, idle_timeout: float, connections: int
) -> None:
    """As the wait is shorter or longer than idle_timeout; no attempt is used either way."""
    async with world(tmp_path) as here:
        here.policies.change(
            make_config(
                here.port,
                connection_limit=1,
                max_message_rate=(1, 3, 1),
                idle_timeout=idle_timeout,
            )
        )
        begun = time.monotonic()
        await here.send(2)
        await here.until_records(RecordType.DELIVERY, 2)

        assert time.monotonic() - begun > 2.5
        assert here.seen.total_connections == connections
        assert {(one.type, one.num_attempts) for one in here.log.records} == {
            (RecordType.DELIVERY, 0)
        }


async def test_a_dead_first_choice_is_passed_over(tmp_path: Path) -> None:
    hosts = {
        "mx": {DOMAIN: [[5, "dead.big.example"], [10, "mx.big.example"]]},
        "a": {"dead.big.example": ["127.0.0.99"]},
    }
    async with world(tmp_path, records=hosts) as here:
        await here.send(3)
        await here.until_records(RecordType.DELIVERY, 3)

        assert {record.type for record in here.log.records} == {RecordType.DELIVERY}
        assert {one.peer_address.name for one in here.log.records} == {"mx.big.example"}


async def test_a_peer_that_finds_every_recipient_too_many_is_not_asked_for_ever(
    tmp_path: Path,
) -> None:
    provider = {"misbehave": [{"at": "rcpt", "action": "reply", "reply": "452 no room"}]}
    async with world(tmp_path, provider=provider) as here:
        await here.send(1, recipients=("a", "b", "c"))
        await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        assert here.seen.messages_offered <= 3
        assert {record.type for record in here.log.records} == {RecordType.TRANSIENT_FAILURE}
        assert sorted(one for each in here.log.records for one in each.recipients) == [
            f"{name}@{DOMAIN}" for name in "abc"
        ]
        assert [entry.attempts for entry in await here.spool.entries()] == [1]


@pytest.mark.parametrize(
    ("at", "option", "code", "text"),
    [
        ("banner", "banner_timeout", 400, "no banner"),
        ("ehlo", "ehlo_timeout", 400, "timed out waiting for the reply to EHLO"),
        ("mail", "mail_from_timeout", 421, "timed out waiting for the reply to MAIL FROM"),
        ("rcpt", "rcpt_to_timeout", 421, "timed out waiting for the reply to RCPT TO"),
        ("data", "data_timeout", 421, "timed out waiting for the reply to DATA"),
        ("data_end", "data_dot_timeout", 421, "timed out waiting for the reply to ."),
    ],
)
async def test_each_wait_for_the_peer_has_its_timeout(
    tmp_path: Path, at: str, option: str, code: int, text: str
) -> None:
    provider = {"misbehave": [{"at": at, "action": "silence"}]}
    async with world(tmp_path, provider=provider) as here:
        here.policies.change(make_config(here.port, **{option: 0.3}))
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
        await here.until(lambda: here.seen.open_connections == 0)

        (record,) = here.log.records
        assert (record.response.code, record.response.internal) == (code, True)
        assert text in record.response.content
        assert here.dispatcher.counts.watchdog_aborts == 0


@pytest.mark.parametrize(
    ("misbehave", "is_taken_on"),
    [
        pytest.param({"at": "mail", "action": "drop"}, True, id="a drop"),
        pytest.param({"at": "rcpt", "action": "silence"}, True, id="a timeout"),
        pytest.param(
            {"at": "rcpt", "action": "reply", "reply": "421 4.3.2 closing"}, True, id="421"
        ),
        pytest.param(
            {"at": "data_end", "action": "reply", "reply": "421 4.3.2 closing"},
            True,
            id="421, late",
        ),
        pytest.param({"at": "data_end", "action": "silence"}, False, id="the peer may have it"),
        pytest.param({"at": "data_end", "action": "drop"}, False, id="the peer may have it too"),
        pytest.param(
            {"at": "rcpt", "action": "reply", "reply": "451 4.2.0 later"}, False, id="a refusal"
        ),
    ],
)
async def test_what_makes_a_message_go_to_the_next_host_at_once(
    tmp_path: Path, misbehave: dict[str, str], is_taken_on: bool
) -> None:
    """With try_next_host_on_transport_error: what broke the connection, and can't double mail."""
    handler = Handler()
    async with (
        world(tmp_path, provider={"misbehave": [misbehave]}) as here,
        smtp_peer(handler, host="127.0.0.2", port=here.port),
    ):
        await here.stop()
        await here.start(random=InOrder())
        use_two_hosts(here)
        here.policies.change(
            make_config(
                here.port,
                try_next_host_on_transport_error=True,
                rcpt_to_timeout=0.3,
                data_dot_timeout=0.3,
            )
        )
        await here.send(1)
        await here.until_records(RecordType.TRANSIENT_FAILURE, 1)
        if is_taken_on:
            await here.until_records(RecordType.DELIVERY, 1)
        else:
            await here.until(lambda: here.dispatcher.queue_counts()["scheduled"] == 1)

        assert len(handler.taken) == is_taken_on
        assert [entry.attempts for entry in await here.spool.entries()] == [1] * (not is_taken_on)
        await here.stop()
        await here.start()
