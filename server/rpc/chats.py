"""ChatService at the wire."""

from __future__ import annotations

from dcp.v1 import chats_pb2 as pb
from dcp.v1 import chats_pb2_grpc

from server.domain.jobs import Job
from server.rpc import convert
from server.rpc.context import Context
from server.rpc.interceptors import caller
from server.services.attendance import Attendance
from server.services.chats import Chats


class ChatServicer(chats_pb2_grpc.ChatServiceServicer):
    def __init__(self, chats: Chats, attendance: Attendance) -> None:
        self._chats = chats
        self._attendance = attendance

    async def SubmitChat(self, request: pb.SubmitChatRequest, context: Context) -> pb.SubmitChatResponse:
        job = await self._chats.submit(
            caller().id,
            caller().key_id,
            request.model.strip(),
            request.request,
            max_tokens=request.max_tokens if request.HasField("max_tokens") else None,
            cache_key=request.cache_key,
            idempotency_key=request.idempotency_key,
        )
        self._expect_reader(request, job)
        return pb.SubmitChatResponse(job=convert.job(job))

    async def SubmitEmbeddings(
        self, request: pb.SubmitEmbeddingsRequest, context: Context
    ) -> pb.SubmitEmbeddingsResponse:
        job = await self._chats.submit_embeddings(
            caller().id,
            caller().key_id,
            request.model.strip(),
            request.request,
            idempotency_key=request.idempotency_key,
        )
        self._expect_reader(request, job)
        return pb.SubmitEmbeddingsResponse(job=convert.job(job))

    def _expect_reader(self, request: pb.SubmitChatRequest | pb.SubmitEmbeddingsRequest, job: Job) -> None:
        if request.cancel_when_left:
            self._attendance.expect(caller(), job.job_id)
