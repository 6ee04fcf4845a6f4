"""
Answers: a resolution as it goes over the wire, with its etag.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from google.protobuf.message import Message

from penstock.v1 import egress_path_pb2, limit_pb2, policy_service_pb2
from policy_server.limit_refs import find_limits, to_spec
from policy_server.limits.spec import LimitSpec
from policy_server.rules.config import to_config
from policy_server.rules.resolve import Override, Question, Resolution, resolve_scopes
from policy_server.rules.scopes import Scopes
from policy_server.wire_form import write_field

_Response = policy_service_pb2.GetEgressPathConfigResponse
_CONFIG = _Response.CONFIG_FIELD_NUMBER
_RULED_CONFIG = _Response.RULED_CONFIG_FIELD_NUMBER
_ETAG_LENGTH = 32
_NO_REFRESH = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One egress path's answer, serialised once."""

    etag: str
    revision: int
    #: The response as it goes over the wire.
    payload: bytes
    #: What a client gets that holds this etag already.
    not_modified: bytes
    #: Its limits that the fleet shares, by key.
    limits: Mapping[str, LimitSpec]

    @property
    def response(self) -> policy_service_pb2.GetEgressPathConfigResponse:
        """The response as a message, made anew at each call."""
        return policy_service_pb2.GetEgressPathConfigResponse.FromString(self.payload)


def build_answer(
    scopes: Scopes, question: Question, overrides: Sequence[Override], *, revision: int
) -> Answer:
    """Resolve *question* in its scopes and put the answer into its wire form."""
    resolution = resolve_scopes(scopes, question, overrides)
    config = to_config(resolution)
    body = write_field(_CONFIG, _serialise(config))
    refs = tuple(find_limits(config, resolution.path_name))
    body += _serialise(_Response(limit_refs=refs))
    if overrides:
        ruled = to_config(resolve_scopes(scopes, question))
        body += write_field(_RULED_CONFIG, _serialise(ruled))
    facts = _serialise(_describe(resolution, overrides, max_age=_max_age(config)))
    # The etag is made without the revision: an answer that did not change keeps it.
    etag = hashlib.sha256(body + facts).hexdigest()[:_ETAG_LENGTH]
    head = facts + _serialise(_Response(etag=etag, revision=revision))
    return Answer(
        etag=etag,
        revision=revision,
        payload=body + head,
        not_modified=head + _serialise(_Response(not_modified=True)),
        limits={
            ref.key: to_spec(ref) for ref in refs if ref.sharing == limit_pb2.LIMIT_SHARING_FLEET
        },
    )


def _describe(
    resolution: Resolution, overrides: Sequence[Override], *, max_age: timedelta
) -> policy_service_pb2.GetEgressPathConfigResponse:
    """Say all that a client is told beside the configuration itself."""
    response = _Response(
        site_name=resolution.site_name,
        path_name=resolution.path_name,
        provider_names=resolution.provider_names,
    )
    response.max_age.FromTimedelta(max_age)
    for override in overrides:
        _add_override(response, override)
    return response


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


def _serialise(message: Message) -> bytes:
    """Write a message in the one form that equal ones have in common."""
    return bytes(message.SerializeToString(deterministic=True))
