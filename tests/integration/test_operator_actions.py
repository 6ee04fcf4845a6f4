"""Actions that operators show, change and put in force, by gRPC and by command."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from penstock.v1 import automation_service_pb2 as actions_pb
from penstock.v1.automation_service_pb2 import (
    CancelActionRequest,
    CreateActionRequest,
    ExtendActionRequest,
    GetActionRequest,
    ListActionsRequest,
    PinActionRequest,
)
from policy_server.cli.main import run
from tests.integration.watching import SITE, automation, outcome, serving, write_rules, yahoo

_HOUR = Duration(seconds=3600)
_ADJUST = automation(
    r"\[TS04\]",
    {
        "AdjustConfig": {
            "name": "connection_limit",
            "factor": 0.5,
            "floor": 2,
            "recover_step": 2,
            "recover_every": "1s",
        }
    },
)


@pytest.fixture
def url(database_url):
    return database_url


async def _refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_an_action_is_shown_with_its_evidence(url):
    write_rules(url, yahoo(automation(r"\[TS04\]", "SuspendTenant")))
    async with serving(url) as client:
        await client.report(
            outcome("e1", '<"j. doe"@yahoo.com> [TS04] no', tenant="t"),
            outcome("e2", tenant="t"),
        )

        shown = await client.automation.GetAction(GetActionRequest(id=1))

        assert shown.action.kind == actions_pb.ACTION_KIND_SUSPEND_TENANT
        assert (shown.action.routing_domain, shown.action.tenant) == ("yahoo.com", "t")
        assert (shown.action.site_name, shown.action.egress_source) == ("", "")
        replies = {item.event_id: item.reply for item in shown.evidence}
        assert replies["e1"] == "421 4.7.0 <@yahoo.com> [TS04] no"
        refused = await _refused(client.automation.GetAction(GetActionRequest(id=9)))
        assert refused.code() is grpc.StatusCode.NOT_FOUND
        refused = await _refused(client.automation.GetAction(GetActionRequest()))
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_an_operators_override_reaches_a_watching_agent_once(url):
    write_rules(url, yahoo(connection_limit=7))
    async with serving(url) as client, client.watch("yahoo.com", "ymail.com") as watch:
        await watch.until(lambda: len(watch.paths) == 2)
        request = CreateActionRequest(
            request_id="r1",
            kind=actions_pb.ACTION_KIND_SET_DOMAIN_CONFIG,
            egress_source="ip-1",
            site_name=SITE,
            routing_domain="Yahoo.com",
            option="connection_limit",
            value="3",
            pinned=True,
            reason="asked by their postmaster",
        )

        made = (await client.automation.CreateAction(request)).action
        again = (await client.automation.CreateAction(request)).action
        await watch.until(lambda: watch.paths["yahoo.com"].overrides)

        assert again == made
        assert made.state == actions_pb.ACTION_STATE_PINNED
        assert (made.old_value, made.new_value) == ("7", "3")
        assert (made.reason, made.changed_by) == ("asked by their postmaster", "operator")
        answer = watch.paths["yahoo.com"]
        assert answer.config.connection_limit.value == 3
        assert answer.path_name == f"ip-1->{SITE}#yahoo.com"
        assert not answer.overrides[0].HasField("expire_time")
        assert watch.paths["ymail.com"].path_name == f"ip-1->{SITE}"

        until = Timestamp()
        until.FromDatetime(datetime.now(UTC) + timedelta(milliseconds=700))
        extended = await client.automation.ExtendAction(
            ExtendActionRequest(id=made.id, expire_time=until)
        )
        assert extended.action.state == actions_pb.ACTION_STATE_IN_FORCE
        assert extended.action.expire_time == until.__class__(
            seconds=until.seconds, nanos=until.nanos // 1000 * 1000
        )
        await watch.until(lambda: not watch.paths["yahoo.com"].overrides)
        assert watch.paths["yahoo.com"].path_name == f"ip-1->{SITE}"


async def test_pinned_and_ended_actions_say_so(url):
    write_rules(url, yahoo(automation(r"\[TS04\]", "Suspend")))
    async with serving(url) as client:
        await client.report(outcome("e1"))

        pinned = await client.automation.PinAction(PinActionRequest(id=1))
        listed = await client.automation.ListActions(ListActionsRequest())

        assert pinned.action.state == actions_pb.ACTION_STATE_PINNED
        assert [action.state for action in listed.actions] == [actions_pb.ACTION_STATE_PINNED]
        await client.automation.CancelAction(CancelActionRequest(id=1))
        for call in (
            client.automation.PinAction(PinActionRequest(id=1)),
            client.automation.ExtendAction(ExtendActionRequest(id=1, duration=_HOUR)),
        ):
            refused = await _refused(call)
            assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert "is cancelled" in refused.details()
        for request in (ExtendActionRequest(id=1), ExtendActionRequest(id=1, duration=Duration())):
            refused = await _refused(client.automation.ExtendAction(request))
            assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_every_mistake_of_a_request_is_a_violation(url):
    write_rules(url, yahoo())
    async with serving(url) as client:
        refused = await _refused(
            client.automation.CreateAction(
                CreateActionRequest(
                    kind=actions_pb.ACTION_KIND_SET_CONFIG, option="tls_private_key", tenant="t"
                )
            )
        )

        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT
        (detail,) = rpc_status.from_call(refused).details
        found = error_details_pb2.BadRequest()
        detail.Unpack(found)
        assert [violation.field for violation in found.field_violations] == [
            "egress_source",
            "tenant",
            "site_name",
            "option",
            "duration",
        ]
        # A site that has to be looked up, with a name server that does not answer.
        refused = await _refused(
            client.automation.CreateAction(
                CreateActionRequest(
                    kind=actions_pb.ACTION_KIND_SET_CONFIG,
                    egress_source="ip-1",
                    routing_domain="unknown.example",
                    option="max_ready",
                    value="5",
                    duration=_HOUR,
                )
            )
        )
        assert refused.code() is grpc.StatusCode.UNAVAILABLE


async def test_an_adjustment_recovers_step_by_step_for_a_watching_agent(url):
    write_rules(url, yahoo(_ADJUST, connection_limit=9))
    async with serving(url) as client, client.watch("yahoo.com") as watch:
        await watch.until(lambda: watch.paths)
        seen: list[int] = []

        def limit():
            value = watch.paths["yahoo.com"].config.connection_limit.value
            if not seen or seen[-1] != value:
                seen.append(value)
            return value

        limit()
        now = datetime.now(UTC)
        await client.report(outcome("e1", at=now), outcome("e2", at=now + timedelta(seconds=0)))
        await watch.until(lambda: limit() == 4)
        await watch.until(lambda: limit() == 9)

        assert seen == [9, 4, 8, 9]
        action = (await client.automation.GetAction(GetActionRequest(id=1))).action
        assert action.kind == actions_pb.ACTION_KIND_ADJUST_CONFIG


@pytest.fixture
def config(tmp_path, url):
    path = tmp_path / "server.toml"
    path.write_text(f'[database]\nurl = "{url}"\n[dns]\nnameservers = ["127.0.0.1:9"]\n')
    return str(path)


def _run(config, *arguments):
    return run(["actions", *arguments, "--config", config])


def test_commands_create_show_extend_pin_and_cancel(url, config, capsys):
    write_rules(url, yahoo(connection_limit=7))
    create = ["create", "SetConfig", "--source", "ip-1", "--site-name", SITE]
    setting = ["--option", "connection_limit", "--value", "3", "--duration", "2 hours"]

    def answer(*arguments):
        assert _run(config, *arguments, "--json") == 0
        return json.loads(capsys.readouterr().out)

    made = answer(*create, *setting, "--reason", "slow down", "--request-id", "r1")
    assert (made["kind"], made["state"], made["new_value"]) == ("SetConfig", "in_force", 3)
    assert (made["site_name"], made["path_name"], made["count"]) == (SITE, "", 0)
    assert (made["reason"], made["first_match_time"]) == ("slow down", None)
    assert answer(*create, *setting, "--request-id", "r1") == made

    shown = answer("show", "1")
    assert (shown["evidence"], shown["changed_by"]) == ([], made["changed_by"])
    assert answer("pin", "1")["expire_time"] is None
    assert answer("list")["actions"][0]["state"] == "pinned"
    extended = answer("extend", "1", "2999-01-01T12:00")
    assert (extended["state"], extended["expire_time"]) == (
        "in_force",
        "2999-01-01T12:00:00+00:00",
    )
    sooner = datetime.fromisoformat(answer("extend", "1", "90m")["expire_time"])
    assert timedelta(minutes=80) < sooner - datetime.now(UTC) <= timedelta(minutes=90)

    assert _run(config, "list") == 0
    table = capsys.readouterr().out
    assert f"ip-1->{SITE}" in table
    assert "by hand" in table
    assert _run(config, "show", "1") == 0
    assert "slow down" in capsys.readouterr().out
    assert _run(config, "cancel", "1") == 0
    assert "action 1 (SetConfig connection_limit: 3) is cancelled" in capsys.readouterr().out
    assert _run(config, "pin", "1") == 1
    assert "action 1 is cancelled" in capsys.readouterr().err


def test_a_list_that_was_cut_says_so(url, config, capsys):
    write_rules(url, yahoo(connection_limit=7))
    for number in range(3):
        options = ("SuspendTenant", "--domain", "a.example", "--tenant", f"t{number}")
        assert run(["actions", "create", *options, "--duration", "1h", "--config", config]) == 0
    capsys.readouterr()

    for limit, are_more in ((2, True), (3, False)):
        assert run(["actions", "list", "--json", "--limit", str(limit), "--config", config]) == 0
        shown = capsys.readouterr()
        assert len(json.loads(shown.out)["actions"]) == limit
        assert ("there are more: --limit" in shown.err) == are_more


async def test_commands_show_evidence_of_rules(url, config, capsys):
    write_rules(url, yahoo(automation(r"\[TS04\]", "Bounce")))
    async with serving(url) as client:
        await client.report(outcome("e1", "<joe@yahoo.com> [TS04]"))

        assert await asyncio.to_thread(_run, config, "show", "1", "--json") == 0
        shown = json.loads(capsys.readouterr().out)
        assert await asyncio.to_thread(_run, config, "show", "1") == 0

    assert (shown["kind"], shown["routing_domain"], shown["count"]) == ("Bounce", "yahoo.com", 1)
    (evidence,) = shown["evidence"]
    assert evidence["reply"] == "421 4.7.0 <@yahoo.com> [TS04]"
    table = capsys.readouterr().out
    assert evidence["reply"] in table
    assert "domain yahoo.com" in table


def test_commands_refuse_mistakes_with_a_remedy(url, config, capsys):
    write_rules(url, yahoo())
    for arguments, status, messages in (
        (["show", "7"], 1, ["no action 7"]),
        (["show", "x"], 2, ["ID"]),
        (["cancel", "0"], 2, ["ID"]),
        (["extend", "7", "soon"], 2, ['"soon"', "2 hours", "2026-08-01T12:00"]),
        (["extend", "7", "2020-01-01"], 1, ["is over", "cancel it"]),
        (["extend", "7", "1h"], 1, ["no action 7"]),
        (["pin", "7"], 1, ["no action 7"]),
        (["create", "AdjustConfig"], 2, ["SetConfig"]),
        (["create", "Suspend", "--duration", "0"], 2, ["duration"]),
        (
            ["create", "Suspend", "--duration", "0s", "--tenant", "t"],
            1,
            [
                "--source is required for Suspend, or --site-name or --domain",
                "--tenant is not taken",
                "--duration is above zero",
            ],
        ),
        (
            ["create", "SetConfig", "--source", "a", "--pinned", "--option", "max_redy"],
            1,
            ["--option", "did you mean max_ready"],
        ),
    ):
        assert _run(config, *arguments) == status, arguments
        said = capsys.readouterr().err
        assert "Traceback" not in said
        for message in messages:
            assert message in said, arguments
