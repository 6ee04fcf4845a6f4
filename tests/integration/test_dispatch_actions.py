"""Each kind of action, from the real server's ledger to what real dispatch does with mail."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from agent.convert import outcome_of
from agent.delivery.record import RecordType, Response
from agent.policy.access import PolicyAccess
from penstock.v1 import automation_service_pb2 as pb
from penstock.v1.automation_service_pb2_grpc import AutomationServiceStub
from penstock.v1.feedback_service_pb2 import ReportOutcomesRequest
from penstock.v1.feedback_service_pb2_grpc import FeedbackServiceStub
from tests.integration.dispatch_world import DOMAIN, World, world
from tests.integration.test_agent_and_server_policy import change, serving, watching
from tests.integration.test_outcomes import record

SITE = "mx.big.example"
NEWS = f"news:acme@{DOMAIN}"
ACME = f"acme@{DOMAIN}"
OTHER = f"other@{DOMAIN}"
_PATH = {"egress_source": "default", "site_name": SITE}
_DOMAIN = {"routing_domain": DOMAIN}
_TENANT = {**_DOMAIN, "tenant": "acme"}
_CAMPAIGN = {**_TENANT, "campaign": "news"}


class Ledger:
    """The server's actions, as an operator changes them."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = AutomationServiceStub(channel)
        self._feedback = FeedbackServiceStub(channel)
        self._number = 0

    async def create(self, kind: str, *, seconds: float = 3600, **more: Any) -> int:
        self._number += 1
        request = pb.CreateActionRequest(
            request_id=str(self._number),
            kind=pb.ActionKind.Value(f"ACTION_KIND_{kind}"),
            duration=Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds)),
            reason="they asked",
            **more,
        )
        return int((await self._stub.CreateAction(request)).action.id)

    async def report(self, **more: str) -> None:
        """Report a reply, as an agent does."""
        outcome = outcome_of(
            record(
                f"e{self._number}",
                response=Response(code=421, content="TS01"),
                routing_domain=DOMAIN,
                recipient_domain=DOMAIN,
                site_name=SITE,
                site=f"default->{SITE}",
                egress_source="default",
                **more,
            )
        )
        await self._feedback.ReportOutcomes(ReportOutcomesRequest(outcomes=[outcome]))

    async def cancel(self, action_id: int) -> None:
        await self._stub.CancelAction(pb.CancelActionRequest(id=action_id))


@asynccontextmanager
async def ruled_world(
    tmp_path: Path, action: str = "Suspend"
) -> AsyncIterator[tuple[World, Ledger, PolicyAccess]]:
    """Dispatch that goes by the real policy part and server; one message has been delivered."""
    async with world(tmp_path / "agent") as here, serving(tmp_path) as server:
        await change(
            server,
            "INSERT INTO rule_layers (id, name, position) VALUES (1, 'base', 1)",
            "INSERT INTO rule_blocks (id, layer_id, scope, name) VALUES (1, 1, 'default', '')",
            "INSERT INTO rule_options (block_id, name, value) VALUES"
            f" (1, 'connection_limit', '5'), (1, 'smtp_port', '{here.port}'),"
            " (1, 'enable_tls', '\"Disabled\"'), (1, 'prohibited_hosts', '[]')",
            "INSERT INTO automation_rules (block_id, position, regexes, actions, trigger, duration)"
            f""" VALUES (1, 0, '["TS01"]', '["{action}"]', '"Immediate"', '"1h"')""",
        )
        address = f"127.0.0.1:{server.grpc_port}"
        async with (
            watching(server.grpc_port, tmp_path / "policy") as policy,
            grpc.aio.insecure_channel(address) as channel,
        ):
            await here.stop()
            client: Any = policy.client
            here.policies = client
            await here.start()
            await here.send(1, queue=OTHER)
            await here.until_records(RecordType.DELIVERY, 1)
            yield here, Ledger(channel), policy


