"""
Answers: a resolution as it goes over the wire, with its etag.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from penstock.v1 import egress_path_pb2, policy_service_pb2
from policy_server.rules.config import to_config
from policy_server.rules.resolve import Override, Question, Resolution, resolve
from policy_server.rules.snapshot import Snapshot

_NO_REFRESH = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One egress path's answer, serialised once."""

    response: policy_service_pb2.GetEgressPathConfigResponse
    etag: str
    #: The response as it goes over the wire.
    payload: bytes
    #: What a client gets that holds this etag already.
    not_modified: bytes


def build_answer(
    snapshot: Snapshot, question: Question, overrides: Sequence[Override], *, revision: int
) -> Answer:
    """Resolve *question* and put the answer into its wire form."""
    resolution = resolve(snapshot, question, overrides)
    response = _describe(resolution)
    if overrides:
        for override in overrides:
            _add_override(response, override)
        response.ruled_config.CopyFrom(to_config(resolve(snapshot, question, ())))
    response.max_age.FromTimedelta(_max_age(response.config))
    # The etag is made before the revision is set: an answer that did not change keeps it.
    digest = hashlib.sha256(response.SerializeToString(deterministic=True))
    response.etag = digest.hexdigest()[:32]
    response.revision = revision
    return Answer(
        response=response,
        etag=response.etag,
        payload=response.SerializeToString(),
        not_modified=_leave_out_config(response).SerializeToString(),
    )


def _describe(resolution: Resolution) -> policy_service_pb2.GetEgressPathConfigResponse:
    return policy_service_pb2.GetEgressPathConfigResponse(
        config=to_config(resolution),
        site_name=resolution.site_name,
        path_name=resolution.path_name,
        provider_names=resolution.provider_names,
    )


def _add_override(
    response: policy_service_pb2.GetEgressPathConfigResponse, override: Override
) -> None:
    reference = response.overrides.add(action_id=override.action_id, option=override.option)
    if override.expire_time is not None:
        reference.expire_time.FromDatetime(override.expire_time)


def _max_age(config: egress_path_pb2.EgressPathConfig) -> timedelta:
    if config.refresh_strategy == egress_path_pb2.REFRESH_STRATEGY_EPOCH:
        # Only a change of rules ends it, and watching clients hear of that.
        return _NO_REFRESH
    return config.refresh_interval.ToTimedelta()


def _leave_out_config(
    response: policy_service_pb2.GetEgressPathConfigResponse,
) -> policy_service_pb2.GetEgressPathConfigResponse:
    short = policy_service_pb2.GetEgressPathConfigResponse()
    short.CopyFrom(response)
    short.ClearField("config")
    short.ClearField("ruled_config")
    short.not_modified = True
    return short
