"""A renter's program with the client of openapi-python-client. Argument: the gateway's address."""

from __future__ import annotations

import sys
import time
from typing import Any

from dcp_api_client import AuthenticatedClient, Client
from dcp_api_client.api.artifacts_of_jobs import download_artifact, list_artifacts
from dcp_api_client.api.job_endpoints import get_job, get_job_output, list_own_jobs, submit_job
from dcp_api_client.api.renter_endpoints import register_renter, top_up_own_wallet
from dcp_api_client.models import (
    ContainerSpecInput,
    JobParamsInput,
    JobStateInput,
    JobTypeInput,
    RegisterRenterBody,
    SubmitJobBody,
    TopUpOwnWalletBody,
)

from tests.support.generated_clients.results import MODEL, PROMPT, show


def main(url: str) -> None:
    """Registers, submits, reads and downloads."""
    body = RegisterRenterBody(name="Acme AI", email="opc@example.com")
    renter: Any = register_renter.sync(client=Client(base_url=url), body=body)
    client = AuthenticatedClient(base_url=url, token=renter.api_key)
    top_up_own_wallet.sync(client=client, body=TopUpOwnWalletBody(amount_halala=5000))
    params = JobParamsInput(model=MODEL, prompt=PROMPT)
    job = SubmitJobBody(
        job_type=JobTypeInput.CUSTOM_CONTAINER,
        duration_minutes=3,
        params=params,
        container_spec=ContainerSpecInput(image="busybox"),
    )
    submitted: Any = submit_job.sync(client=client, body=job, idempotency_key="once")
    job_id = submitted.job.job_id
    found: Any = submitted
    while found.job.status not in ("completed", "failed"):
        time.sleep(0.1)
        found = get_job.sync(job_id, client=client)
    output: Any = get_job_output.sync(job_id, client=client)
    completed: Any = list_own_jobs.sync(client=client, status=JobStateInput.COMPLETED)
    files: Any = list_artifacts.sync(job_id, client=client)
    file: Any = download_artifact.sync(job_id, files.artifacts[0].name, client=client)
    refused: Any = get_job.sync("job-none", client=client)
    data = file.payload.read()
    show(
        found.job.status,
        output.response,
        [job.job_id for job in completed.jobs] == [job_id],
        data,
        refused.code,
    )


if __name__ == "__main__":
    main(sys.argv[1])
