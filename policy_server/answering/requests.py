"""
Requests for answers, as they come over the wire, read as questions. It is pure: the same bytes are
the same question, so that those which come again are read once.
"""

import functools

import msgspec
from google.protobuf.message import DecodeError

from penstock.v1 import policy_service_pb2 as pb
from policy_server.answering.questions import make_question
from policy_server.errors import InvalidRequest
from policy_server.rules.resolve import Question

#: Requests that are kept, and the longest of them; a few hosts have a few hundred bytes.
_KEPT = 20_000
_LONGEST_KEPT = 1_000


class OpenQuestion(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A question that leaves the hosts to the server, which has to look for them."""

    routing_domain: str
    egress_source: str
    site_name: str


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A GetEgressPathConfigRequest, read."""

    question: Question | OpenQuestion
    if_none_match: str


def read_request(raw: bytes) -> Asked:
    """Read a GetEgressPathConfigRequest. Errors: `InvalidRequest`."""
    return _read(raw) if len(raw) > _LONGEST_KEPT else _read_known(raw)


def _read(raw: bytes) -> Asked:
    try:
        request = pb.GetEgressPathConfigRequest.FromString(raw)
    except DecodeError as error:
        raise InvalidRequest("no GetEgressPathConfigRequest can be read of these bytes") from error
    domain, source, site_name = request.routing_domain, request.egress_source, request.site_name
    question: Question | OpenQuestion
    if request.mx_hosts:
        question = make_question(domain, source, site_name, request.mx_hosts)
    else:
        question = OpenQuestion(routing_domain=domain, egress_source=source, site_name=site_name)
    return Asked(question, request.if_none_match)


_read_known = functools.lru_cache(maxsize=_KEPT)(_read)
