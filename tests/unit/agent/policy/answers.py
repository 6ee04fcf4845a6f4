"""Answers for the tests of the policy part."""

from datetime import UTC, datetime
from typing import Any

from agent.policy.answer import MxHost
from agent.policy.effective import PathKey, StoredAnswer
from penstock.v1.egress_path_pb2 import EgressPathConfig
from penstock.v1.policy_service_pb2 import GetEgressPathConfigResponse, OverrideRef

NOW = 1_800_000_000.0
MX = (MxHost(host="mx.foo.example", preference=10),)


def response(config: EgressPathConfig | None = None, **fields) -> GetEgressPathConfigResponse:
    """An answer with what every answer has."""
    known: dict[str, Any] = {"site_name": "mx.foo.example", "path_name": "ip-1->mx.foo.example"}
    known |= {"etag": "e1", "revision": 7}
    return GetEgressPathConfigResponse(config=config or EgressPathConfig(), **(known | fields))


def override(option: str, end: float, action_id: int = 1) -> OverrideRef:
    """An action that overrides *option* until *end*."""
    ref = OverrideRef(action_id=action_id, option=option)
    ref.expire_time.FromDatetime(datetime.fromtimestamp(end, UTC))
    return ref


def stored(
    answer: GetEgressPathConfigResponse, domain: str = "foo.example", heard: float = NOW
) -> StoredAnswer:
    """An answer as it is held."""
    key = PathKey(routing_domain=domain, egress_source="ip-1")
    return StoredAnswer(key=key, mx_hosts=MX, response=answer, heard=heard)
