"""A provider pushes back: automation reacts, every agent obeys, mail flows again afterwards."""

import asyncio
import json

from tests.acceptance.fleet import Fleet, until
from tests.acceptance.mail import inject

_RULES = """
["default"]
smtp_port = {port}
prohibited_hosts = []
connection_limit = 4
max_message_rate = "50/s,max_burst=5"
enable_tls = "Disabled"

[provider."bigmail"]
match = [{{MXSuffix = ".bigmail.example"}}]
[[provider."bigmail".automation]]
regex = '\\[TS01\\]'
action = "Suspend"
duration = "{duration}"
"""


def _actions(fleet: Fleet) -> list[dict]:
    done = fleet.command(
        "penstock-server", "actions", "list", "--json", "--config", "penstock-server.toml"
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["actions"]


def _suspended(fleet: Fleet, agent: str) -> bool:
    return bool(fleet.agents[agent].status().get("suspensions"))


def _offered(sink) -> int:
    return sink.report()["providers"]["bigmail"]["total"]["messages_offered"]


async def _two_agents(fleet: Fleet, sink, *, duration: str) -> None:
    await fleet.start_server()
    port = sink.listening["bigmail"][0][1]
    await fleet.import_rules(_RULES.format(port=port, duration=duration))
    # Both know the source, as after a move of an address from one host to the other.
    await fleet.start_agent("mta-1", source="ip-1", address="127.0.1.1")
    await fleet.start_agent("mta-2", source="ip-1", address="127.0.1.1")


def _push_back(**window: object) -> list[dict[str, object]]:
    reply = "421 4.7.0 [TS01] Messages from {ip} temporarily deferred"
    return [{"since": "first_message", "at": "mail", "reply": reply, **window}]


async def test_push_back_seen_by_one_agent_suspends_the_path_on_the_other(fleet, open_sink):
    async with open_sink(push_back=_push_back(after=0, duration="1h")) as sink:
        await _two_agents(fleet, sink, duration="1 hour")
        await inject(fleet.agents["mta-1"].ports["smtp"], 1, domain="bigmail.example")
        await until(lambda: _suspended(fleet, "mta-1"), what="first agent suspended")
        await until(lambda: _suspended(fleet, "mta-2"), what="second agent suspended")

        before = _offered(sink)
        second = fleet.agents["mta-2"]
        await inject(second.ports["smtp"], 5, domain="bigmail-too.example")
        waiting = await until(lambda: second.status().get("paths"), what="the mail is queued")
        assert _offered(sink) == before, "a domain of the same site is suspended as well"
        assert waiting

        [action] = _actions(fleet)
        assert action["kind"] == "Suspend"
        assert action["state"] == "in_force"
        assert action["egress_source"] == "ip-1"
        assert action["rule"]["layer"] == "rules"


async def test_cancelled_suspension_releases_the_mail_at_once(fleet, open_sink):
    async with open_sink(push_back=_push_back(after=0, duration="1s")) as sink:
        await _two_agents(fleet, sink, duration="1 hour")
        await inject(fleet.agents["mta-1"].ports["smtp"], 10, domain="bigmail.example")
        [action] = await until(lambda: _actions(fleet), what="an action")
        await until(lambda: _suspended(fleet, "mta-1"), what="agent suspended")

        done = await asyncio.to_thread(
            fleet.command,
            "penstock-server",
            "actions",
            "cancel",
            "--config",
            "penstock-server.toml",
            str(action["id"]),
        )
        assert done.returncode == 0, done.stderr

        def delivered() -> bool:
            return sink.report()["providers"]["bigmail"]["total"]["messages_accepted"] == 10

        await until(delivered, what="all delivered after the cancel")
        assert _actions(fleet) == []


async def test_suspension_lifts_by_itself_while_the_server_is_away(fleet, open_sink):
    async with open_sink(push_back=_push_back(after=0, duration="1s")) as sink:
        await _two_agents(fleet, sink, duration="6 seconds")
        await inject(fleet.agents["mta-1"].ports["smtp"], 10, domain="bigmail.example")
        await until(lambda: _suspended(fleet, "mta-1"), what="agent suspended")
        assert fleet.server is not None
        fleet.server.kill()

        def delivered() -> bool:
            return sink.report()["providers"]["bigmail"]["total"]["messages_accepted"] == 10

        await until(delivered, what="all delivered after the expiry")