@pytest.mark.parametrize("lifted", ["cancelled", "expired"])
@pytest.mark.parametrize(
    ("kind", "scope", "held", "passing"),
    [
        pytest.param("SUSPEND", _PATH, (NEWS, ACME, OTHER), (), id="path"),
        pytest.param(
            "SUSPEND", {**_PATH, **_DOMAIN}, (NEWS, OTHER), ("other.example",), id="domain"
        ),
        pytest.param("SUSPEND_TENANT", _TENANT, (NEWS, ACME), (OTHER,), id="tenant"),
        pytest.param("SUSPEND_CAMPAIGN", _CAMPAIGN, (NEWS,), (ACME, OTHER), id="campaign"),
    ],
)
async def test_a_suspension_holds_its_mail_and_lets_it_go_at_once(
    tmp_path: Path,
    kind: str,
    scope: dict[str, str],
    held: tuple[str, ...],
    passing: tuple[str, ...],
    lifted: str,
) -> None:
    async with ruled_world(tmp_path) as (here, ledger, policy):
        seconds = 3.0 if lifted == "expired" else 3600.0
        end = time.time() + seconds
        action = await ledger.create(kind, seconds=seconds, **scope)
        await here.until(policy.suspensions)
        for queue in (*held, *passing):
            await here.send(2, queue=queue, domain=queue.rpartition("@")[2])
        count = here.dispatcher.held_counts
        await here.until(lambda: sum(count().values()) == 2 * len(held))
        await here.until_records(RecordType.DELIVERY, 1 + 2 * len(passing))
        assert {one.queue for one in here.log.records} <= {OTHER, *passing}
        shown = here.dispatcher.held_queues(10)
        assert {(one.queue_name, one.action_id) for one in shown} == {(one, action) for one in held}
        assert all(abs(one.until - end) < 1 for one in shown)
        assert all("they asked" in one.reason for one in shown)

        if lifted == "cancelled":
            await ledger.cancel(action)
            end = time.time()
        await here.until_records(RecordType.DELIVERY, 1 + 2 * len(held) + 2 * len(passing))

        released = [one for one in here.log.of(RecordType.DELIVERY) if one.queue in held]
        assert all(one.timestamp > end - 0.5 for one in released[-2 * len(held) :])
        assert time.time() < end + 3
        assert {one.num_attempts for one in here.log.records} == {0}
        assert sum(count().values()) == 0


@pytest.mark.parametrize(
    ("kind", "scope", "bounced", "held"),
    [
        pytest.param("BOUNCE", _DOMAIN, (NEWS, ACME, OTHER), (), id="domain"),
        pytest.param("BOUNCE_TENANT", _TENANT, (NEWS, ACME), (OTHER,), id="tenant"),
        pytest.param("BOUNCE_CAMPAIGN", _CAMPAIGN, (NEWS,), (ACME, OTHER), id="campaign"),
    ],
)
async def test_a_bounce_ends_queued_and_arriving_mail_and_no_other(
    tmp_path: Path,
    kind: str,
    scope: dict[str, str],
    bounced: tuple[str, ...],
    held: tuple[str, ...],
) -> None:
    async with ruled_world(tmp_path) as (here, ledger, policy):
        hold = await ledger.create("SUSPEND", **_PATH)
        await here.until(policy.suspensions)
        for queue in (*bounced, *held):
            await here.send(2, queue=queue)
        count = here.dispatcher.held_counts
        await here.until(lambda: sum(count().values()) == 2 * len((*bounced, *held)))

        bounce = await ledger.create(kind, **scope)
        await here.until_records(RecordType.ADMIN_BOUNCE, 2 * len(bounced))
        await here.send(1, queue=bounced[0])
        await here.until_records(RecordType.ADMIN_BOUNCE, 2 * len(bounced) + 1)

        records = here.log.of(RecordType.ADMIN_BOUNCE)
        assert {one.queue for one in records} == set(bounced)
        assert {(one.response.code, one.response.enhanced_code) for one in records} == {
            (551, (5, 7, 1))
        }
        assert all("they asked" in one.response.content for one in records)
        assert all(one.response.internal for one in records)
        await ledger.cancel(bounce)
        await here.until(lambda: not policy.bounces())
        await here.send(1, queue=bounced[0])
        await ledger.cancel(hold)
        await here.until_records(RecordType.DELIVERY, 1 + 2 * len(held) + 1)
        assert len(here.log.of(RecordType.ADMIN_BOUNCE)) == 2 * len(bounced) + 1


