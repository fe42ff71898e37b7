"""LedgerService at the wire."""

from __future__ import annotations

from dcp.v1 import ledger_pb2 as pb
from dcp.v1 import ledger_pb2_grpc

from server.domain.money import whole_halala
from server.domain.proof import Extent
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.enums import enum_map
from server.rpc.interceptors import operator
from server.rpc.repeats import once
from server.services.operators.proofs import Proofs
from server.services.renters import Renters

_EXTENTS = enum_map(Extent, pb.ProofExtent)


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    def __init__(self, renters: Renters, proofs: Proofs) -> None:
        self._renters = renters
        self._proofs = proofs

    async def CreditRenter(
        self, request: pb.CreditRenterRequest, context: Context
    ) -> pb.CreditRenterResponse:
        return await once(
            request,
            self._renters.credit(
                operator(context), request.renter_id, convert.micros_of(request.amount_halala)
            ),
            pb.CreditRenterResponse,
            lambda balance: pb.CreditRenterResponse(
                success=True, renter_id=request.renter_id, balance_halala=whole_halala(balance)
            ),
        )

    async def ProveLedger(self, request: pb.ProveLedgerRequest, context: Context) -> pb.ProveLedgerResponse:
        proofs = self._proofs
        proof = await (proofs.prove() if request.all_accounts else proofs.prove_changes())
        response = pb.ProveLedgerResponse(
            balanced=proof.is_balanced,
            transfers=proof.transfers,
            open_holds=proof.open_holds,
            discrepancies=proof.discrepancies,
            open_withdrawals=proof.open_withdrawals,
            open_disputes=proof.open_disputes,
            checkpoint_id=proof.checkpoint_id,
            transfers_read=proof.transfers_read,
            extent=_EXTENTS[proof.extent],
        )
        return convert.with_money(
            response,
            postings_sum=proof.postings_sum_micros,
            open_holds=proof.open_holds_micros,
            open_withdrawals=proof.open_withdrawals_micros,
            claimable=proof.claimable_micros,
            maturing=proof.maturing_micros,
            held=proof.disputed_micros + proof.open_withdrawals_micros,
            disputed=proof.disputed_micros,
            debt=proof.debt_micros,
            canaries=proof.canaries_micros,
        )
