"""DisputeService at the wire."""

from __future__ import annotations

from dcp.v1 import disputes_pb2 as pb
from dcp.v1 import disputes_pb2_grpc

from server.domain.disputes import DisputeEvent, DisputeState
from server.domain.errors import invalid_field
from server.domain.money import micros
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator
from server.rpc.repeats import once
from server.services.disputes import Disputes, Evidence

_DECISIONS = {
    pb.DISPUTE_DECISION_UPHOLD: DisputeEvent.UPHOLD,
    pb.DISPUTE_DECISION_REJECT: DisputeEvent.REJECT,
}


class DisputeServicer(disputes_pb2_grpc.DisputeServiceServicer):
    def __init__(self, disputes: Disputes) -> None:
        self._disputes = disputes

    async def OpenDispute(self, request: pb.OpenDisputeRequest, context: Context) -> pb.OpenDisputeResponse:
        opened = await self._disputes.open(caller(), request.job_id, request.reason.strip())
        return pb.OpenDisputeResponse(success=True, dispute=convert.dispute(opened))

    async def ListOwnDisputes(
        self, request: pb.ListOwnDisputesRequest, context: Context
    ) -> pb.ListOwnDisputesResponse:
        page = await self._disputes.own(caller().id, request.before_id or None, request.page_size)
        return pb.ListOwnDisputesResponse(
            disputes=[convert.dispute(row) for row in page.rows], next_before_id=page.next_id
        )

    async def ListProviderDisputes(
        self, request: pb.ListProviderDisputesRequest, context: Context
    ) -> pb.ListProviderDisputesResponse:
        page = await self._disputes.of_provider(caller().id, request.before_id or None, request.page_size)
        return pb.ListProviderDisputesResponse(
            disputes=[convert.dispute(row) for row in page.rows], next_before_id=page.next_id
        )

    async def ListDisputes(
        self, request: pb.ListDisputesRequest, context: Context
    ) -> pb.ListDisputesResponse:
        state = convert.dispute_state(request.status) if request.HasField("status") else None
        page = await self._disputes.all(state, request.before_id or None, request.page_size)
        return pb.ListDisputesResponse(
            disputes=[convert.dispute(row) for row in page.rows], next_before_id=page.next_id
        )

    async def GetDispute(self, request: pb.GetDisputeRequest, context: Context) -> pb.GetDisputeResponse:
        return _evidence(await self._disputes.evidence(request.dispute_id))

    async def DecideDispute(
        self, request: pb.DecideDisputeRequest, context: Context
    ) -> pb.DecideDisputeResponse:
        event = _DECISIONS.get(request.decision)
        if event is None:
            raise invalid_field("decision", "is not a decision that this server knows")
        return await once(
            request,
            self._disputes.decide(
                operator(context),
                request.dispute_id,
                event,
                request.note.strip(),
                micros(request.refund_halala) if request.HasField("refund_halala") else None,
            ),
            pb.DecideDisputeResponse,
            lambda after: pb.DecideDisputeResponse(success=True, dispute=convert.dispute(after)),
        )


def _evidence(found: Evidence) -> pb.GetDisputeResponse:
    return pb.GetDisputeResponse(
        dispute=convert.dispute(found.dispute),
        job=convert.job(found.job),
        attempts=[convert.attempt(each) for each in found.attempts],
        output=found.output.data.decode("utf-8", errors="replace"),
        output_truncated=found.output.is_cut,
        log=found.log.data.decode("utf-8", errors="replace"),
        log_truncated=found.log.is_cut,
        provider=pb.DisputedProvider(
            provider_id=found.dispute.provider_id,
            reliability=found.record.reliability,
            reliability_attempts=found.record.counted,
            attempts=[convert.past_attempt(past) for past in found.past],
            open_disputes=found.counts.get(DisputeState.OPEN, 0),
            upheld_disputes=found.counts.get(DisputeState.UPHELD, 0),
            rejected_disputes=found.counts.get(DisputeState.REJECTED, 0),
            canaries=[convert.canary(each) for each in found.canaries],
        ),
    )
