"""A near miss is answered with what was probably meant, and with nothing that the caller sent."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from common.nearest import nearest
from gateway.routes import bindings, discover

SUBMIT = "/api/jobs/submit"


@pytest.mark.parametrize(
    ("body", "field", "meant"),
    [
        ({"jobtype": "training"}, "jobtype", "job_type"),
        ({"jobType": "training"}, "jobType", "job_type"),
        ({"duration": 3}, "duration", "duration_minutes"),
        ({"model": "m"}, "model", "params.model"),
        ({"messages": []}, "messages", "params.messages"),
        ({"image": "busybox"}, "image", "container_spec.image"),
        ({"params": {"maxTokens": 5}}, "params.maxTokens", "max_tokens"),
        ({"params": {"messages": [{"rol": "user"}]}}, "params.messages[0].rol", "role"),
    ],
)
async def test_an_unknown_field_of_a_body_names_the_nearest(
    gateway: httpx.AsyncClient, body: dict[str, Any], field: str, meant: str
) -> None:
    answer = await gateway.post(SUBMIT, json=body)
    assert (answer.status_code, answer.json()["field"]) == (400, field)
    assert answer.json()["error"] == f"{field}: there is no such field; did you mean {meant}?"


async def test_a_field_like_no_other_is_only_refused(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.post(SUBMIT, json={"xyzzy" * 1000: 1})
    assert answer.json()["error"] == f"{'xyzzy' * 20}: there is no such field."


async def test_an_unknown_parameter_names_the_nearest(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/api/renters/available-providers?gpumodel=RTX")
    assert answer.json()["error"] == "gpumodel: there is no such field; did you mean gpu_model?"


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/jobs/submit", "/api/jobs/submit"),
        ("/api/job/submit", "/api/jobs/submit"),
        ("/api/jobs/submit/", "/api/jobs/submit"),
        ("/api/jobs/job-1/outputs", "/api/jobs/{job_id}/output"),
        ("/api/renter/me", "/api/renters/me"),
        ("/providers/me", "/api/providers/me"),
        ("/api/dc1/job/submit", "/api/dc1/jobs/submit"),
        ("/openapi.jsn", "/openapi.json"),
    ],
)
@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_an_unknown_path_names_the_nearest_route(
    gateway: httpx.AsyncClient, path: str, meant: str, verb: str
) -> None:
    answer = await gateway.request(verb, path)
    assert (answer.status_code, answer.json()["code"]) == (404, "ROUTE_NOT_FOUND")
    assert f"did you mean {meant}? " in answer.json()["error"]


@pytest.mark.parametrize(
    "path", ["/v9/other/things", "/wp-login.php", "/" + "a/" * 5000, "/api/x%0d%0a", "/\u202e"]
)
async def test_a_path_like_no_other_is_only_refused(gateway: httpx.AsyncClient, path: str) -> None:
    answer = await gateway.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"] == "No route has this path; see /openapi.json."


@pytest.mark.parametrize("binding", list(bindings(discover())), ids=lambda b: f"{b.verb} {b.path}")
async def test_another_method_of_a_known_path_is_405_with_those_it_accepts(
    gateway: httpx.AsyncClient, binding: Any
) -> None:
    answer = await gateway.request("PATCH", binding.path.replace("{", "").replace("}", ""))
    told = answer.json()
    if binding.path.startswith("/v1/"):  # in the form of OpenAI's API
        told = {"code": told["error"]["reason"], "error": told["error"]["message"]}
    assert (answer.status_code, told["code"]) == (405, "METHOD_NOT_ALLOWED")
    assert binding.verb in answer.headers["allow"].split(", ")
    assert answer.headers["allow"] in told["error"]


def test_a_name_of_any_length_is_compared_by_its_beginning() -> None:
    assert nearest("job_typ" + "e" * 1_000_000, ["job_type"]) == []