@pytest.mark.parametrize(
    ("action", "owner", "concerned"),
    [
        pytest.param("Suspend", {}, {NEWS, ACME, OTHER}, id="Suspend"),
        pytest.param("SuspendTenant", {"tenant": "acme"}, {NEWS, ACME}, id="SuspendTenant"),
        pytest.param(
            "SuspendCampaign", {"tenant": "acme", "campaign": "news"}, {NEWS}, id="SuspendCampaign"
        ),
        # Without a campaign it acts as SuspendTenant.
        pytest.param("SuspendCampaign", {"tenant": "acme"}, {NEWS, ACME}, id="no campaign to hold"),
        pytest.param("BounceCampaign", {"tenant": "acme"}, {NEWS, ACME}, id="no campaign to end"),
        # Without a tenant neither has an effect.
        pytest.param("SuspendTenant", {}, set(), id="no tenant to hold"),
        pytest.param("BounceTenant", {}, set(), id="no tenant to end"),
    ],
)
async def test_a_reply_has_the_mail_held_or_bounced_that_its_rule_is_meant_for(
    tmp_path: Path, action: str, owner: dict[str, str], concerned: set[str]
) -> None:
    async with ruled_world(tmp_path, action) as (here, ledger, policy):
        await ledger.report(**owner)
        if concerned:
            await here.until(lambda: bool(policy.suspensions() or policy.bounces()))
        for queue in (NEWS, ACME, OTHER):
            await here.send(1, queue=queue)
        ends = here.log.of

        def held() -> set[str]:
            return {one.queue_name for one in here.dispatcher.held_queues(10)}

        def bounced() -> set[str]:
            return {one.queue for one in ends(RecordType.ADMIN_BOUNCE)}

        await here.until(lambda: held() | bounced() == concerned)
        await here.until_records(RecordType.DELIVERY, 1 + 3 - len(concerned))
        assert not (bounced() if action.startswith("Suspend") else held())
        assert len(ends(RecordType.DELIVERY)) == 1 + 3 - len(concerned)


@pytest.mark.parametrize(
    ("kind", "scope"),
    [
        pytest.param("SET_CONFIG", _PATH, id="SetConfig"),
        pytest.param("SET_DOMAIN_CONFIG", {**_PATH, **_DOMAIN}, id="SetDomainConfig"),
    ],
)
@pytest.mark.parametrize("lifted", ["cancelled", "expired"])
async def test_an_override_changes_the_limits_of_a_path_until_it_ends(
    tmp_path: Path, kind: str, scope: dict[str, str], lifted: str
) -> None:
    async with ruled_world(tmp_path) as (here, ledger, _):

        def limits() -> set[int]:
            here.policies.lookup(DOMAIN, "default")
            return {one.connection_limit for one in here.dispatcher.snapshot()}

        assert limits() == {5}
        seconds = 2.0 if lifted == "expired" else 3600.0
        action = await ledger.create(
            kind, seconds=seconds, option="connection_limit", value="1", **scope
        )
        policy = here.policies
        await here.until(lambda: _limit(policy) == 1, 3)
        await here.send(5, queue=ACME)
        await here.until_records(RecordType.DELIVERY, 6)
        assert 1 in limits()

        if lifted == "cancelled":
            await ledger.cancel(action)
        await here.until(lambda: _limit(policy) == 5, 5)
        await here.send(5, queue=ACME)
        await here.until_records(RecordType.DELIVERY, 11)
        assert 5 in limits()


def _limit(policy: Any) -> int:
    found = policy.lookup(DOMAIN, "default")
    return int(found.config.connection_limit.value)
