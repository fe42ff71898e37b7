"""A renter's program with the models of datamodel-code-generator. Argument: the gateway's address."""

from __future__ import annotations

import sys
import time
from typing import Any

import dcp_models as dcp
import httpx

from tests.support.generated_clients.results import MODEL, PROMPT, show


def main(url: str) -> None:
    """Registers, submits, reads and downloads."""
    with httpx.Client(base_url=url) as http:

        def ask(model: Any, verb: str, path: str, **body: Any) -> Any:
            return model.model_validate_json(http.request(verb, path, json=body or None).content)

        renter = ask(
            dcp.RegisterRenterResponse,
            "POST",
            "/api/renters/register",
            name="Acme AI",
            email="dcg@example.com",
        )
        http.headers["x-renter-key"] = renter.api_key
        ask(dcp.TopUpOwnWalletResponse, "POST", "/api/renters/topup", amount_halala=5000)
        params = dcp.JobParamsInput(model=MODEL, prompt=PROMPT).model_dump(mode="json")
        kind = dcp.JobTypeInput.custom_container.value
        job = {
            "job_type": kind,
            "duration_minutes": 3,
            "params": params,
            "container_spec": {"image": "busybox"},
        }
        job_id = ask(dcp.SubmitJobResponse, "POST", "/api/jobs/submit", **job).job.job_id
        path = f"/api/jobs/{job_id}"
        while (found := ask(dcp.GetJobResponse, "GET", path).job).status.root not in ("completed", "failed"):
            time.sleep(0.1)
        output = ask(dcp.GetJobOutputResponse, "GET", f"{path}/output")
        completed = ask(dcp.ListOwnJobsResponse, "GET", "/api/jobs?status=completed")
        name = ask(dcp.ListArtifactsResponse, "GET", f"{path}/artifacts").artifacts[0].name
        data = http.get(f"{path}/artifacts/{name}").content
        refused = ask(dcp.Error, "GET", "/api/jobs/job-none")
    show(
        found.status.root,
        output.response,
        [job.job_id for job in completed.jobs] == [job_id],
        data,
        refused.code,
    )


if __name__ == "__main__":
    main(sys.argv[1])
