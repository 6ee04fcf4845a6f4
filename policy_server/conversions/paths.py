"""
Conversions between what is asked and explained of egress paths and what the server knows of them.

What answers say besides is written in `policy_server.answering`.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Value

from penstock.v1 import policy_service_pb2
from policy_server.rules.explain import explain_json
from policy_server.rules.resolve import Question, Resolution
from policy_server.rules.site import MxHost


def read_hosts(messages: Iterable[policy_service_pb2.MxHost]) -> tuple[MxHost, ...]:
    """Read a client's MX answer."""
    return tuple([MxHost(message.host, message.preference) for message in messages])


def to_explained(
    resolution: Resolution, question: Question, *, revision: int, etag: str
) -> policy_service_pb2.ExplainEgressPathConfigResponse:
    """Write an answer with the origin of every value, as `explain --json` prints it."""
    explained = explain_json(resolution, question, revision=revision, etag=etag)
    options = explained.pop("options")
    return policy_service_pb2.ExplainEgressPathConfigResponse(
        **explained, options=[_write_option(name, told) for name, told in options.items()]
    )


def _write_option(name: str, told: Mapping[str, Any]) -> policy_service_pb2.ExplainedOption:
    option = policy_service_pb2.ExplainedOption(name=name, value=_write_value(told["value"]))
    if told["set_by"] is not None:
        option.set_by.CopyFrom(_write_origin(told["set_by"]))
    for beaten in told["overrode"]:
        option.overrode.add(value=_write_value(beaten["value"]), origin=_write_origin(beaten))
    for key, origin in told.get("entries", {}).items():
        option.entries[key].CopyFrom(_write_origin(origin))
    return option


def _write_origin(origin: Mapping[str, Any]) -> policy_service_pb2.RuleOrigin:
    names = policy_service_pb2.RuleOrigin.DESCRIPTOR.fields_by_name
    return policy_service_pb2.RuleOrigin(**{name: origin[name] for name in names})


def _write_value(value: Any) -> Value:
    return ParseDict(value, Value())
