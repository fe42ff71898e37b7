"""The OpenAPI document is valid, complete, and built from the protos."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import orjson
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from gateway.errors import CODES
from gateway.languages import ARABIC
from gateway.openapi import comments, document
from gateway.routes import Binding, bindings, discover

PROTOS = Path(__file__).parents[2] / "protos" / "dcp" / "v1"
BINDINGS = list(bindings(discover()))


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return document(discover())


def operation(api: dict[str, Any], rpc: str) -> dict[str, Any]:
    """The entry of an RPC."""
    found = [o for path in api["paths"].values() for o in path.values() if o["operationId"] == rpc]
    return dict(found[0])


def checked(api: dict[str, Any], schema: dict[str, Any], value: Any) -> None:
    """Validates a value against a schema of the document."""
    jsonschema.Draft202012Validator(schema | {"components": api["components"]}).validate(value)


def test_a_public_validator_accepts_the_document(api: dict[str, Any]) -> None:
    OpenAPIV31SpecValidator(api).validate()


def test_every_rpc_with_an_http_route_appears(api: dict[str, Any]) -> None:
    texts = [path.read_text() for path in PROTOS.glob("*.proto")]
    declared = [
        (verb, path.replace("=**", ""))
        for text in texts
        for verb, path in re.findall(r'\b(get|post|put|patch|delete): "(/[^"]+)"', text)
    ]
    served = [(verb, path) for path, item in api["paths"].items() for verb in item]
    assert sorted(served) == sorted(declared) != []


def test_every_kind_of_event_is_a_webhook(api: dict[str, Any]) -> None:
    kinds = api["components"]["schemas"]["WebhookEvent"]["x-extensible-enum"]
    assert list(api["webhooks"]) == kinds != []
    for kind in api["webhooks"].values():
        sent = kind["post"]
        required = {parameter["name"] for parameter in sent["parameters"] if parameter["required"]}
        assert {"webhook-id", "webhook-timestamp", "webhook-signature", "DCP-Signature"} <= required
        name = sent["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        assert {"id", "type", "created_at", "data"} == api["components"]["schemas"][name]["properties"].keys()
        assert not {*sent["tags"]} & {tag["name"] for tag in api["tags"]}
        assert all(
            answer["description"] for answer in (sent, *sent["parameters"], *sent["responses"].values())
        )


def test_everything_has_a_description(api: dict[str, Any]) -> None:
    operations = [o for path in api["paths"].values() for o in path.values()]
    for entry in (*operations, *api["tags"], *api["components"]["schemas"].values()):
        assert entry["description"], entry
    for entry in operations:
        assert entry["summary"]
        assert entry["x-summary-ar"]
        assert all(r["description"] for r in entry["responses"].values())


def test_comments_are_those_of_the_protos() -> None:
    texts = comments()
    assert texts["dcp.v1.Job.job_id"] == "The job's id, `job-...`."
    assert texts["dcp.v1.JobService.GetJob"].startswith("Returns a job's state")
    assert texts["dcp.v1.JobState.JOB_STATE_RUNNING"] == "The job runs, and its time is metered."


@pytest.mark.parametrize("binding", BINDINGS, ids=lambda b: b.method.name)
def test_the_examples_fit_the_schemas(api: dict[str, Any], binding: Binding) -> None:
    entry = operation(api, binding.method.name)
    if binding.rule.example_request:
        content = entry["requestBody"]["content"]["application/json"]
        assert content["example"] == orjson.loads(binding.rule.example_request)
        checked(api, content["schema"], content["example"])
    contents = entry["responses"][str(binding.success_status)]["content"]
    if binding.rule.raw_body.head_field:
        assert list(contents) == ["application/octet-stream", "*/*"]
        assert "206" in entry["responses"]
    elif binding.is_events:
        assert list(contents) == ["text/event-stream"]
        assert "204" in entry["responses"]
        schema = contents["text/event-stream"]["x-item-schema"]
        checked(api, schema, orjson.loads(binding.rule.example_response))
    elif media_type := binding.rule.raw_body.media_type:
        assert list(contents) == [media_type]
    else:
        content = contents["application/json"]
        checked(api, content["schema"], content["example"])


def test_limits_and_required_fields_are_described(api: dict[str, Any]) -> None:
    schema = operation(api, "SubmitJob")["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["job_type"]
    assert schema["additionalProperties"] is False
    assert (schema["properties"]["priority"]["minimum"], schema["properties"]["priority"]["maximum"]) == (
        0,
        10,
    )
    command = api["components"]["schemas"]["ContainerSpecInput"]["properties"]["command"]
    assert (command["maxItems"], command["items"]["maxLength"]) == (256, 8192)
    with pytest.raises(jsonschema.ValidationError):
        checked(api, schema, {"job_type": "training", "duration_minutes": 3, "nonsense": 1})


def test_defaults_are_described(api: dict[str, Any]) -> None:
    parameters = {p["name"]: p["schema"] for p in operation(api, "ListOwnJobs")["parameters"]}
    assert parameters["page_size"]["default"] == 50
    body = operation(api, "RotateRenterKey")["requestBody"]["content"]["application/json"]["schema"]
    assert body["properties"]["grace_seconds"]["default"] == 86_400


INFERENCE = {"job_type": "llm-inference", "duration_minutes": 3}
TRAINING = {"job_type": "training", "duration_minutes": 3}
PROMPT = {"model": "m", "prompt": "Hello"}
TURNS = [{"role": "user", "content": "Hello"}]


@pytest.mark.parametrize(
    ("body", "fits"),
    [
        ({**TRAINING, "container_spec": {"image": "busybox"}}, True),
        ({**TRAINING, "container_spec": {"image": "busybox"}, "params": None, "priority": None}, True),
        (TRAINING, False),
        ({"job_type": None, "duration_minutes": 3}, False),
        ({**INFERENCE, "params": PROMPT}, True),
        ({**INFERENCE, "params": {"model": "m", "messages": TURNS}}, True),
        ({**INFERENCE, "params": {**PROMPT, "messages": []}}, True),
        ({**INFERENCE, "params": {**PROMPT, "messages": None}}, True),
        (INFERENCE, False),
        ({**INFERENCE, "params": None}, False),
        ({**INFERENCE, "params": {**PROMPT, "model": " "}}, False),
        ({**INFERENCE, "params": {"model": "m"}}, False),
        ({**INFERENCE, "params": {"model": "m", "prompt": " \n"}}, False),
        ({**INFERENCE, "params": {**PROMPT, "messages": TURNS}}, False),
        ({**INFERENCE, "job_type": "llm_inference", "params": PROMPT}, False),
        ({**INFERENCE, "params": {"model": "m", "messages": [{**TURNS[0], "role": "wizard"}]}}, False),
    ],
)
def test_null_and_conditions_between_fields_are_described(
    api: dict[str, Any], body: dict[str, Any], fits: bool
) -> None:
    schema = operation(api, "SubmitJob")["requestBody"]["content"]["application/json"]["schema"]
    if fits:
        checked(api, schema, body)
    else:
        with pytest.raises(jsonschema.ValidationError):
            checked(api, schema, body)


def test_response_fields_are_never_null(api: dict[str, Any]) -> None:
    properties = api["components"]["schemas"]["Job"]["properties"]
    assert all("null" not in str(schema.get("type", "")) for schema in properties.values())


def test_a_body_is_required_if_a_field_in_it_is(api: dict[str, Any]) -> None:
    assert operation(api, "SubmitJob")["requestBody"]["required"] is True
    assert operation(api, "RotateRenterKey")["requestBody"]["required"] is False


def test_a_parameter_names_the_parameter_that_it_needs(api: dict[str, Any]) -> None:
    needs = {
        parameter["name"]: parameter["x-needs"]
        for parameter in operation(api, "ListAuditEntries")["parameters"]
        if "x-needs" in parameter
    }
    assert needs == {"object_id": ["object"]}


def test_a_parameter_names_the_parameter_that_one_of_its_values_needs(api: dict[str, Any]) -> None:
    (needs,) = (
        parameter["x-needs-by-value"]
        for parameter in operation(api, "ListAvailableProviders")["parameters"]
        if "x-needs-by-value" in parameter
    )
    assert needs == {"tokens_per_second": ["model"], "first_token": ["model"]}


@pytest.mark.parametrize(
    ("rpc", "scopes", "english", "arabic"),
    [
        ("SubmitJob", ["inference"], "needs the scope `inference`.", "إلى النطاق `inference`."),
        (
            "GetOwnRenter",
            ["billing", "read"],
            "of the scopes `billing`, `read`.",
            "النطاقات `billing`, `read`.",
        ),
        ("CreateKey", [], "only the main key may call this.", "إلا المفتاح الرئيسي."),
        ("GetDashboard", None, "", ""),
    ],
)
def test_each_rpc_describes_the_scope_that_a_sub_key_needs(
    api: dict[str, Any], rpc: str, scopes: list[str] | None, english: str, arabic: str
) -> None:
    described = operation(api, rpc)
    assert described.get("x-scopes") == scopes
    assert described["description"].endswith(english)
    assert operation(document(discover(), ARABIC), rpc)["description"].endswith(arabic)
    assert ("needs" in described["description"].split("\n")[-1]) is bool(scopes)


def test_messages_of_daemons_and_responses_allow_unknown_fields(api: dict[str, Any]) -> None:
    schemas = api["components"]["schemas"]
    assert "additionalProperties" not in schemas["GpuStatusInput"]
    assert "additionalProperties" not in schemas["Job"]


def test_header_fields_are_parameters_and_not_in_the_body(api: dict[str, Any]) -> None:
    submit = operation(api, "SubmitJob")
    assert [(p["name"], p["in"]) for p in submit["parameters"]] == [("Idempotency-Key", "header")]
    assert (
        "idempotency_key" not in submit["requestBody"]["content"]["application/json"]["schema"]["properties"]
    )


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """All objects in a value, the value first."""
    if isinstance(schema, dict):
        yield schema
    for inner in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
        yield from parts(inner)


def reached(api: dict[str, Any], *starts: Any) -> dict[str, Any]:
    """The named schemas that the values refer to, directly or through others."""
    found: dict[str, Any] = {}
    waiting = [part for start in starts for part in parts(start)]
    while waiting:
        name = str(waiting.pop().get("$ref", "")).rpartition("/")[2]
        if name and name not in found:
            found[name] = api["components"]["schemas"][name]
            waiting += parts(found[name])
    return found


def test_responses_are_open_and_requests_are_closed(api: dict[str, Any]) -> None:
    """A client of today must accept the field and the value of tomorrow."""
    operations = [entry for path in api["paths"].values() for entry in path.values()]
    answers = reached(api, *(entry["responses"] for entry in operations))
    requests = reached(api, *([e.get("requestBody"), e["parameters"]] for e in operations))
    assert {"Job", "JobState", "GpuStatus", "Error"} <= answers.keys()
    assert {"JobStateInput", "JobTypeInput", "JobParamsInput"} <= requests.keys()
    assert answers.keys() & requests.keys() == set()
    for schema in answers.values():
        assert not any("enum" in part or part.get("additionalProperties") is False for part in parts(schema))
    assert all("x-extensible-enum" not in part for part in parts(requests))
    assert "completed" in answers["JobState"]["x-extensible-enum"]
    assert answers["JobState"]["description"].endswith("accept one that you do not know.")


def test_no_enum_has_two_values_that_generators_give_one_name(api: dict[str, Any]) -> None:
    for part in parts(api):
        values = [value for value in part.get("enum", ()) if isinstance(value, str)]
        assert len({re.sub(r"[^a-z0-9]", "", value.lower()) for value in values}) == len(values), values
    assert "`llm_inference`" in api["components"]["schemas"]["JobTypeInput"]["description"]


def test_conditions_stand_where_generators_skip_them(api: dict[str, Any]) -> None:
    schema = operation(api, "SubmitJob")["requestBody"]["content"]["application/json"]["schema"]
    assert "allOf" not in schema
    assert schema["if"] == {}
    assert schema["then"]["allOf"]


def test_all_statuses_of_an_output_are_described(api: dict[str, Any]) -> None:
    responses = operation(api, "GetJobOutput")["responses"]
    of_all_routes = {"400", "408", "429", "431", "500", "503", "504"}
    assert {"200", "202", "204", "401", "403", "404", "410", *of_all_routes} == set(responses)
    assert "image/*" in responses["200"]["content"]
    assert "content" not in responses["204"]
    assert "Retry-After" in responses["503"]["headers"]
    assert "Retry-After" in responses["202"]["headers"]


def test_security_follows_the_roles(api: dict[str, Any]) -> None:
    assert operation(api, "RegisterRenter")["security"] == [{}]
    assert {"adminToken": []} in operation(api, "GetDashboard")["security"]
    schemes = api["components"]["securitySchemes"]
    for path in api["paths"].values():
        for entry in path.values():
            assert {name for choice in entry["security"] for name in choice} <= schemes.keys()


def test_errors_have_every_code(api: dict[str, Any]) -> None:
    error = api["components"]["schemas"]["Error"]
    assert error["properties"]["code"]["x-extensible-enum"] == list(CODES)
    checked(api, error, {"error": "x", "code": "A_REASON_OF_NEXT_YEAR"})
    checked(api, error, {"error": "x", "code": "INSUFFICIENT_BALANCE", "shortfall_halala": 3})


async def test_the_document_is_served_once_and_then_revalidated_by_etag(gateway: httpx.AsyncClient) -> None:
    first = await gateway.get("/openapi.json")
    assert (first.status_code, first.json()) == (200, document(discover()))
    for known in (first.headers["etag"], f'"old", W/{first.headers["etag"]}', "*"):
        again = await gateway.get("/openapi.json", headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
    assert (await gateway.get("/openapi.json", headers={"if-none-match": '"old"'})).status_code == 200


async def test_what_the_document_refuses_the_gateway_refuses(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.post("/api/jobs/submit", json={"nonsense": 1})
    assert (answer.status_code, answer.json()["field"]) == (400, "nonsense")
