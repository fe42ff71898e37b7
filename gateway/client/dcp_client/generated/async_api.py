"""The routes of the API. Generated from protos/ by scripts/generate; edit the protos instead."""

from __future__ import annotations

from typing import Any, AsyncIterator, List, Optional

from dcp_client.calls import Call, page_of, path_of
from dcp_client.generated import bodies, models
from dcp_client.aio.transport import AsyncTransport


class AsyncApi:
    """Every route of the API, by its name in the OpenAPI document."""

    def __init__(self, transport: AsyncTransport) -> None:
        self._transport = transport

    async def suspend_provider(
        self, provider_id: int, body: bodies.SuspendProviderBody
    ) -> models.SuspendProviderResponse:
        """Suspend a provider.

        `POST /api/admin/providers/{provider_id}/suspend`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/providers/{provider_id}/suspend", provider_id=provider_id),
                body=body,
                repeat="harmless",
            ),
            models.SuspendProviderResponse,
        )

    async def unsuspend_provider(
        self, provider_id: int, body: Optional[bodies.UnsuspendProviderBody] = None
    ) -> models.UnsuspendProviderResponse:
        """Unsuspend a provider.

        `POST /api/admin/providers/{provider_id}/unsuspend`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/providers/{provider_id}/unsuspend", provider_id=provider_id),
                body=body or {},
                repeat="harmless",
            ),
            models.UnsuspendProviderResponse,
        )

    async def approve_provider(
        self, provider_id: int, body: Optional[bodies.ApproveProviderBody] = None
    ) -> models.ApproveProviderResponse:
        """Approve a new provider.

        `POST /api/admin/providers/{provider_id}/approve`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/providers/{provider_id}/approve", provider_id=provider_id),
                body=body or {},
                repeat="harmless",
            ),
            models.ApproveProviderResponse,
        )

    async def vouch_for_provider(
        self, provider_id: int, body: bodies.VouchForProviderBody
    ) -> models.VouchForProviderResponse:
        """Vouch for a provider.

        `POST /api/admin/providers/{provider_id}/vouch`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/providers/{provider_id}/vouch", provider_id=provider_id),
                body=body,
                repeat="harmless",
            ),
            models.VouchForProviderResponse,
        )

    async def suspend_renter(
        self, renter_id: int, body: bodies.SuspendRenterBody
    ) -> models.SuspendRenterResponse:
        """Suspend a renter.

        `POST /api/admin/renters/{renter_id}/suspend`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/renters/{renter_id}/suspend", renter_id=renter_id),
                body=body,
                repeat="harmless",
            ),
            models.SuspendRenterResponse,
        )

    async def unsuspend_renter(
        self, renter_id: int, body: Optional[bodies.UnsuspendRenterBody] = None
    ) -> models.UnsuspendRenterResponse:
        """Unsuspend a renter.

        `POST /api/admin/renters/{renter_id}/unsuspend`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/renters/{renter_id}/unsuspend", renter_id=renter_id),
                body=body or {},
                repeat="harmless",
            ),
            models.UnsuspendRenterResponse,
        )

    async def get_dashboard(
        self,
    ) -> models.GetDashboardResponse:
        """Platform metrics for operations and finance.

        `GET /api/admin/dashboard`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/dashboard", repeat="always"), models.GetDashboardResponse
        )

    async def list_withdrawals(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListWithdrawalsResponse:
        """List provider withdrawal requests and status breakdown.

        `GET /api/admin/withdrawals`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/withdrawals",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListWithdrawalsResponse,
        )

    async def iterate_withdrawals(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Withdrawal]:
        """Walks through all pages of `list_withdrawals`."""
        after: Any = {}
        while after is not None:
            page = await self.list_withdrawals(page_size=page_size, **after)
            for item in page.all:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_audit_entries(
        self,
        *,
        object: Optional[str] = None,
        object_id: Optional[str] = None,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
        actor: Optional[str] = None,
    ) -> models.ListAuditEntriesResponse:
        """List the audit log of operator actions.

        `GET /api/admin/audit`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/audit",
                query={
                    "object": object,
                    "object_id": object_id,
                    "before_id": before_id,
                    "page_size": page_size,
                    "actor": actor,
                },
                repeat="always",
            ),
            models.ListAuditEntriesResponse,
        )

    async def iterate_audit_entries(
        self,
        *,
        object: Optional[str] = None,
        object_id: Optional[str] = None,
        page_size: Optional[int] = None,
        actor: Optional[str] = None,
    ) -> AsyncIterator[models.AuditEntry]:
        """Walks through all pages of `list_audit_entries`."""
        after: Any = {}
        while after is not None:
            page = await self.list_audit_entries(
                object=object, object_id=object_id, page_size=page_size, actor=actor, **after
            )
            for item in page.entries:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_discards(
        self,
        *,
        provider_id: Optional[int] = None,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
    ) -> models.ListDiscardsResponse:
        """List what daemons reported and the server did not know.

        `GET /api/admin/discards`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/discards",
                query={"provider_id": provider_id, "before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListDiscardsResponse,
        )

    async def iterate_discards(
        self, *, provider_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Discard]:
        """Walks through all pages of `list_discards`."""
        after: Any = {}
        while after is not None:
            page = await self.list_discards(provider_id=provider_id, page_size=page_size, **after)
            for item in page.discards:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_artifacts(self, job_id: str) -> models.ListArtifactsResponse:
        """List the files that a job left in /output.

        `GET /api/jobs/{job_id}/artifacts`, for: renter, provider, admin.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/jobs/{job_id}/artifacts", job_id=job_id), repeat="always"),
            models.ListArtifactsResponse,
        )

    async def list_batches(
        self, *, after: Optional[str] = None, limit: Optional[int] = None
    ) -> models.ListBatchesResponse:
        """List the account's batches.

        `GET /v1/batches`, for: renter.
        """
        return await self._transport.model(
            Call("GET", "/v1/batches", query={"after": after, "limit": limit}, repeat="always"),
            models.ListBatchesResponse,
        )

    async def get_batch(self, batch_id: str) -> models.Batch:
        """Get a batch.

        `GET /v1/batches/{batch_id}`, for: renter.
        """
        return await self._transport.model(
            Call("GET", path_of("/v1/batches/{batch_id}", batch_id=batch_id), repeat="always"), models.Batch
        )

    async def cancel_batch(
        self, batch_id: str, body: Optional[bodies.CancelBatchBody] = None
    ) -> models.Batch:
        """Cancel a batch.

        `POST /v1/batches/{batch_id}/cancel`, for: renter.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/v1/batches/{batch_id}/cancel", batch_id=batch_id),
                body=body or {},
                repeat="harmless",
            ),
            models.Batch,
        )

    async def list_files(
        self, *, after: Optional[str] = None, limit: Optional[int] = None, purpose: Optional[str] = None
    ) -> models.ListFilesResponse:
        """List the files that were uploaded for batches.

        `GET /v1/files`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/v1/files",
                query={"after": after, "limit": limit, "purpose": purpose},
                repeat="always",
            ),
            models.ListFilesResponse,
        )

    async def get_file(self, file_id: str) -> models.BatchFile:
        """Get a file of a batch.

        `GET /v1/files/{file_id}`, for: renter.
        """
        return await self._transport.model(
            Call("GET", path_of("/v1/files/{file_id}", file_id=file_id), repeat="always"), models.BatchFile
        )

    async def delete_file(self, file_id: str) -> models.DeleteFileResponse:
        """Delete a file of a batch.

        `DELETE /v1/files/{file_id}`, for: renter.
        """
        return await self._transport.model(
            Call("DELETE", path_of("/v1/files/{file_id}", file_id=file_id), repeat="harmless"),
            models.DeleteFileResponse,
        )

    async def open_dispute(self, job_id: str, body: bodies.OpenDisputeBody) -> models.OpenDisputeResponse:
        """Dispute the charge of a job.

        `POST /api/jobs/{job_id}/dispute`, for: renter.
        """
        return await self._transport.model(
            Call("POST", path_of("/api/jobs/{job_id}/dispute", job_id=job_id), body=body, repeat="harmless"),
            models.OpenDisputeResponse,
        )

    async def list_own_disputes(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListOwnDisputesResponse:
        """List the renter's own disputes.

        `GET /api/renters/disputes`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/disputes",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOwnDisputesResponse,
        )

    async def iterate_own_disputes(self, *, page_size: Optional[int] = None) -> AsyncIterator[models.Dispute]:
        """Walks through all pages of `list_own_disputes`."""
        after: Any = {}
        while after is not None:
            page = await self.list_own_disputes(page_size=page_size, **after)
            for item in page.disputes:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_provider_disputes(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListProviderDisputesResponse:
        """List the disputes about the provider's jobs.

        `GET /api/providers/disputes`, for: provider.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/providers/disputes",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListProviderDisputesResponse,
        )

    async def iterate_provider_disputes(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Dispute]:
        """Walks through all pages of `list_provider_disputes`."""
        after: Any = {}
        while after is not None:
            page = await self.list_provider_disputes(page_size=page_size, **after)
            for item in page.disputes:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_disputes(
        self,
        *,
        status: Optional[str] = None,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
    ) -> models.ListDisputesResponse:
        """List disputes.

        `GET /api/admin/disputes`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/disputes",
                query={"status": status, "before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListDisputesResponse,
        )

    async def iterate_disputes(
        self, *, status: Optional[str] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Dispute]:
        """Walks through all pages of `list_disputes`."""
        after: Any = {}
        while after is not None:
            page = await self.list_disputes(status=status, page_size=page_size, **after)
            for item in page.disputes:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def get_dispute(self, dispute_id: int) -> models.GetDisputeResponse:
        """Get a dispute with the evidence.

        `GET /api/admin/disputes/{dispute_id}`, for: admin.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/admin/disputes/{dispute_id}", dispute_id=dispute_id), repeat="always"),
            models.GetDisputeResponse,
        )

    async def decide_dispute(
        self, dispute_id: int, body: bodies.DecideDisputeBody, *, idempotency_key: Optional[str] = None
    ) -> models.DecideDisputeResponse:
        """Decide a dispute.

        `POST /api/admin/disputes/{dispute_id}/decide`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/disputes/{dispute_id}/decide", dispute_id=dispute_id),
                body=body,
                repeat="keyed",
                key=idempotency_key,
            ),
            models.DecideDisputeResponse,
        )

    async def list_incidents(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListIncidentsResponse:
        """List what is or was wrong with the marketplace.

        `GET /api/admin/incidents`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/incidents",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListIncidentsResponse,
        )

    async def iterate_incidents(self, *, page_size: Optional[int] = None) -> AsyncIterator[models.Incident]:
        """Walks through all pages of `list_incidents`."""
        after: Any = {}
        while after is not None:
            page = await self.list_incidents(page_size=page_size, **after)
            for item in page.incidents:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def set_operator_webhook(
        self, body: bodies.SetOperatorWebhookBody
    ) -> models.SetOperatorWebhookResponse:
        """Set the address that events for operators are sent to.

        `POST /api/admin/webhook`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/webhook", body=body, repeat="secret"), models.SetOperatorWebhookResponse
        )

    async def get_operator_webhook(
        self,
    ) -> models.GetOperatorWebhookResponse:
        """Get the address that events for operators are sent to.

        `GET /api/admin/webhook`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/webhook", repeat="always"), models.GetOperatorWebhookResponse
        )

    async def remove_operator_webhook(
        self, body: Optional[bodies.RemoveOperatorWebhookBody] = None
    ) -> models.RemoveOperatorWebhookResponse:
        """Remove the address that events for operators are sent to.

        `POST /api/admin/webhook/remove`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/webhook/remove", body=body or {}, repeat="harmless"),
            models.RemoveOperatorWebhookResponse,
        )

    async def rotate_operator_webhook_secret(
        self, body: Optional[bodies.RotateOperatorWebhookSecretBody] = None
    ) -> models.RotateOperatorWebhookSecretResponse:
        """Replace the secret of the operators' webhook.

        `POST /api/admin/webhook/rotate`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/webhook/rotate", body=body or {}, repeat="secret"),
            models.RotateOperatorWebhookSecretResponse,
        )

    async def test_operator_webhook(
        self, body: Optional[bodies.TestOperatorWebhookBody] = None
    ) -> models.TestOperatorWebhookResponse:
        """Send a test event to the operators' webhook.

        `POST /api/admin/webhook/test`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/webhook/test", body=body or {}, repeat="harmless"),
            models.TestOperatorWebhookResponse,
        )

    async def list_operator_webhook_deliveries(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListOperatorWebhookDeliveriesResponse:
        """List the deliveries to the operators' webhook.

        `GET /api/admin/webhook/deliveries`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/webhook/deliveries",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOperatorWebhookDeliveriesResponse,
        )

    async def iterate_operator_webhook_deliveries(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.WebhookDelivery]:
        """Walks through all pages of `list_operator_webhook_deliveries`."""
        after: Any = {}
        while after is not None:
            page = await self.list_operator_webhook_deliveries(page_size=page_size, **after)
            for item in page.deliveries:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def create_input(self, body: bodies.CreateInputBody) -> models.CreateInputResponse:
        """Announce data for jobs, or ask whether it is there.

        `POST /api/inputs`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/inputs", body=body, repeat="harmless"), models.CreateInputResponse
        )

    async def list_inputs(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListInputsResponse:
        """List the account's inputs.

        `GET /api/inputs`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET", "/api/inputs", query={"before_id": before_id, "page_size": page_size}, repeat="always"
            ),
            models.ListInputsResponse,
        )

    async def iterate_inputs(self, *, page_size: Optional[int] = None) -> AsyncIterator[models.InputRecord]:
        """Walks through all pages of `list_inputs`."""
        after: Any = {}
        while after is not None:
            page = await self.list_inputs(page_size=page_size, **after)
            for item in page.inputs:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def get_input(self, input_id: str) -> models.GetInputResponse:
        """Get an input, and how much of it has arrived.

        `GET /api/inputs/{input_id}`, for: renter.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/inputs/{input_id}", input_id=input_id), repeat="always"),
            models.GetInputResponse,
        )

    async def delete_input(
        self, input_id: str, body: Optional[bodies.DeleteInputBody] = None
    ) -> models.DeleteInputResponse:
        """Delete an input.

        `POST /api/inputs/{input_id}/delete`, for: renter.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/inputs/{input_id}/delete", input_id=input_id),
                body=body or {},
                repeat="harmless",
            ),
            models.DeleteInputResponse,
        )

    async def submit_job(
        self, body: bodies.SubmitJobBody, *, idempotency_key: Optional[str] = None
    ) -> models.SubmitJobResponse:
        """Submit renter compute job with billing pre-hold.

        `POST /api/jobs/submit`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/jobs/submit", body=body, repeat="keyed", key=idempotency_key),
            models.SubmitJobResponse,
        )

    async def quote_job(self, body: bodies.QuoteJobBody) -> models.QuoteJobResponse:
        """What a job would cost, before anything is sent.

        `POST /api/jobs/quote`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/jobs/quote", body=body, repeat="harmless"), models.QuoteJobResponse
        )

    async def get_job(self, job_id: str) -> models.GetJobResponse:
        """Fetch current job state and execution details.

        `GET /api/jobs/{job_id}`, for: renter, provider, admin.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/jobs/{job_id}", job_id=job_id), repeat="always"), models.GetJobResponse
        )

    async def get_job_output(
        self, job_id: str, *, partial: Optional[bool] = None
    ) -> models.GetJobOutputResponse:
        """Fetch job output; returns 202 while still running.

        `GET /api/jobs/{job_id}/output`, for: renter, provider, admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/jobs/{job_id}/output", job_id=job_id),
                query={"partial": partial},
                repeat="always",
            ),
            models.GetJobOutputResponse,
        )

    async def get_job_logs(
        self, job_id: str, *, after_seq: Optional[int] = None
    ) -> models.GetJobLogsResponse:
        """Fetch a job's log so far; continue it with `after_seq`.

        `GET /api/jobs/{job_id}/logs`, for: renter, provider, admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/jobs/{job_id}/logs", job_id=job_id),
                query={"after_seq": after_seq},
                repeat="always",
            ),
            models.GetJobLogsResponse,
        )

    async def explain_job(self, job_id: str) -> models.ExplainJobResponse:
        """Explain why a job waits or failed, provider by provider.

        `GET /api/jobs/{job_id}/why`, for: renter, provider, admin.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/jobs/{job_id}/why", job_id=job_id), repeat="always"),
            models.ExplainJobResponse,
        )

    async def cancel_job(
        self, job_id: str, body: Optional[bodies.CancelJobBody] = None
    ) -> models.CancelJobResponse:
        """Cancel a job; the time it ran is charged, the rest returns.

        `POST /api/jobs/{job_id}/cancel`, for: renter, admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/jobs/{job_id}/cancel", job_id=job_id),
                body=body or {},
                repeat="harmless",
            ),
            models.CancelJobResponse,
        )

    async def list_own_jobs(
        self,
        *,
        status: Optional[str] = None,
        before_job_id: Optional[str] = None,
        page_size: Optional[int] = None,
    ) -> models.ListOwnJobsResponse:
        """List the renter's own jobs.

        `GET /api/jobs`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/jobs",
                query={"status": status, "before_job_id": before_job_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOwnJobsResponse,
        )

    async def iterate_own_jobs(
        self, *, status: Optional[str] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Job]:
        """Walks through all pages of `list_own_jobs`."""
        after: Any = {}
        while after is not None:
            page = await self.list_own_jobs(status=status, page_size=page_size, **after)
            for item in page.jobs:
                yield item
            after = page_of(page, [("before_job_id", "next_before_job_id")])

    async def list_provider_jobs(
        self,
        *,
        status: Optional[str] = None,
        before_job_id: Optional[str] = None,
        page_size: Optional[int] = None,
    ) -> models.ListProviderJobsResponse:
        """List the jobs of the provider's own machine.

        `GET /api/providers/jobs`, for: provider.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/providers/jobs",
                query={"status": status, "before_job_id": before_job_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListProviderJobsResponse,
        )

    async def iterate_provider_jobs(
        self, *, status: Optional[str] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Job]:
        """Walks through all pages of `list_provider_jobs`."""
        after: Any = {}
        while after is not None:
            page = await self.list_provider_jobs(status=status, page_size=page_size, **after)
            for item in page.jobs:
                yield item
            after = page_of(page, [("before_job_id", "next_before_job_id")])

    async def create_key(self, body: bodies.CreateKeyBody) -> models.CreateKeyResponse:
        """Create a scoped sub-key.

        `POST /api/renters/keys`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/keys", body=body, repeat="secret"), models.CreateKeyResponse
        )

    async def list_keys(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListKeysResponse:
        """List the account's keys.

        `GET /api/renters/keys`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/keys",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListKeysResponse,
        )

    async def iterate_keys(self, *, page_size: Optional[int] = None) -> AsyncIterator[models.Key]:
        """Walks through all pages of `list_keys`."""
        after: Any = {}
        while after is not None:
            page = await self.list_keys(page_size=page_size, **after)
            for item in page.keys:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def set_key_limits(
        self, key_id: int, body: Optional[bodies.SetKeyLimitsBody] = None
    ) -> models.SetKeyLimitsResponse:
        """Set the budgets of a sub-key, and what it may use.

        `POST /api/renters/keys/{key_id}/limits`, for: renter.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/renters/keys/{key_id}/limits", key_id=key_id),
                body=body or {},
                repeat="harmless",
            ),
            models.SetKeyLimitsResponse,
        )

    async def revoke_key(
        self, key_id: int, body: Optional[bodies.RevokeKeyBody] = None
    ) -> models.RevokeKeyResponse:
        """Revoke a key.

        `POST /api/renters/keys/{key_id}/revoke`, for: renter.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/renters/keys/{key_id}/revoke", key_id=key_id),
                body=body or {},
                repeat="harmless",
            ),
            models.RevokeKeyResponse,
        )

    async def rotate_renter_key(
        self, body: Optional[bodies.RotateRenterKeyBody] = None
    ) -> models.RotateRenterKeyResponse:
        """Replace the renter's main key.

        `POST /api/renters/keys/rotate`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/keys/rotate", body=body or {}, repeat="secret"),
            models.RotateRenterKeyResponse,
        )

    async def rotate_provider_key(
        self, body: Optional[bodies.RotateProviderKeyBody] = None
    ) -> models.RotateProviderKeyResponse:
        """Replace the provider's key.

        `POST /api/providers/keys/rotate`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/keys/rotate", body=body or {}, repeat="secret"),
            models.RotateProviderKeyResponse,
        )

    async def credit_renter(
        self, renter_id: int, body: bodies.CreditRenterBody, *, idempotency_key: Optional[str] = None
    ) -> models.CreditRenterResponse:
        """Credit a renter's wallet.

        `POST /api/admin/renters/{renter_id}/credit`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/renters/{renter_id}/credit", renter_id=renter_id),
                body=body,
                repeat="keyed",
                key=idempotency_key,
            ),
            models.CreditRenterResponse,
        )

    async def prove_ledger(self, *, all_accounts: Optional[bool] = None) -> models.ProveLedgerResponse:
        """Prove that the ledger balances.

        `GET /api/admin/ledger/proof`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/ledger/proof", query={"all_accounts": all_accounts}, repeat="always"),
            models.ProveLedgerResponse,
        )

    async def log_in(self, body: Optional[bodies.LogInBody] = None) -> models.LogInResponse:
        """Log a browser in by the account's key.

        `POST /api/log-in`, for: provider, renter.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in", body=body or {}, repeat="secret"), models.LogInResponse
        )

    async def ask_to_log_in(self, body: bodies.AskToLogInBody) -> models.AskToLogInResponse:
        """Ask for a log-in link by mail.

        `POST /api/log-in/ask`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in/ask", body=body, repeat="secret"), models.AskToLogInResponse
        )

    async def redeem_log_in_code(self, body: bodies.RedeemLogInCodeBody) -> models.RedeemLogInCodeResponse:
        """Log a browser in by the mailed code.

        `POST /api/log-in/redeem`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in/redeem", body=body, repeat="secret"), models.RedeemLogInCodeResponse
        )

    async def log_out(self, body: Optional[bodies.LogOutBody] = None) -> models.LogOutResponse:
        """Log out, here or everywhere.

        `POST /api/log-out`, for: provider, renter, admin.
        """
        return await self._transport.model(
            Call("POST", "/api/log-out", body=body or {}, repeat="harmless"), models.LogOutResponse
        )

    async def verify_email(self, body: bodies.VerifyEmailBody) -> models.VerifyEmailResponse:
        """Prove the e-mail address by the mailed code.

        `POST /api/accounts/verify-email`, for: provider, renter.
        """
        return await self._transport.model(
            Call("POST", "/api/accounts/verify-email", body=body, repeat="harmless"),
            models.VerifyEmailResponse,
        )

    async def resend_email_code(
        self, body: Optional[bodies.ResendEmailCodeBody] = None
    ) -> models.ResendEmailCodeResponse:
        """Mail another code.

        `POST /api/accounts/verify-email/resend`, for: provider, renter.
        """
        return await self._transport.model(
            Call("POST", "/api/accounts/verify-email/resend", body=body or {}, repeat="harmless"),
            models.ResendEmailCodeResponse,
        )

    async def get_own_metrics(self, *, range: Optional[str] = None) -> models.GetOwnMetricsResponse:
        """Get metrics of the provider's own GPUs over time.

        `GET /api/providers/metrics`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/metrics", query={"range": range}, repeat="always"),
            models.GetOwnMetricsResponse,
        )

    async def get_provider_metrics(
        self, provider_id: int, *, range: Optional[str] = None
    ) -> models.GetProviderMetricsResponse:
        """Get metrics of any provider's GPUs over time.

        `GET /api/admin/providers/{provider_id}/metrics`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/providers/{provider_id}/metrics", provider_id=provider_id),
                query={"range": range},
                repeat="always",
            ),
            models.GetProviderMetricsResponse,
        )

    async def list_models(
        self,
    ) -> models.ListModelsResponse:
        """The models that are served now, as routers read them.

        `GET /v1/models`, for: public.
        """
        return await self._transport.model(
            Call("GET", "/v1/models", repeat="always"), models.ListModelsResponse
        )

    async def get_model(self, model: str) -> models.ServedModelEntry:
        """One of the models that are served now.

        `GET /v1/models/{model}`, for: public.
        """
        return await self._transport.model(
            Call("GET", path_of("/v1/models/{model}", model=model), repeat="always"), models.ServedModelEntry
        )

    async def list_model_prices(
        self,
    ) -> models.ListModelPricesResponse:
        """What the models that are served now cost, in US dollars.

        `GET /v1/pricing`, for: public.
        """
        return await self._transport.model(
            Call("GET", "/v1/pricing", repeat="always"), models.ListModelPricesResponse
        )

    async def list_providers(
        self,
        *,
        search: Optional[str] = None,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
    ) -> models.ListProvidersResponse:
        """Search all providers.

        `GET /api/admin/providers`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/providers",
                query={"search": search, "before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListProvidersResponse,
        )

    async def iterate_providers(
        self, *, search: Optional[str] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.ProviderEntry]:
        """Walks through all pages of `list_providers`."""
        after: Any = {}
        while after is not None:
            page = await self.list_providers(search=search, page_size=page_size, **after)
            for item in page.providers:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_renters(
        self,
        *,
        search: Optional[str] = None,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
    ) -> models.ListRentersResponse:
        """Search all renters.

        `GET /api/admin/renters`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/renters",
                query={"search": search, "before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListRentersResponse,
        )

    async def iterate_renters(
        self, *, search: Optional[str] = None, page_size: Optional[int] = None
    ) -> AsyncIterator[models.RenterEntry]:
        """Walks through all pages of `list_renters`."""
        after: Any = {}
        while after is not None:
            page = await self.list_renters(search=search, page_size=page_size, **after)
            for item in page.renters:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_jobs(
        self,
        *,
        status: Optional[str] = None,
        search: Optional[str] = None,
        renter_id: Optional[int] = None,
        provider_id: Optional[int] = None,
        before_job_id: Optional[str] = None,
        page_size: Optional[int] = None,
    ) -> models.ListJobsResponse:
        """Search all jobs.

        `GET /api/admin/jobs`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/jobs",
                query={
                    "status": status,
                    "search": search,
                    "renter_id": renter_id,
                    "provider_id": provider_id,
                    "before_job_id": before_job_id,
                    "page_size": page_size,
                },
                repeat="always",
            ),
            models.ListJobsResponse,
        )

    async def iterate_jobs(
        self,
        *,
        status: Optional[str] = None,
        search: Optional[str] = None,
        renter_id: Optional[int] = None,
        provider_id: Optional[int] = None,
        page_size: Optional[int] = None,
    ) -> AsyncIterator[models.Job]:
        """Walks through all pages of `list_jobs`."""
        after: Any = {}
        while after is not None:
            page = await self.list_jobs(
                status=status,
                search=search,
                renter_id=renter_id,
                provider_id=provider_id,
                page_size=page_size,
                **after,
            )
            for item in page.jobs:
                yield item
            after = page_of(page, [("before_job_id", "next_before_job_id")])

    async def requeue_job(
        self,
        job_id: str,
        body: Optional[bodies.RequeueJobBody] = None,
        *,
        idempotency_key: Optional[str] = None,
    ) -> models.RequeueJobResponse:
        """Put a job back into the queue.

        `POST /api/admin/jobs/{job_id}/requeue`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/jobs/{job_id}/requeue", job_id=job_id),
                body=body or {},
                repeat="keyed",
                key=idempotency_key,
            ),
            models.RequeueJobResponse,
        )

    async def list_rates(
        self,
    ) -> models.ListRatesResponse:
        """Get the rate card.

        `GET /api/admin/rates`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/rates", repeat="always"), models.ListRatesResponse
        )

    async def change_rate(self, body: bodies.ChangeRateBody) -> models.ChangeRateResponse:
        """Change a rate for new jobs.

        `POST /api/admin/rates`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/rates", body=body, repeat="harmless"), models.ChangeRateResponse
        )

    async def get_own_operator(
        self,
    ) -> models.GetOwnOperatorResponse:
        """Who the calling operator is.

        `GET /api/admin/me`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/me", repeat="always"), models.GetOwnOperatorResponse
        )

    async def list_operators(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListOperatorsResponse:
        """List the operators.

        `GET /api/admin/operators`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/operators",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOperatorsResponse,
        )

    async def iterate_operators(self, *, page_size: Optional[int] = None) -> AsyncIterator[models.Operator]:
        """Walks through all pages of `list_operators`."""
        after: Any = {}
        while after is not None:
            page = await self.list_operators(page_size=page_size, **after)
            for item in page.operators:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def invite_operator(self, body: bodies.InviteOperatorBody) -> models.InviteOperatorResponse:
        """Invite an operator.

        `POST /api/admin/operators`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/operators", body=body, repeat="secret"), models.InviteOperatorResponse
        )

    async def invite_operator_again(
        self, operator_id: int, body: Optional[bodies.InviteOperatorAgainBody] = None
    ) -> models.InviteOperatorAgainResponse:
        """Invite an operator anew, after a loss.

        `POST /api/admin/operators/{operator_id}/invite`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/operators/{operator_id}/invite", operator_id=operator_id),
                body=body or {},
                repeat="secret",
            ),
            models.InviteOperatorAgainResponse,
        )

    async def set_operator_role(
        self, operator_id: int, body: bodies.SetOperatorRoleBody
    ) -> models.SetOperatorRoleResponse:
        """Change the role of an operator.

        `POST /api/admin/operators/{operator_id}/role`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/operators/{operator_id}/role", operator_id=operator_id),
                body=body,
                repeat="harmless",
            ),
            models.SetOperatorRoleResponse,
        )

    async def remove_operator(
        self, operator_id: int, body: Optional[bodies.RemoveOperatorBody] = None
    ) -> models.RemoveOperatorResponse:
        """Remove an operator.

        `POST /api/admin/operators/{operator_id}/remove`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/operators/{operator_id}/remove", operator_id=operator_id),
                body=body or {},
                repeat="harmless",
            ),
            models.RemoveOperatorResponse,
        )

    async def open_invitation(self, body: bodies.OpenInvitationBody) -> models.OpenInvitationResponse:
        """Open an operator's invitation.

        `POST /api/invitation/open`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/invitation/open", body=body, repeat="secret"), models.OpenInvitationResponse
        )

    async def accept_invitation(self, body: bodies.AcceptInvitationBody) -> models.AcceptInvitationResponse:
        """Use an operator's invitation with a new passkey.

        `POST /api/invitation/accept`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/invitation/accept", body=body, repeat="secret"),
            models.AcceptInvitationResponse,
        )

    async def ask_for_passkey(
        self, body: Optional[bodies.AskForPasskeyBody] = None
    ) -> models.AskForPasskeyResponse:
        """Begin to log an operator in with a passkey.

        `POST /api/log-in/passkey/ask`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in/passkey/ask", body=body or {}, repeat="secret"),
            models.AskForPasskeyResponse,
        )

    async def log_in_by_passkey(self, body: bodies.LogInByPasskeyBody) -> models.LogInByPasskeyResponse:
        """Log an operator in with a passkey.

        `POST /api/log-in/passkey`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in/passkey", body=body, repeat="secret"), models.LogInByPasskeyResponse
        )

    async def begin_passkey(
        self, body: Optional[bodies.BeginPasskeyBody] = None
    ) -> models.BeginPasskeyResponse:
        """Begin to add a passkey.

        `POST /api/admin/me/passkeys/begin`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/me/passkeys/begin", body=body or {}, repeat="secret"),
            models.BeginPasskeyResponse,
        )

    async def add_passkey(self, body: bodies.AddPasskeyBody) -> models.AddPasskeyResponse:
        """Add a passkey.

        `POST /api/admin/me/passkeys`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/me/passkeys", body=body, repeat="secret"), models.AddPasskeyResponse
        )

    async def list_passkeys(
        self,
    ) -> models.ListPasskeysResponse:
        """List the operator's passkeys.

        `GET /api/admin/me/passkeys`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/me/passkeys", repeat="always"), models.ListPasskeysResponse
        )

    async def remove_passkey(
        self, passkey_id: int, body: Optional[bodies.RemovePasskeyBody] = None
    ) -> models.RemovePasskeyResponse:
        """Remove a passkey.

        `POST /api/admin/me/passkeys/{passkey_id}/remove`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/me/passkeys/{passkey_id}/remove", passkey_id=passkey_id),
                body=body or {},
                repeat="harmless",
            ),
            models.RemovePasskeyResponse,
        )

    async def log_in_operator(
        self, body: Optional[bodies.LogInOperatorBody] = None
    ) -> models.LogInOperatorResponse:
        """Log a browser in by an operator's key.

        `POST /api/log-in/operator`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/log-in/operator", body=body or {}, repeat="secret"),
            models.LogInOperatorResponse,
        )

    async def create_operator_key(
        self, body: bodies.CreateOperatorKeyBody
    ) -> models.CreateOperatorKeyResponse:
        """Create a key of the operator for scripts.

        `POST /api/admin/me/keys`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/me/keys", body=body, repeat="secret"), models.CreateOperatorKeyResponse
        )

    async def list_operator_keys(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListOperatorKeysResponse:
        """List the operator's own keys.

        `GET /api/admin/me/keys`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/admin/me/keys",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOperatorKeysResponse,
        )

    async def iterate_operator_keys(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.OperatorKey]:
        """Walks through all pages of `list_operator_keys`."""
        after: Any = {}
        while after is not None:
            page = await self.list_operator_keys(page_size=page_size, **after)
            for item in page.keys:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def revoke_operator_key(
        self, key_id: int, body: Optional[bodies.RevokeOperatorKeyBody] = None
    ) -> models.RevokeOperatorKeyResponse:
        """Revoke a key of the operator.

        `POST /api/admin/me/keys/{key_id}/revoke`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/me/keys/{key_id}/revoke", key_id=key_id),
                body=body or {},
                repeat="harmless",
            ),
            models.RevokeOperatorKeyResponse,
        )

    async def get_health(
        self,
    ) -> models.GetHealthResponse:
        """How the marketplace is doing now.

        `GET /api/admin/health`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/health", repeat="always"), models.GetHealthResponse
        )

    async def list_money_by_day(self, *, days: Optional[int] = None) -> models.ListMoneyByDayResponse:
        """The marketplace's money by day.

        `GET /api/admin/money`, for: admin.
        """
        return await self._transport.model(
            Call("GET", "/api/admin/money", query={"days": days}, repeat="always"),
            models.ListMoneyByDayResponse,
        )

    async def get_renter_account(self, renter_id: int) -> models.GetRenterAccountResponse:
        """Get a renter's account.

        `GET /api/admin/renters/{renter_id}`, for: admin.
        """
        return await self._transport.model(
            Call("GET", path_of("/api/admin/renters/{renter_id}", renter_id=renter_id), repeat="always"),
            models.GetRenterAccountResponse,
        )

    async def list_renter_ledger(
        self, renter_id: int, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListRenterLedgerResponse:
        """List the changes of a renter's wallet.

        `GET /api/admin/renters/{renter_id}/ledger`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/renters/{renter_id}/ledger", renter_id=renter_id),
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListRenterLedgerResponse,
        )

    async def iterate_renter_ledger(
        self, renter_id: int, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.LedgerLine]:
        """Walks through all pages of `list_renter_ledger`."""
        after: Any = {}
        while after is not None:
            page = await self.list_renter_ledger(renter_id, page_size=page_size, **after)
            for item in page.lines:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_renter_keys(
        self, renter_id: int, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListRenterKeysResponse:
        """List a renter's keys.

        `GET /api/admin/renters/{renter_id}/keys`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/renters/{renter_id}/keys", renter_id=renter_id),
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListRenterKeysResponse,
        )

    async def iterate_renter_keys(
        self, renter_id: int, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Key]:
        """Walks through all pages of `list_renter_keys`."""
        after: Any = {}
        while after is not None:
            page = await self.list_renter_keys(renter_id, page_size=page_size, **after)
            for item in page.keys:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def get_provider_account(self, provider_id: int) -> models.GetProviderAccountResponse:
        """Get a provider's account.

        `GET /api/admin/providers/{provider_id}`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET", path_of("/api/admin/providers/{provider_id}", provider_id=provider_id), repeat="always"
            ),
            models.GetProviderAccountResponse,
        )

    async def list_provider_ledger(
        self, provider_id: int, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListProviderLedgerResponse:
        """List a provider's transfers.

        `GET /api/admin/providers/{provider_id}/ledger`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/providers/{provider_id}/ledger", provider_id=provider_id),
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListProviderLedgerResponse,
        )

    async def iterate_provider_ledger(
        self, provider_id: int, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.ProviderTransfer]:
        """Walks through all pages of `list_provider_ledger`."""
        after: Any = {}
        while after is not None:
            page = await self.list_provider_ledger(provider_id, page_size=page_size, **after)
            for item in page.transfers:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def list_provider_keys(
        self, provider_id: int, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListProviderKeysResponse:
        """List a provider's keys.

        `GET /api/admin/providers/{provider_id}/keys`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/providers/{provider_id}/keys", provider_id=provider_id),
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListProviderKeysResponse,
        )

    async def iterate_provider_keys(
        self, provider_id: int, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Key]:
        """Walks through all pages of `list_provider_keys`."""
        after: Any = {}
        while after is not None:
            page = await self.list_provider_keys(provider_id, page_size=page_size, **after)
            for item in page.keys:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def get_payout_evidence(self, withdrawal_id: int) -> models.GetPayoutEvidenceResponse:
        """Get the evidence about a withdrawal.

        `GET /api/admin/withdrawals/{withdrawal_id}/evidence`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/withdrawals/{withdrawal_id}/evidence", withdrawal_id=withdrawal_id),
                repeat="always",
            ),
            models.GetPayoutEvidenceResponse,
        )

    async def list_prices(
        self,
    ) -> models.ListPricesResponse:
        """What jobs cost.

        `GET /api/prices`, for: public.
        """
        return await self._transport.model(
            Call("GET", "/api/prices", repeat="always"), models.ListPricesResponse
        )

    async def set_price(self, body: Optional[bodies.SetPriceBody] = None) -> models.ListPricesResponse:
        """Set a platform's price for new jobs.

        `POST /api/admin/prices`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/prices", body=body or {}, repeat="harmless"), models.ListPricesResponse
        )

    async def set_storage_price(self, body: bodies.SetStoragePriceBody) -> models.ListPricesResponse:
        """Set the price of what is kept for renters.

        `POST /api/admin/prices/storage`, for: admin.
        """
        return await self._transport.model(
            Call("POST", "/api/admin/prices/storage", body=body, repeat="harmless"), models.ListPricesResponse
        )

    async def set_own_price(
        self, body: Optional[bodies.SetOwnPriceBody] = None
    ) -> models.ListOwnPricesResponse:
        """Set the provider's own price for new jobs.

        `POST /api/providers/prices`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/prices", body=body or {}, repeat="harmless"),
            models.ListOwnPricesResponse,
        )

    async def list_own_prices(
        self,
    ) -> models.ListOwnPricesResponse:
        """List the provider's prices and their bounds.

        `GET /api/providers/prices`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/prices", repeat="always"), models.ListOwnPricesResponse
        )

    async def export_own_data(
        self, *, page: Optional[str] = None, page_size: Optional[int] = None
    ) -> models.ExportOwnDataResponse:
        """Export everything that is stored about the account.

        `GET /api/renters/export`, for: renter.
        """
        return await self._transport.model(
            Call("GET", "/api/renters/export", query={"page": page, "page_size": page_size}, repeat="always"),
            models.ExportOwnDataResponse,
        )

    async def delete_own_account(self, body: bodies.DeleteOwnAccountBody) -> models.DeleteOwnAccountResponse:
        """Delete the account and its personal data.

        `POST /api/renters/delete`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/delete", body=body, repeat="harmless"), models.DeleteOwnAccountResponse
        )

    async def register_provider(self, body: bodies.RegisterProviderBody) -> models.RegisterProviderResponse:
        """Register a provider and return provider API key.

        `POST /api/providers/register`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/register", body=body, repeat="secret"),
            models.RegisterProviderResponse,
        )

    async def get_own_provider(
        self,
    ) -> models.GetOwnProviderResponse:
        """Provider profile, jobs, earnings, and heartbeat summary.

        `GET /api/providers/me`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/me", repeat="always"), models.GetOwnProviderResponse
        )

    async def heartbeat(self, body: bodies.HeartbeatBody) -> models.HeartbeatResponse:
        """Daemon heartbeat with GPU utilization telemetry.

        `POST /api/providers/heartbeat`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/heartbeat", body=body, repeat="harmless"), models.HeartbeatResponse
        )

    async def pause_own_provider(
        self, body: Optional[bodies.PauseOwnProviderBody] = None
    ) -> models.PauseOwnProviderResponse:
        """Pause: take no new jobs.

        `POST /api/providers/pause`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/pause", body=body or {}, repeat="harmless"),
            models.PauseOwnProviderResponse,
        )

    async def resume_own_provider(
        self, body: Optional[bodies.ResumeOwnProviderBody] = None
    ) -> models.ResumeOwnProviderResponse:
        """Resume after a pause.

        `POST /api/providers/resume`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/resume", body=body or {}, repeat="harmless"),
            models.ResumeOwnProviderResponse,
        )

    async def list_provider_history(
        self, provider_id: int, *, before: Optional[str] = None, page_size: Optional[int] = None
    ) -> models.ListProviderHistoryResponse:
        """List the public history of a provider's attempts.

        `GET /api/providers/{provider_id}/history`, for: public.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/providers/{provider_id}/history", provider_id=provider_id),
                query={"before": before, "page_size": page_size},
                repeat="always",
            ),
            models.ListProviderHistoryResponse,
        )

    async def iterate_provider_history(
        self, provider_id: int, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.PastAttempt]:
        """Walks through all pages of `list_provider_history`."""
        after: Any = {}
        while after is not None:
            page = await self.list_provider_history(provider_id, page_size=page_size, **after)
            for item in page.attempts:
                yield item
            after = page_of(page, [("before", "next_before")])

    async def get_own_missed_jobs(self, *, limit: Optional[int] = None) -> models.GetOwnMissedJobsResponse:
        """List the jobs that the provider misses, and why.

        `GET /api/providers/missed-jobs`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/missed-jobs", query={"limit": limit}, repeat="always"),
            models.GetOwnMissedJobsResponse,
        )

    async def report_lost_key(self, body: bodies.ReportLostKeyBody) -> models.ReportLostKeyResponse:
        """Ask for a code by mail after losing a key.

        `POST /api/accounts/lost-key`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/accounts/lost-key", body=body, repeat="harmless"), models.ReportLostKeyResponse
        )

    async def redeem_key_code(self, body: bodies.RedeemKeyCodeBody) -> models.RedeemKeyCodeResponse:
        """Exchange a code for a new main key, after the delay.

        `POST /api/accounts/lost-key/redeem`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/accounts/lost-key/redeem", body=body, repeat="secret"),
            models.RedeemKeyCodeResponse,
        )

    async def cancel_key_recovery(
        self,
    ) -> models.CancelKeyRecoveryResponse:
        """Cancel the replacement of a lost key.

        `POST /api/accounts/lost-key/cancel`, for: provider, renter.
        """
        return await self._transport.model(
            Call("POST", "/api/accounts/lost-key/cancel", repeat="harmless"), models.CancelKeyRecoveryResponse
        )

    async def recover_renter_key(
        self, renter_id: int, body: bodies.RecoverRenterKeyBody
    ) -> models.RecoverRenterKeyResponse:
        """Start the replacement of a renter's lost key.

        `POST /api/admin/renters/{renter_id}/recover-key`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/renters/{renter_id}/recover-key", renter_id=renter_id),
                body=body,
                repeat="secret",
            ),
            models.RecoverRenterKeyResponse,
        )

    async def recover_provider_key(
        self, provider_id: int, body: bodies.RecoverProviderKeyBody
    ) -> models.RecoverProviderKeyResponse:
        """Start the replacement of a provider's lost key.

        `POST /api/admin/providers/{provider_id}/recover-key`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/providers/{provider_id}/recover-key", provider_id=provider_id),
                body=body,
                repeat="secret",
            ),
            models.RecoverProviderKeyResponse,
        )

    async def register_renter(self, body: bodies.RegisterRenterBody) -> models.RegisterRenterResponse:
        """Register a renter account and return renter key.

        `POST /api/renters/register`, for: public.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/register", body=body, repeat="secret"), models.RegisterRenterResponse
        )

    async def get_own_renter(
        self,
    ) -> models.GetOwnRenterResponse:
        """Renter profile and wallet state.

        `GET /api/renters/me`, for: renter.
        """
        return await self._transport.model(
            Call("GET", "/api/renters/me", repeat="always"), models.GetOwnRenterResponse
        )

    async def list_available_providers(
        self,
        *,
        gpu_model: Optional[str] = None,
        min_vram_gb: Optional[float] = None,
        model: Optional[str] = None,
        architecture: Optional[str] = None,
        after_id: Optional[int] = None,
        page_size: Optional[int] = None,
        verified: Optional[bool] = None,
        min_standing: Optional[str] = None,
        job_type: Optional[str] = None,
        max_sar_per_hour: Optional[str] = None,
        max_sar_per_million_output_tokens: Optional[str] = None,
        min_tokens_per_second: Optional[float] = None,
        min_reliability: Optional[float] = None,
        sort: Optional[str] = None,
        cursor: Optional[str] = None,
        max_first_token_ms: Optional[int] = None,
    ) -> models.ListAvailableProvidersResponse:
        """List currently online providers for marketplace.

        `GET /api/renters/available-providers`, for: public.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/available-providers",
                query={
                    "gpu_model": gpu_model,
                    "min_vram_gb": min_vram_gb,
                    "model": model,
                    "architecture": architecture,
                    "after_id": after_id,
                    "page_size": page_size,
                    "verified": verified,
                    "min_standing": min_standing,
                    "job_type": job_type,
                    "max_sar_per_hour": max_sar_per_hour,
                    "max_sar_per_million_output_tokens": max_sar_per_million_output_tokens,
                    "min_tokens_per_second": min_tokens_per_second,
                    "min_reliability": min_reliability,
                    "sort": sort,
                    "cursor": cursor,
                    "max_first_token_ms": max_first_token_ms,
                },
                repeat="always",
            ),
            models.ListAvailableProvidersResponse,
        )

    async def iterate_available_providers(
        self,
        *,
        gpu_model: Optional[str] = None,
        min_vram_gb: Optional[float] = None,
        model: Optional[str] = None,
        architecture: Optional[str] = None,
        page_size: Optional[int] = None,
        verified: Optional[bool] = None,
        min_standing: Optional[str] = None,
        job_type: Optional[str] = None,
        max_sar_per_hour: Optional[str] = None,
        max_sar_per_million_output_tokens: Optional[str] = None,
        min_tokens_per_second: Optional[float] = None,
        min_reliability: Optional[float] = None,
        sort: Optional[str] = None,
        max_first_token_ms: Optional[int] = None,
    ) -> AsyncIterator[models.AvailableProvider]:
        """Walks through all pages of `list_available_providers`."""
        after: Any = {}
        while after is not None:
            page = await self.list_available_providers(
                gpu_model=gpu_model,
                min_vram_gb=min_vram_gb,
                model=model,
                architecture=architecture,
                page_size=page_size,
                verified=verified,
                min_standing=min_standing,
                job_type=job_type,
                max_sar_per_hour=max_sar_per_hour,
                max_sar_per_million_output_tokens=max_sar_per_million_output_tokens,
                min_tokens_per_second=min_tokens_per_second,
                min_reliability=min_reliability,
                sort=sort,
                max_first_token_ms=max_first_token_ms,
                **after,
            )
            for item in page.providers:
                yield item
            after = page_of(page, [("cursor", "next_cursor"), ("after_id", "next_after_id")])

    async def top_up_own_wallet(
        self, body: bodies.TopUpOwnWalletBody, *, idempotency_key: Optional[str] = None
    ) -> models.TopUpOwnWalletResponse:
        """Top up the renter's own wallet on a sandbox marketplace.

        `POST /api/renters/topup`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/topup", body=body, repeat="keyed", key=idempotency_key),
            models.TopUpOwnWalletResponse,
        )

    async def list_own_ledger(
        self,
        *,
        before_id: Optional[int] = None,
        page_size: Optional[int] = None,
        from_: Optional[str] = None,
        to: Optional[str] = None,
    ) -> models.ListOwnLedgerResponse:
        """Get the statement of the renter's own wallet.

        `GET /api/renters/ledger`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/ledger",
                query={"before_id": before_id, "page_size": page_size, "from": from_, "to": to},
                repeat="always",
            ),
            models.ListOwnLedgerResponse,
        )

    async def iterate_own_ledger(
        self, *, page_size: Optional[int] = None, from_: Optional[str] = None, to: Optional[str] = None
    ) -> AsyncIterator[models.LedgerLine]:
        """Walks through all pages of `list_own_ledger`."""
        after: Any = {}
        while after is not None:
            page = await self.list_own_ledger(page_size=page_size, from_=from_, to=to, **after)
            for item in page.lines:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def get_own_ledger_csv(
        self,
        *,
        before_id: Optional[int] = None,
        max_lines: Optional[int] = None,
        from_: Optional[str] = None,
        to: Optional[str] = None,
    ) -> str:
        """Get the statement of the renter's own wallet as CSV.

        `GET /api/renters/ledger.csv`, for: renter.
        """
        return await self._transport.text(
            Call(
                "GET",
                "/api/renters/ledger.csv",
                query={"before_id": before_id, "max_lines": max_lines, "from": from_, "to": to},
                repeat="always",
            )
        )

    async def get_own_spending(self, *, days: Optional[int] = None) -> models.GetOwnSpendingResponse:
        """Get the renter's own spending by day and job type.

        `GET /api/renters/spending`, for: renter.
        """
        return await self._transport.model(
            Call("GET", "/api/renters/spending", query={"days": days}, repeat="always"),
            models.GetOwnSpendingResponse,
        )

    async def get_own_usage(
        self,
        *,
        from_: Optional[str] = None,
        to: Optional[str] = None,
        group_by: Optional[List[str]] = None,
        after: Optional[str] = None,
        page_size: Optional[int] = None,
    ) -> models.GetOwnUsageResponse:
        """Get the renter's own usage by day, key and model.

        `GET /api/renters/usage`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/usage",
                query={"from": from_, "to": to, "group_by": group_by, "after": after, "page_size": page_size},
                repeat="always",
            ),
            models.GetOwnUsageResponse,
        )

    async def iterate_own_usage(
        self,
        *,
        from_: Optional[str] = None,
        to: Optional[str] = None,
        group_by: Optional[List[str]] = None,
        page_size: Optional[int] = None,
    ) -> AsyncIterator[models.UsageRow]:
        """Walks through all pages of `get_own_usage`."""
        after: Any = {}
        while after is not None:
            page = await self.get_own_usage(
                from_=from_, to=to, group_by=group_by, page_size=page_size, **after
            )
            for item in page.rows:
                yield item
            after = page_of(page, [("after", "next_after")])

    async def get_own_usage_csv(
        self,
        *,
        from_: Optional[str] = None,
        to: Optional[str] = None,
        group_by: Optional[List[str]] = None,
        max_lines: Optional[int] = None,
    ) -> str:
        """Get the renter's own usage as CSV.

        `GET /api/renters/usage.csv`, for: renter.
        """
        return await self._transport.text(
            Call(
                "GET",
                "/api/renters/usage.csv",
                query={"from": from_, "to": to, "group_by": group_by, "max_lines": max_lines},
                repeat="always",
            )
        )

    async def get_own_earnings(self, *, days: Optional[int] = None) -> models.GetOwnEarningsResponse:
        """Get the provider's own earnings by day and job type.

        `GET /api/providers/earnings`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/earnings", query={"days": days}, repeat="always"),
            models.GetOwnEarningsResponse,
        )

    async def set_own_rate(self, body: bodies.SetOwnRateBody) -> models.SetOwnRateResponse:
        """Set the provider's own rate for new jobs.

        `POST /api/providers/rates`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/rates", body=body, repeat="harmless"), models.SetOwnRateResponse
        )

    async def list_own_rates(
        self,
    ) -> models.ListOwnRatesResponse:
        """List the provider's own rates and their bounds.

        `GET /api/providers/rates`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/rates", repeat="always"), models.ListOwnRatesResponse
        )

    async def set_own_settings(
        self, body: Optional[bodies.SetOwnSettingsBody] = None
    ) -> models.SetOwnSettingsResponse:
        """Set the limits of hours, temperature and memory for jobs.

        `POST /api/providers/settings`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/settings", body=body or {}, repeat="harmless"),
            models.SetOwnSettingsResponse,
        )

    async def get_own_settings(
        self,
    ) -> models.GetOwnSettingsResponse:
        """Get the limits of hours, temperature and memory for jobs.

        `GET /api/providers/settings`, for: provider.
        """
        return await self._transport.model(
            Call("GET", "/api/providers/settings", repeat="always"), models.GetOwnSettingsResponse
        )

    async def set_webhook(self, body: bodies.SetWebhookBody) -> models.SetWebhookResponse:
        """Set the address that events are sent to.

        `POST /api/renters/webhook`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/webhook", body=body, repeat="secret"), models.SetWebhookResponse
        )

    async def get_webhook(
        self,
    ) -> models.GetWebhookResponse:
        """Get the address that events are sent to.

        `GET /api/renters/webhook`, for: renter.
        """
        return await self._transport.model(
            Call("GET", "/api/renters/webhook", repeat="always"), models.GetWebhookResponse
        )

    async def remove_webhook(
        self, body: Optional[bodies.RemoveWebhookBody] = None
    ) -> models.RemoveWebhookResponse:
        """Remove the address that events are sent to.

        `POST /api/renters/webhook/remove`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/webhook/remove", body=body or {}, repeat="harmless"),
            models.RemoveWebhookResponse,
        )

    async def rotate_webhook_secret(
        self, body: Optional[bodies.RotateWebhookSecretBody] = None
    ) -> models.RotateWebhookSecretResponse:
        """Replace the secret of the webhook.

        `POST /api/renters/webhook/rotate`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/webhook/rotate", body=body or {}, repeat="secret"),
            models.RotateWebhookSecretResponse,
        )

    async def test_webhook(self, body: Optional[bodies.TestWebhookBody] = None) -> models.TestWebhookResponse:
        """Send a test event.

        `POST /api/renters/webhook/test`, for: renter.
        """
        return await self._transport.model(
            Call("POST", "/api/renters/webhook/test", body=body or {}, repeat="harmless"),
            models.TestWebhookResponse,
        )

    async def list_webhook_deliveries(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListWebhookDeliveriesResponse:
        """List the deliveries to the webhook.

        `GET /api/renters/webhook/deliveries`, for: renter.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/renters/webhook/deliveries",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListWebhookDeliveriesResponse,
        )

    async def iterate_webhook_deliveries(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.WebhookDelivery]:
        """Walks through all pages of `list_webhook_deliveries`."""
        after: Any = {}
        while after is not None:
            page = await self.list_webhook_deliveries(page_size=page_size, **after)
            for item in page.deliveries:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def request_withdrawal(
        self, body: bodies.RequestWithdrawalBody, *, idempotency_key: Optional[str] = None
    ) -> models.RequestWithdrawalResponse:
        """Request a withdrawal of earnings.

        `POST /api/providers/withdrawals`, for: provider.
        """
        return await self._transport.model(
            Call("POST", "/api/providers/withdrawals", body=body, repeat="keyed", key=idempotency_key),
            models.RequestWithdrawalResponse,
        )

    async def list_own_withdrawals(
        self, *, before_id: Optional[int] = None, page_size: Optional[int] = None
    ) -> models.ListOwnWithdrawalsResponse:
        """List the provider's own withdrawal requests.

        `GET /api/providers/withdrawals`, for: provider.
        """
        return await self._transport.model(
            Call(
                "GET",
                "/api/providers/withdrawals",
                query={"before_id": before_id, "page_size": page_size},
                repeat="always",
            ),
            models.ListOwnWithdrawalsResponse,
        )

    async def iterate_own_withdrawals(
        self, *, page_size: Optional[int] = None
    ) -> AsyncIterator[models.Withdrawal]:
        """Walks through all pages of `list_own_withdrawals`."""
        after: Any = {}
        while after is not None:
            page = await self.list_own_withdrawals(page_size=page_size, **after)
            for item in page.withdrawals:
                yield item
            after = page_of(page, [("before_id", "next_before_id")])

    async def cancel_withdrawal(
        self,
        withdrawal_id: int,
        body: Optional[bodies.CancelWithdrawalBody] = None,
        *,
        idempotency_key: Optional[str] = None,
    ) -> models.CancelWithdrawalResponse:
        """Cancel a withdrawal that waits.

        `POST /api/providers/withdrawals/{withdrawal_id}/cancel`, for: provider.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/providers/withdrawals/{withdrawal_id}/cancel", withdrawal_id=withdrawal_id),
                body=body or {},
                repeat="keyed",
                key=idempotency_key,
            ),
            models.CancelWithdrawalResponse,
        )

    async def get_withdrawal(self, withdrawal_id: int) -> models.GetWithdrawalResponse:
        """Get a withdrawal request with the bank account to pay.

        `GET /api/admin/withdrawals/{withdrawal_id}`, for: admin.
        """
        return await self._transport.model(
            Call(
                "GET",
                path_of("/api/admin/withdrawals/{withdrawal_id}", withdrawal_id=withdrawal_id),
                repeat="always",
            ),
            models.GetWithdrawalResponse,
        )

    async def process_withdrawal(
        self,
        withdrawal_id: int,
        body: Optional[bodies.ProcessWithdrawalBody] = None,
        *,
        idempotency_key: Optional[str] = None,
    ) -> models.ProcessWithdrawalResponse:
        """Mark a withdrawal as ordered at the bank.

        `POST /api/admin/withdrawals/{withdrawal_id}/process`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/withdrawals/{withdrawal_id}/process", withdrawal_id=withdrawal_id),
                body=body or {},
                repeat="keyed",
                key=idempotency_key,
            ),
            models.ProcessWithdrawalResponse,
        )

    async def pay_withdrawal(
        self, withdrawal_id: int, body: bodies.PayWithdrawalBody, *, idempotency_key: Optional[str] = None
    ) -> models.PayWithdrawalResponse:
        """Mark a withdrawal as paid.

        `POST /api/admin/withdrawals/{withdrawal_id}/pay`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/withdrawals/{withdrawal_id}/pay", withdrawal_id=withdrawal_id),
                body=body,
                repeat="keyed",
                key=idempotency_key,
            ),
            models.PayWithdrawalResponse,
        )

    async def reject_withdrawal(
        self, withdrawal_id: int, body: bodies.RejectWithdrawalBody, *, idempotency_key: Optional[str] = None
    ) -> models.RejectWithdrawalResponse:
        """Reject a withdrawal and return the money.

        `POST /api/admin/withdrawals/{withdrawal_id}/reject`, for: admin.
        """
        return await self._transport.model(
            Call(
                "POST",
                path_of("/api/admin/withdrawals/{withdrawal_id}/reject", withdrawal_id=withdrawal_id),
                body=body,
                repeat="keyed",
                key=idempotency_key,
            ),
            models.RejectWithdrawalResponse,
        )
