"""A renter's program with the client of openapi-generator. Argument: the gateway's address."""

from __future__ import annotations

import sys
import time

import openapi_client as dcp

from tests.support.generated_clients.results import MODEL, PROMPT, show


def main(url: str) -> None:
    """Registers, submits, reads and downloads."""
    settings = dcp.Configuration(host=url)
    client = dcp.ApiClient(settings)
    renters, jobs, files = (
        dcp.RenterEndpointsApi(client),
        dcp.JobEndpointsApi(client),
        dcp.ArtifactsOfJobsApi(client),
    )
    renter = renters.register_renter(dcp.RegisterRenterRequest(name="Acme AI", email="ogc@example.com"))
    settings.api_key["renterKey"] = renter.api_key
    renters.top_up_own_wallet(dcp.TopUpOwnWalletRequest(amount_halala=5000))
    params = dcp.JobParamsInput(model=MODEL, prompt=PROMPT)
    job = dcp.SubmitJobRequest(
        job_type=dcp.JobTypeInput.CUSTOM_CONTAINER,
        duration_minutes=3,
        params=params,
        container_spec=dcp.ContainerSpecInput(image="busybox"),
    )
    job_id = jobs.submit_job(job, idempotency_key="once").job.job_id
    while (found := jobs.get_job(job_id).job).status not in ("completed", "failed"):
        time.sleep(0.1)
    output = jobs.get_job_output(job_id)
    completed = jobs.list_own_jobs(status=dcp.JobStateInput.COMPLETED)
    data = files.download_artifact(job_id, files.list_artifacts(job_id).artifacts[0].name)
    try:
        jobs.get_job("job-none")
    except dcp.exceptions.NotFoundException as error:
        code = error.data.code
    show(found.status, output.response, [job.job_id for job in completed.jobs] == [job_id], bytes(data), code)


if __name__ == "__main__":
    main(sys.argv[1])
