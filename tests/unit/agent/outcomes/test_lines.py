import json
import uuid
from typing import Any

import pytest
from msgspec.structs import replace

from agent.delivery.record import Peer, Record, Response
from agent.outcomes.lines import format_line, node_id_of
from tests.unit.agent.test_convert import RECORD

#: Fields that every line has.
ALWAYS = {
    "type", "id", "sender", "recipient", "queue", "site", "size", "response", "peer_address",
    "timestamp", "event_time", "created", "created_time", "num_attempts", "bounce_classification",
    "egress_pool", "egress_source", "source_address", "feedback_report", "meta", "headers",
    "delivery_protocol", "reception_protocol", "nodeid",
}  # fmt: skip


def _fields(record: Record) -> Any:
    line = format_line(record, node_id="node")
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert line.isascii()
    return json.loads(line)


def test_a_line_has_the_fields_that_operators_tools_read():
    fields = _fields(RECORD)

    assert fields.keys() >= ALWAYS
    assert fields["type"] == "TransientFailure"
    assert fields["timestamp"] == 1_800_000_000
    assert fields["event_time"] == "2027-01-15T08:00:00.250000+00:00"
    assert fields["response"] == {
        "code": 421,
        "enhanced_code": {"class": 4, "subject": 7, "detail": 0},
        "content": "[TS01] deferred",
        "command": "MAIL FROM:<>",
        "internal": False,
    }
    assert fields["meta"] == {"tenant": "t", "campaign": "c"}
    assert fields["event_id"] == "e-1"


@pytest.mark.parametrize(
    ("recipients", "shown"),
    [
        pytest.param(("a@b.example",), "a@b.example", id="one is a string"),
        pytest.param(("a@b.example", "c@b.example"), ["a@b.example", "c@b.example"], id="a list"),
    ],
)
def test_the_recipient_is_a_string_or_a_list(recipients, shown):
    assert _fields(replace(RECORD, recipients=recipients))["recipient"] == shown


def test_what_is_not_known_is_null_or_left_out():
    bare = replace(
        RECORD, response=Response(code=550), egress_source="", provider_name="", session_id=""
    )

    fields = _fields(bare)

    assert fields["response"]["enhanced_code"] is None
    assert fields["response"]["command"] is None
    assert fields["egress_source"] is None
    assert fields["peer_address"] is None
    assert "provider_name" not in fields
    assert "tls_cipher" not in fields


def test_a_peer_and_a_session_are_shown():
    fields = _fields(
        replace(RECORD, peer_address=Peer(name="mx", addr="192.0.2.1"), session_id="s-1")
    )

    assert fields["peer_address"] == {"name": "mx", "addr": "192.0.2.1"}
    assert fields["session_id"] == "s-1"


def test_any_reply_stays_on_one_line():
    response = Response(code=450, content="a\r\nb\x00\udcff\u2028c")

    assert _fields(replace(RECORD, response=response))["response"]["content"].startswith("a\r\nb")


def test_an_agent_is_known_by_the_same_uuid_for_ever():
    assert node_id_of("mta-1") == str(uuid.UUID(node_id_of("mta-1")))
    assert uuid.UUID(node_id_of("mta-1")).version == 5
    assert node_id_of("mta-1") != node_id_of("mta-2")
