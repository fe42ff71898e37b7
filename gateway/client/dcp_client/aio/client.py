"""Owns the client that programs use: what a caller wants, in few lines of the routes in `api`.

It knows no HTTP beyond calls, and keeps no state but the connections.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Any, Callable

import httpx
from dcp_client.aio.batches import AsyncBatches
from dcp_client.aio.chat import AsyncChat
from dcp_client.aio.files import download
from dcp_client.aio.inputs import upload
from dcp_client.aio.transport import AsyncTransport
from dcp_client.aio.watch import watch
from dcp_client.calls import Retries
from dcp_client.downloads import Progress
from dcp_client.events import JobEvent
from dcp_client.generated import bodies
from dcp_client.generated import models as objects
from dcp_client.generated.async_api import AsyncApi
from dcp_client.settings import Settings


class AsyncClient:
    """An asynchronous client of a market.

    ``api_url``, ``api_key``: by default `DCP_API_URL` and `DCP_API_KEY`. The key of a renter, of a provider
    or of an operator; without one only public routes work. ``api`` has every route; the methods here are
    what most callers need. Use it as a context manager, or call `close`.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        *,
        retries: Retries | None = None,
        timeout_seconds: float = 60.0,
        http: httpx.AsyncClient | None = None,
    ) -> None:
        settings = Settings.build(api_url, api_key)
        self._transport = AsyncTransport(settings, http, retries, timeout_seconds)
        self.api = AsyncApi(self._transport)
        self.chat = AsyncChat(self._transport)
        self.batches = AsyncBatches(self._transport)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections."""
        await self._transport.close()

    # The market

    async def market(self, **filters: Any) -> AsyncIterator[objects.AvailableProvider]:
        """The live providers, all pages. ``filters``: those of `api.list_available_providers`."""
        async for provider in self.api.iterate_available_providers(**filters):
            yield provider

    async def models(self) -> list[objects.ServedModelEntry]:
        """The models that are served now."""
        return (await self.api.list_models()).data

    async def prices(self) -> list[objects.PriceEntry]:
        """What jobs cost that name no provider."""
        return (await self.api.list_prices()).prices

    async def quote(self, job: bodies.QuoteJobBody) -> objects.QuoteJobResponse:
        """What a job would cost. Nothing is held; the price is binding for a submit with `quote_id`."""
        return await self.api.quote_job(job)

    # Jobs

    async def submit(self, job: bodies.SubmitJobBody, *, idempotency_key: str | None = None) -> objects.Job:
        """Submits a job. However often the connection breaks, it is one job.

        ``idempotency_key``: your own, if the job shall also be one when your program is started again.
        """
        answer = await self.api.submit_job(job, idempotency_key=idempotency_key)
        return answer.job or objects.Job()

    async def job(self, job_id: str) -> objects.Job:
        """A job as it is now."""
        return (await self.api.get_job(job_id)).job or objects.Job()

    async def jobs(self, **filters: Any) -> AsyncIterator[objects.Job]:
        """The renter's jobs, the newest first, all pages."""
        async for job in self.api.iterate_own_jobs(**filters):
            yield job

    async def stream(self, job_id: str, *, after: str | None = None) -> AsyncIterator[JobEvent]:
        """The events of a job until it has ended, without a gap or a repeat, whatever breaks meanwhile.

        ``after``: the id of the last event that you have. After the event `attempt`, discard what you have of
        the output and of the log.
        """
        async for event in watch(self._transport, job_id, after):
            yield event

    async def wait(
        self,
        job_id: str,
        *,
        timeout_seconds: float | None = None,
        on_event: Callable[[JobEvent], None] | None = None,
    ) -> objects.Job:
        """Waits until a job has ended, whether it succeeded or not; returns it with its bill.

        ``on_event`` is called with each event. Raises WaitTimeoutError, after which the job goes on.
        """
        async for event in watch(self._transport, job_id, None, timeout_seconds):
            if on_event is not None:
                on_event(event)
            if event.job is not None:
                return event.job
        return await self.job(job_id)

    async def logs(self, job_id: str) -> str:
        """A job's log so far."""
        text, after = "", 0
        while True:
            page = await self.api.get_job_logs(job_id, after_seq=after)
            text += page.log
            if page.through_seq <= after:
                return text
            after = page.through_seq

    async def output(self, job_id: str, *, partial: bool = False) -> objects.GetJobOutputResponse:
        """A job's output. A job that failed raises JobFailedError, one that was cancelled JobCancelledError.

        ``partial``: of these, too, what they had written.
        """
        return await self.api.get_job_output(job_id, partial=partial or None)

    async def cancel(self, job_id: str, *, keep_files: bool = False) -> objects.Job:
        """Cancels a job. What it used is charged, the rest returns.

        ``keep_files``: what it has written to `/output` so far is kept, for `resume_from` of another job.
        """
        body: bodies.CancelJobBody = {"keep_files": True} if keep_files else {}
        return (await self.api.cancel_job(job_id, body)).job or objects.Job()

    async def upload(
        self, source: Path, path: str | None = None, *, on_progress: Progress | None = None
    ) -> list[bodies.JobInput]:
        """Uploads a file or a folder for jobs, except what the account has; returns `inputs` for a submit.

        ``path``: where it lies below `/input`; by default under its own name. An upload that broke off goes
        on, also in another program.
        """
        return await upload(self._transport, source, path, on_progress)

    async def inputs(self) -> AsyncIterator[objects.InputRecord]:
        """What was uploaded for jobs, the newest first, all pages."""
        async for found in self.api.iterate_inputs():
            yield found

    async def why(self, job_id: str) -> objects.ExplainJobResponse:
        """Why a job waits or failed, provider by provider."""
        return await self.api.explain_job(job_id)

    async def artifacts(self, job_id: str) -> list[objects.Artifact]:
        """The files that a job left in /output."""
        return (await self.api.list_artifacts(job_id)).artifacts

    async def download(
        self,
        job_id: str,
        artifact: objects.Artifact,
        folder: Path,
        *,
        on_progress: Progress | None = None,
    ) -> Path:
        """Downloads a file into a folder and compares its SHA-256. What an earlier call left is continued.

        Raises DigestError, UnsafeNameError.
        """
        return await download(self._transport, job_id, artifact, folder, on_progress)

    async def download_all(
        self, job_id: str, folder: Path, *, on_progress: Progress | None = None
    ) -> list[Path]:
        """Downloads all files of a job."""
        files = await self.artifacts(job_id)
        return [await self.download(job_id, each, folder, on_progress=on_progress) for each in files]

    # The account

    async def register(self, name: str, email: str, organization: str = "") -> str:
        """Registers a renter; returns the key, which is shown only this once."""
        body: bodies.RegisterRenterBody = {"name": name, "email": email}
        if organization:
            body["organization"] = organization
        return (await self.api.register_renter(body)).api_key

    async def wallet(self) -> objects.Renter:
        """The renter with its wallet."""
        return (await self.api.get_own_renter()).renter or objects.Renter()

    async def usage(self, **filters: Any) -> AsyncIterator[objects.UsageRow]:
        """What the charged jobs used by day, key and model, all pages; `from_` and `to` are days."""
        async for row in self.api.iterate_own_usage(**filters):
            yield row

    async def spending(self, days: int | None = None) -> objects.GetOwnSpendingResponse:
        """What was spent, by day and job type."""
        return await self.api.get_own_spending(days=days)

    async def statement(self) -> AsyncIterator[objects.LedgerLine]:
        """Every movement of the wallet, the newest first, all pages."""
        async for line in self.api.iterate_own_ledger():
            yield line

    async def keys(self) -> AsyncIterator[objects.Key]:
        """The account's keys, all pages."""
        async for key in self.api.iterate_keys():
            yield key
