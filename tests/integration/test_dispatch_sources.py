"""Egress sources whose address this host does not have."""

from pathlib import Path

import pytest

from agent.delivery.record import RecordType
from agent.dispatch import sources
from penstock.v1 import queue_service_pb2 as pb
from tests.integration.dispatch_world import DOMAIN
from tests.integration.queue_world import queue_world

#: RFC 5737: nobody has it.
LACKING = {"name": "lacking", "source_address": "192.0.2.77"}
GOOD = {"name": "good", "source_address": "127.0.0.2"}


async def test_mail_goes_by_the_other_sources_of_the_pool(tmp_path: Path) -> None:
    async with queue_world(tmp_path, agent={"source": [LACKING, GOOD]}) as (here, _):
        await here.send(20)
        await here.until_records(RecordType.DELIVERY, 20)

        assert {(one.type, one.egress_source, one.num_attempts) for one in here.log.records} == {
            (RecordType.DELIVERY, "good", 0)
        }
        assert here.dispatcher.failing_sources == 1


async def test_without_another_source_mail_waits_and_says_so(tmp_path: Path) -> None:
    async with queue_world(tmp_path, agent={"source": [LACKING]}) as (here, stub):
        await here.send(3)
        await here.until(lambda: here.dispatcher.failing_sources == 1)
        await here.until(lambda: here.dispatcher.queue_counts()["due"] == 3)
        (queue,) = (await stub.ListScheduledQueues(pb.ListScheduledQueuesRequest())).queues

        (wait,) = queue.waits
        assert (queue.name, wait.reason, wait.egress_source) == (
            DOMAIN,
            pb.WAIT_REASON_SOURCE,
            "lacking",
        )
        assert "this host does not have the address 192.0.2.77" in wait.text
        assert wait.HasField("end_time")
        assert here.log.records == []
        assert {entry.attempts for entry in await here.spool.entries()} == {0}
        assert here.seen.total_connections == 0


async def test_a_source_is_tried_again_and_used_once_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "_LEFT_ALONE", 0.3)
    async with queue_world(tmp_path, agent={"source": [LACKING]}) as (here, _):
        await here.send(2)
        await here.until(lambda: here.dispatcher.failing_sources == 1)
        source = here.settings.sources["lacking"]
        here.settings.sources["lacking"] = source.model_copy(update={"source_address": "127.0.0.3"})
        await here.until_records(RecordType.DELIVERY, 2)

        assert {one.num_attempts for one in here.log.records} == {0}
        assert here.dispatcher.failing_sources == 0
