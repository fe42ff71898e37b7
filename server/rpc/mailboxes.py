"""MailboxService at the wire."""

from __future__ import annotations

from dcp.v1 import mailboxes_pb2 as pb
from dcp.v1 import mailboxes_pb2_grpc

from server.domain.errors import invalid_field
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller, operator
from server.rpc.validate import email_key
from server.services.keys import PROVIDER, RENTER
from server.services.mailboxes import Mailboxes

_ROLES = {pb.ACCOUNT_ROLE_RENTER: RENTER, pb.ACCOUNT_ROLE_PROVIDER: PROVIDER}
_NUMBERS = {role: number for number, role in _ROLES.items()}


class MailboxServicer(mailboxes_pb2_grpc.MailboxServiceServicer):
    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def ProveMailbox(
        self, request: pb.ProveMailboxRequest, context: Context
    ) -> pb.ProveMailboxResponse:
        role, account_id = await self._mailboxes.prove(request.code)
        return pb.ProveMailboxResponse(success=True, role=_NUMBERS[role], account_id=account_id)

    async def SendMailboxProof(
        self, request: pb.SendMailboxProofRequest, context: Context
    ) -> pb.SendMailboxProofResponse:
        await self._mailboxes.send_proof(caller(), email_key)
        return pb.SendMailboxProofResponse(success=True)

    async def StartKeyRecovery(
        self, request: pb.StartKeyRecoveryRequest, context: Context
    ) -> pb.StartKeyRecoveryResponse:
        role = _ROLES.get(request.role)
        if role is None:
            raise invalid_field("role", "ask for renter or provider")
        await self._mailboxes.start_recovery(role, email_key(request.email))
        return pb.StartKeyRecoveryResponse(success=True)

    async def RedeemKeyRecovery(
        self, request: pb.RedeemKeyRecoveryRequest, context: Context
    ) -> pb.RedeemKeyRecoveryResponse:
        return pb.RedeemKeyRecoveryResponse(success=True, api_key=await self._mailboxes.redeem(request.code))

    async def CancelKeyRecovery(
        self, request: pb.CancelKeyRecoveryRequest, context: Context
    ) -> pb.CancelKeyRecoveryResponse:
        was_stopped = await self._mailboxes.cancel_recovery(caller())
        return pb.CancelKeyRecoveryResponse(success=True, was_stopped=was_stopped)

    async def RecoverRenterKey(
        self, request: pb.RecoverRenterKeyRequest, context: Context
    ) -> pb.RecoverRenterKeyResponse:
        found = await self._mailboxes.recover(
            operator(context), RENTER, request.renter_id, request.reason.strip()
        )
        return pb.RecoverRenterKeyResponse(
            success=True, works_from=convert.timestamp(found.from_ms), code=found.code
        )

    async def RecoverProviderKey(
        self, request: pb.RecoverProviderKeyRequest, context: Context
    ) -> pb.RecoverProviderKeyResponse:
        found = await self._mailboxes.recover(
            operator(context), PROVIDER, request.provider_id, request.reason.strip()
        )
        return pb.RecoverProviderKeyResponse(
            success=True, works_from=convert.timestamp(found.from_ms), code=found.code
        )
