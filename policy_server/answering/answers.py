"""
Answers: a resolution as it goes over the wire, with its etag.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import msgspec

from penstock.v1 import policy_service_pb2
from policy_server.answering.limit_refs import AnsweredLimit
from policy_server.answering.scope_answers import ScopeAnswer
from policy_server.answering.wire_form import serialise, write_field, write_number, write_text
from policy_server.limits.spec import LimitSpec
from policy_server.rules.resolve import Override, Question, name_path, order_overrides
from policy_server.rules.scopes import Scopes

_Response = policy_service_pb2.GetEgressPathConfigResponse
_CONFIG = _Response.CONFIG_FIELD_NUMBER
_RULED_CONFIG = _Response.RULED_CONFIG_FIELD_NUMBER
_SITE_NAME = _Response.SITE_NAME_FIELD_NUMBER
_PATH_NAME = _Response.PATH_NAME_FIELD_NUMBER
_ETAG = _Response.ETAG_FIELD_NUMBER
_REVISION = _Response.REVISION_FIELD_NUMBER
_NOT_MODIFIED = _Response.NOT_MODIFIED_FIELD_NUMBER
_ETAG_LENGTH = 32


class Answer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One egress path's answer, serialised once."""

    path_name: str
    etag: str
    revision: int
    #: The response as it goes over the wire: the configuration, then all else.
    payload: bytes
    _config_length: int
    _limits: tuple[AnsweredLimit, ...]

    @property
    def not_modified(self) -> bytes:
        """What a client gets that holds this etag already."""
        return self.payload[self._config_length :] + write_number(_NOT_MODIFIED, True)

    @property
    def limits(self) -> Mapping[str, LimitSpec]:
        """Its limits that the fleet shares, by key."""
        return {
            limit.key_on(self.path_name): limit.spec
            for limit in self._limits
            if limit.spec is not None
        }

    @property
    def response(self) -> policy_service_pb2.GetEgressPathConfigResponse:
        """The response as a message, made anew at each call."""
        return policy_service_pb2.GetEgressPathConfigResponse.FromString(self.payload)


def build_answer(
    scopes: Scopes,
    question: Question,
    overrides: Sequence[Override],
    *,
    revision: int,
    find_ruled: Callable[[Scopes, str], ScopeAnswer] = ScopeAnswer.of,
) -> Answer:
    """
    Resolve *question* in its scopes and put the answer into its wire form.

    *find_ruled* may know already what the rules alone say in these scopes for a source.
    """
    ruled = find_ruled(scopes, question.egress_source)
    if overrides:
        concerned = order_overrides(overrides, question)
        shared = ScopeAnswer.of(scopes, question.egress_source, concerned)
    else:
        shared = ruled
    path_name = name_path(question, is_alone=shared.is_alone)
    config = write_field(_CONFIG, shared.config)
    config += b"".join([limit.write(path_name) for limit in shared.limits])
    facts = write_text(_SITE_NAME, question.site_name)
    facts += write_text(_PATH_NAME, path_name) + shared.facts
    if overrides:
        config += write_field(_RULED_CONFIG, ruled.config)
        facts += _name_overrides(overrides)
    # The etag is made without the revision: an answer that did not change keeps it.
    etag = hashlib.sha256(config + facts).hexdigest()[:_ETAG_LENGTH]
    return Answer(
        path_name=path_name,
        etag=etag,
        revision=revision,
        payload=config + facts + write_text(_ETAG, etag) + write_number(_REVISION, revision),
        _config_length=len(config),
        _limits=shared.limits,
    )


def _name_overrides(overrides: Sequence[Override]) -> bytes:
    response = _Response()
    for override in overrides:
        reference = response.overrides.add(action_id=override.action_id, option=override.option)
        if override.expire_time is not None:
            reference.expire_time.FromDatetime(override.expire_time)
    return serialise(response)
