"""A policy server small enough to be told what to say, over real gRPC."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc

from penstock.v1 import policy_service_pb2 as pb
from penstock.v1.egress_path_pb2 import EgressPathConfig, Limit
from penstock.v1.feedback_service_pb2 import (
    OutcomeAck,
    OutcomeBatch,
    OutcomeFilter,
    OutcomeRefusal,
    OutcomeStreamStart,
    ReportOutcomesResponse,
    StreamOutcomesResponse,
)
from penstock.v1.feedback_service_pb2_grpc import (
    FeedbackServiceServicer,
    add_FeedbackServiceServicer_to_server,
)
from penstock.v1.policy_service_pb2_grpc import (
    PolicyServiceServicer,
    add_PolicyServiceServicer_to_server,
)


async def until(condition: Callable[[], object], seconds: float = 10) -> None:
    """Wait for *condition*."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 # any condition, not one event
            await asyncio.sleep(0.005)


def answer(limit: int = 5, revision: int = 1, **fields) -> pb.GetEgressPathConfigResponse:
    """An answer whose connection limit tells it apart."""
    response = pb.GetEgressPathConfigResponse(
        config=EgressPathConfig(connection_limit=Limit(value=limit)),
        site_name="mx.foo.example",
        path_name="ip-1->mx.foo.example",
        etag=f"e{limit}",
        revision=revision,
        **fields,
    )
    if not response.HasField("max_age"):
        response.max_age.FromSeconds(600)
    return response


class PolicyPeer(PolicyServiceServicer, FeedbackServiceServicer):
    """Answers what it is told to, and keeps what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, pb.GetEgressPathConfigResponse] = {}
        self.batches: list[list[pb.GetEgressPathConfigRequest]] = []
        self.metadata: list[dict[str, str | bytes]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        #: Requests of every watch stream so far, a list a stream.
        self.streams: list[list[pb.WatchPolicyRequest]] = []
        #: Outgoing responses of the newest stream; None ends it, a status code breaks it off.
        self.outgoing: asyncio.Queue[pb.WatchPolicyResponse | grpc.StatusCode | None] = (
            asyncio.Queue()
        )
        #: With what the next streams break off before they answer.
        self.breakages: list[grpc.StatusCode] = []
        self.reports: list[list[str]] = []
        #: Event ids that this server refuses.
        self.refused: set[str] = set()
        #: Whether it says which ones of a batch they are.
        self.names_refused = True
        #: Reports that are counted but whose answer is lost.
        self.lose_answers = 0
        #: Whether this server takes outcomes over streams; else it knows calls alone.
        self.takes_streams = True
        #: Batches of the streams of outcomes, and filters to send on them.
        self.outcome_batches: list[OutcomeBatch] = []
        self.outcome_starts: list[OutcomeStreamStart] = []
        self.outcome_filter: OutcomeFilter | None = None
        #: With what the next batches are refused.
        self.refusals: list[OutcomeRefusal] = []
        #: Set to have the stream of outcomes end.
        self.reconnect_after: float | None = None
        self.port = 0
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        """Listen, on the port of the last time if there was one."""
        self._server = grpc.aio.server()
        add_PolicyServiceServicer_to_server(self, self._server)
        add_FeedbackServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        """Stop at once."""
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def BatchGetEgressPathConfigs(self, request, context):
        self.batches.append(list(request.requests))
        self.metadata.append(dict(context.invocation_metadata()))
        await self.gate.wait()
        return pb.BatchGetEgressPathConfigsResponse(
            results=[self._result(question) for question in request.requests]
        )

    def _result(self, question: pb.GetEgressPathConfigRequest) -> pb.EgressPathResult:
        response = self.answers.get(question.routing_domain)
        if response is None:
            return pb.EgressPathResult(error=pb.EgressPathError(code=14, message="MX not known"))
        if question.if_none_match == response.etag:
            return pb.EgressPathResult(
                response=pb.GetEgressPathConfigResponse(etag=response.etag, not_modified=True)
            )
        return pb.EgressPathResult(response=response)

    async def WatchPolicy(self, request_iterator, context) -> AsyncIterator[pb.WatchPolicyResponse]:
        requests: list[pb.WatchPolicyRequest] = []
        outgoing = self.outgoing = asyncio.Queue()
        self.streams.append(requests)
        reader = asyncio.create_task(_keep(request_iterator, requests))
        try:
            if self.breakages:
                await until(lambda: requests)
                await context.abort(self.breakages.pop(0), "it broke")
            while (response := await outgoing.get()) is not None:
                if isinstance(response, grpc.StatusCode):
                    await context.abort(response, "it broke")
                else:
                    yield response
        finally:
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def ReportOutcomes(self, request, context):
        event_ids = [outcome.event_id for outcome in request.outcomes]
        if self.refused.intersection(event_ids):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "outcomes: one is refused")
        self.reports.append(event_ids)
        await self.gate.wait()
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        return ReportOutcomesResponse()

    async def StreamOutcomes(
        self, request_iterator, context
    ) -> AsyncIterator[StreamOutcomesResponse]:
        if not self.takes_streams:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "not here")
        async for request in request_iterator:
            if request.HasField("start"):
                self.outcome_starts.append(request.start)
            else:
                yield await self._answer_batch(request.batch, context)
                if self.reconnect_after is not None:
                    ending = StreamOutcomesResponse()
                    ending.reconnect_after.FromNanoseconds(int(self.reconnect_after * 1e9))
                    self.reconnect_after = None
                    yield ending
                    return
            held = self.outcome_starts[-1].filter_etag
            if self.outcome_filter is not None and self.outcome_filter.etag != held:
                self.outcome_starts[-1].filter_etag = self.outcome_filter.etag
                yield StreamOutcomesResponse(filter=self.outcome_filter)

    async def _answer_batch(self, batch: OutcomeBatch, context) -> StreamOutcomesResponse:
        event_ids = [outcome.event_id for outcome in batch.outcomes]
        self.outcome_batches.append(batch)
        if self.refusals:
            refusal = self.refusals.pop(0)
            refusal.batch_id = batch.batch_id
            return StreamOutcomesResponse(refusal=refusal)
        refused = [number for number, one in enumerate(event_ids) if one in self.refused]
        if refused:
            return StreamOutcomesResponse(
                refusal=OutcomeRefusal(
                    batch_id=batch.batch_id,
                    reason=OutcomeRefusal.REASON_INVALID,
                    invalid_indexes=refused if self.names_refused else [],
                )
            )
        self.reports.append(event_ids)
        await self.gate.wait()
        if self.lose_answers:
            self.lose_answers -= 1
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopping")
        return StreamOutcomesResponse(ack=OutcomeAck(batch_id=batch.batch_id))


async def _keep(incoming, requests: list[pb.WatchPolicyRequest]) -> None:
    async for request in incoming:
        requests.append(request)
