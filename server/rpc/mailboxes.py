"""MailboxService at the wire."""

from __future__ import annotations

from dcp.v1 import mailboxes_pb2 as pb
from dcp.v1 import mailboxes_pb2_grpc

from server.rpc.context import Context
from server.rpc.interceptors import caller
from server.services.mailboxes import Mailboxes


class MailboxServicer(mailboxes_pb2_grpc.MailboxServiceServicer):
    def __init__(self, mailboxes: Mailboxes) -> None:
        self._mailboxes = mailboxes

    async def VerifyEmail(self, request: pb.VerifyEmailRequest, context: Context) -> pb.VerifyEmailResponse:
        await self._mailboxes.verify(caller().role, caller().id, request.code)
        return pb.VerifyEmailResponse(success=True, email_verified=True)

    async def ResendEmailCode(
        self, request: pb.ResendEmailCodeRequest, context: Context
    ) -> pb.ResendEmailCodeResponse:
        is_proven = await self._mailboxes.resend(caller().role, caller().id)
        return pb.ResendEmailCodeResponse(success=True, email_verified=is_proven)
