"""
PolicyService: how may each egress path be used, and what changes.

Requests are known by their bytes, and answers are handed to gRPC as the bytes they were serialised
to once, so the handlers are registered here and not through the generated code.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import grpc

from penstock.v1 import policy_service_pb2
from policy_server.answering.requests import Asked, OpenQuestion, read_request
from policy_server.answering.wire_form import write_field
from policy_server.automation.actions import BOUNCES, OVERRIDES, SUSPENSIONS
from policy_server.conversions.actions import to_bounce, to_suspension
from policy_server.conversions.paths import read_hosts, to_explained
from policy_server.errors import InvalidRequest, PolicyServerError
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.services.caller import read_process
from policy_server.services.paging import read_page_size, read_page_token
from policy_server.services.statuses import status_message, status_number
from policy_server.services.watch import WatchHub

SERVICE_NAME = policy_service_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
_MAX_BATCH = 500
_RESULTS = policy_service_pb2.BatchGetEgressPathConfigsResponse.RESULTS_FIELD_NUMBER
_RESPONSE = policy_service_pb2.EgressPathResult.RESPONSE_FIELD_NUMBER


class PolicyService:
    """Answers questions about egress paths."""

    def __init__(self, policy: Policy, hub: WatchHub) -> None:
        self._policy = policy
        self._hub = hub

    async def get_egress_path_config(self, request: bytes, context: Any) -> bytes:
        """Answer for one egress path; request and answer are in wire form."""
        asked = read_request(request)
        question = asked.question
        if isinstance(question, OpenQuestion):
            question = await self._look_up(question)
        return self._answer(asked, question, read_process(context))

    async def batch_get_egress_path_configs(
        self, request: policy_service_pb2.BatchGetEgressPathConfigsRequest, context: Any
    ) -> bytes:
        """Answer up to 500 questions in their order, in wire form."""
        if len(request.requests) > _MAX_BATCH:
            message = f"{len(request.requests)} requests in a batch; at most {_MAX_BATCH} are taken"
            raise InvalidRequest(message, field="requests")
        caller = read_process(context)
        asked = [_try_to_read(one.SerializeToString()) for one in request.requests]
        questions = [one.question for one in asked if isinstance(one, Asked)]
        # A task for each is worth its cost only where some may have to wait for the DNS.
        waiting = [one for one in questions if isinstance(one, OpenQuestion)]
        found = iter(await asyncio.gather(*map(self._try_to_look_up, waiting)))
        return b"".join(write_field(_RESULTS, self._result(one, found, caller)) for one in asked)

    async def explain_egress_path_config(
        self, request: policy_service_pb2.ExplainEgressPathConfigRequest, _context: Any
    ) -> policy_service_pb2.ExplainEgressPathConfigResponse:
        """Answer for one egress path, with the origin of every value."""
        question = await self._policy.question(
            request.routing_domain,
            request.egress_source,
            request.site_name,
            read_hosts(request.mx_hosts),
        )
        answer, resolution = self._policy.answer(question), self._policy.resolve(question)
        return to_explained(resolution, question, revision=answer.revision, etag=answer.etag)

    async def list_suspensions(
        self, request: policy_service_pb2.ListSuspensionsRequest, _context: Any
    ) -> policy_service_pb2.ListSuspensionsResponse:
        """List what holds or bounces mail now, oldest first, a page at a time."""
        size, after = read_page_size(request.page_size), read_page_token(request.page_token) or 0
        held = sorted(
            (one for one in self._policy.actions() if one.kind not in OVERRIDES and one.id > after),
            key=lambda action: action.id,
        )
        page = held[:size]
        return policy_service_pb2.ListSuspensionsResponse(
            suspensions=[to_suspension(one) for one in page if one.kind in SUSPENSIONS],
            bounces=[to_bounce(one) for one in page if one.kind in BOUNCES],
            next_page_token=str(page[-1].id) if len(held) > size else "",
            revision=self._policy.revision,
        )

    async def _look_up(self, question: OpenQuestion) -> Question:
        return await self._policy.question(
            question.routing_domain, question.egress_source, question.site_name
        )

    async def _try_to_look_up(self, question: OpenQuestion) -> Question | PolicyServerError:
        try:
            return await self._look_up(question)
        except PolicyServerError as error:
            return error

    def _answer(self, asked: Asked, question: Question, caller: str) -> bytes:
        answer = self._policy.answer(question)
        self._policy.note_hosts(question)
        self._hub.note_fetched(caller, question, answer.etag)
        return answer.not_modified if asked.if_none_match == answer.etag else answer.payload

    def _result(
        self,
        asked: Asked | PolicyServerError,
        found: Iterator[Question | PolicyServerError],
        caller: str,
    ) -> bytes:
        """Write an EgressPathResult; *found* has the questions that had to be looked up."""
        try:
            if isinstance(asked, PolicyServerError):
                raise asked
            asks = asked.question
            question = next(found) if isinstance(asks, OpenQuestion) else asks
            if isinstance(question, PolicyServerError):
                raise question
            return write_field(_RESPONSE, self._answer(asked, question, caller))
        except PolicyServerError as error:
            failure = policy_service_pb2.EgressPathError(
                code=status_number(error), message=status_message(error)
            )
            return policy_service_pb2.EgressPathResult(error=failure).SerializeToString()


def _try_to_read(raw: bytes) -> Asked | PolicyServerError:
    try:
        return read_request(raw)
    except PolicyServerError as error:
        return error


def add_policy_service(server: Any, service: PolicyService, hub: WatchHub) -> None:
    """Register the service; a handler may return a message or the bytes of one."""
    pb = policy_service_pb2
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "GetEgressPathConfig": grpc.unary_unary_rpc_method_handler(
            service.get_egress_path_config,
            response_serializer=_serialise,
        ),
        "BatchGetEgressPathConfigs": grpc.unary_unary_rpc_method_handler(
            service.batch_get_egress_path_configs,
            request_deserializer=pb.BatchGetEgressPathConfigsRequest.FromString,
            response_serializer=_serialise,
        ),
        "ExplainEgressPathConfig": grpc.unary_unary_rpc_method_handler(
            service.explain_egress_path_config,
            request_deserializer=pb.ExplainEgressPathConfigRequest.FromString,
            response_serializer=_serialise,
        ),
        "ListSuspensions": grpc.unary_unary_rpc_method_handler(
            service.list_suspensions,
            request_deserializer=pb.ListSuspensionsRequest.FromString,
            response_serializer=_serialise,
        ),
        "WatchPolicy": grpc.stream_stream_rpc_method_handler(
            hub.watch,
            request_deserializer=pb.WatchPolicyRequest.FromString,
            response_serializer=_serialise,
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE_NAME, handlers),))


def _serialise(message: Any) -> bytes:
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())
