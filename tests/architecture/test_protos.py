"""The protos as documentation and as a contract: options, examples, lint, and breaking changes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import google.api
import pytest
from dcp.v1 import errors_pb2, options_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from tests.architecture.tools import ROOT, run
from tests.server.rpc.methods import METHODS, field_rule, rule

BASELINE = Path(__file__).parent / "baseline.binpb"
GOOGLEAPIS = ("google/api/annotations.proto", "google/api/http.proto", "google/rpc/code.proto")
HTTP = {name: m for name, m in METHODS.items() if m.GetOptions().HasExtension(annotations_pb2.http)}


@pytest.mark.parametrize("name", METHODS)
def test_every_rpc_has_roles_and_summaries_in_both_languages(name: str) -> None:
    options = rule(METHODS[name])
    assert options.roles
    assert options_pb2.ROLE_UNSPECIFIED not in options.roles
    assert options.summary.en.strip()
    assert re.search(r"[\u0600-\u06ff]", options.summary.ar)
    service = METHODS[name].containing_service.GetOptions().Extensions[options_pb2.service]
    assert service.title.en
    assert service.title.ar


# Served by `gateway.doors`, in the forms of other APIs.
BEHIND_DOORS = {
    *("ChatService.SubmitChat", "ChatService.SubmitEmbeddings"),
    *(f"BatchService.{name}File" for name in ("Create", "Append", "Finish", "Read")),
    *("BatchService.CreateBatch", "BatchService.AddBatchLines"),
    *(f"BatchService.{name}BatchCheck" for name in ("Resume", "Take", "End")),
    "BatchService.ListBatchResults",
}


@pytest.mark.parametrize("name", [name for name in METHODS if name not in HTTP])
def test_rpc_without_a_route_is_a_stream_or_behind_a_door(name: str) -> None:
    assert METHODS[name].client_streaming or name in BEHIND_DOORS


PAGED = [name for name, method in METHODS.items() if "page_size" in method.input_type.fields_by_name]


# Walked by id in the order of ids, and by an opaque cursor in any other.
IN_OTHER_ORDERS = {"RenterService.ListAvailableProviders"}


@pytest.mark.parametrize("name", PAGED)
def test_every_list_is_walked_by_cursor(name: str) -> None:
    request, response = METHODS[name].input_type, METHODS[name].output_type
    nexts = [field for field in response.fields if field.name.startswith("next_")]
    assert len(nexts) == (2 if name in IN_OTHER_ORDERS else 1)
    cursors = [request.fields_by_name[field.name.removeprefix("next_")] for field in nexts]
    assert [cursor.type for cursor in cursors] == [field.type for field in nexts]
    numbered = request.fields_by_name.get("page")
    assert numbered is None or numbered in cursors or numbered.GetOptions().deprecated


def wire_names(data: Any, message: Any) -> Any:
    """The API's JSON with the enum names that protobuf's own parser expects."""
    fields = {field.name: field for field in message.fields}
    out = {}
    for key, value in data.items():
        field = fields.get(key)
        assert field is not None, f"{message.name} has no field {key}"
        out[key] = [_wire(item, field) for item in value] if isinstance(value, list) else _wire(value, field)
    return out


def _wire(value: Any, field: FieldDescriptor) -> Any:
    if field.enum_type is not None:
        prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", field.enum_type.name).upper() + "_"
        in_capitals = field.enum_type.GetOptions().Extensions[options_pb2.enum].upper_case
        spell = str.upper if in_capitals else str.lower
        spellings = {
            known.GetOptions().Extensions[options_pb2.value].json
            or spell(known.name.removeprefix(prefix)): known.name
            for known in field.enum_type.values
        }
        assert value in spellings, f"{value} is no {field.enum_type.name}"
        return spellings[value]
    if field.message_type is not None and isinstance(value, dict):
        return value if field.message_type.GetOptions().map_entry else wire_names(value, field.message_type)
    return value


@pytest.mark.parametrize("name", HTTP)
def test_example_of_a_request_is_a_valid_request(name: str) -> None:
    method = HTTP[name]
    text = rule(method).example_request
    http = method.GetOptions().Extensions[annotations_pb2.http]
    required = {field.name for field in method.input_type.fields if field_rule(field).required}
    in_path = set(re.findall(r"{(\w+)(?:=\*\*)?}", http.get or http.post or http.put or http.delete))
    if not text:
        assert required <= in_path, f"{name} needs {required - in_path} and shows no example"
        return
    data = json.loads(text)
    data.pop("api_key", None)
    assert required - in_path <= set(data)
    ParseDict(wire_names(data, method.input_type), GetMessageClass(method.input_type)())


@pytest.mark.parametrize("name", HTTP)
def test_example_of_a_response_is_a_valid_response(name: str) -> None:
    method = HTTP[name]
    data = json.loads(rule(method).example_response)
    ParseDict(wire_names(data, method.output_type), GetMessageClass(method.output_type)())
    assert data, f"{name} shows an empty answer"


@pytest.mark.parametrize("name", HTTP)
def test_route_is_under_a_root_of_the_api_and_its_path_names_fields(name: str) -> None:
    http = HTTP[name].GetOptions().Extensions[annotations_pb2.http]
    path = http.get or http.post or http.put or http.delete
    assert path.startswith(("/api/", "/v1/"))
    assert set(re.findall(r"{(\w+)}", path)) <= {field.name for field in HTTP[name].input_type.fields}
    raw = rule(HTTP[name]).raw_request
    has_fields = http.post and path != "/api/accounts/lost-key/cancel"
    assert http.body == ("*" if has_fields else raw.data_field)
    assert bool(raw.data_field) == bool(http.put), "only what is put is raw bytes"


@pytest.mark.parametrize("name", HTTP)
def test_every_post_declares_how_a_repeated_request_is_handled(name: str) -> None:
    """A new POST must declare it: by an Idempotency-Key, or by the nature of the method."""
    method, options = HTTP[name], rule(HTTP[name])
    http = method.GetOptions().Extensions[annotations_pb2.http]
    assert bool(http.post or http.put or http.delete) == (options.repeat != options_pb2.REPEAT_UNSPECIFIED)
    keys = [field.name for field in method.input_type.fields if field_rule(field).header == "Idempotency-Key"]
    assert keys == (["idempotency_key"] if options.repeat == options_pb2.REPEAT_KEYED else [])
    clashes = errors_pb2.ERROR_REASON_IDEMPOTENCY_CLASH in options.reasons
    assert clashes == (options.repeat == options_pb2.REPEAT_KEYED)


def test_every_rpc_has_its_own_route() -> None:
    routes = []
    for method in HTTP.values():
        http = method.GetOptions().Extensions[annotations_pb2.http]
        routes.append((http.WhichOneof("pattern"), http.get or http.post or http.put or http.delete))
    assert len(set(routes)) == len(routes)


def collect_messages(message: Any, collected: dict[str, Any]) -> None:
    """Collects a message and all messages within it."""
    if message.full_name in collected or not message.full_name.startswith("dcp.v1."):
        return
    collected[message.full_name] = message
    for field in message.fields:
        if field.message_type is not None:
            collect_messages(field.message_type, collected)


def test_every_repeated_field_and_text_of_a_request_has_a_limit() -> None:
    collected: dict[str, Any] = {}
    for method in METHODS.values():
        collect_messages(method.input_type, collected)
    unlimited = []
    for message in collected.values():
        if message.GetOptions().map_entry:
            continue
        for field in message.fields:
            limits = field_rule(field)
            if field.is_repeated and not limits.HasField("max_items"):
                unlimited.append(field.full_name)
            if field.type == FieldDescriptor.TYPE_STRING and not limits.HasField("max_length"):
                unlimited.append(field.full_name)
    assert unlimited == []


# buf, offline: our protos and the files that they import from googleapis, as two modules of a workspace.


def workspace(folder: Path) -> Path:
    """A copy of the protos with googleapis beside them, under the rules of buf.yaml."""
    shutil.copytree(ROOT / "protos", folder / "protos")
    include = Path(next(iter(google.api.__path__))).parent.parent
    for name in GOOGLEAPIS:
        target = folder / "googleapis" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(include / name, target)
    rules = (ROOT / "buf.yaml").read_text()
    modules = "modules:\n  - path: protos\n"
    assert modules in rules
    second = "  - path: googleapis\n    lint: {ignore: [googleapis]}\n    breaking: {ignore: [googleapis]}\n"
    (folder / "buf.yaml").write_text(rules.replace(modules, modules + second))
    return folder


def buf(folder: Path, *arguments: str | Path) -> tuple[int, str]:
    done = run("buf", *arguments, cwd=folder)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def protos(tmp_path: Path) -> Path:
    return workspace(tmp_path)


def test_protos_pass_lint(protos: Path) -> None:
    assert buf(protos, "lint") == (0, "")


def test_protos_are_formatted(protos: Path) -> None:
    assert buf(protos, "format", "protos", "--diff", "--exit-code") == (0, "")


def test_no_breaking_change_since_the_baseline(protos: Path) -> None:
    """Old clients and daemons must work with the current protos.

    The baseline is the image of the protos at the last release. To renew it, at a release and
    never to silence this test, run ``python -m tests.architecture.renew_baseline``.
    """
    assert buf(protos, "breaking", "protos", "--against", BASELINE) == (0, "")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("int64 postings_sum_halala = 3;", "int64 postings_sum_halala = 30;", "postings_sum_halala"),
        ("int64 postings_sum_halala = 3;", "string postings_sum_halala = 3;", "changed type"),
        ("int64 postings_sum_halala = 3;", "int64 sum_halala = 3;", "name"),
    ],
    ids=["renumbered", "another type", "renamed"],
)
def test_check_for_breaking_changes_can_fail(protos: Path, old: str, new: str, message: str) -> None:
    proto = protos / "protos/dcp/v1/ledger.proto"
    assert old in proto.read_text()
    proto.write_text(proto.read_text().replace(old, new))
    status, output = buf(protos, "breaking", "protos", "--against", BASELINE)
    assert status == 100
    assert message in output


def test_lint_can_fail(protos: Path) -> None:
    proto = protos / "protos/dcp/v1/ledger.proto"
    proto.write_text(proto.read_text().replace("// The number of transfers in the ledger.\n", ""))
    status, output = buf(protos, "lint")
    assert status == 100
    assert "transfers" in output


def test_baseline_is_an_image_of_the_same_package() -> None:
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    files = FileDescriptorSet.FromString(BASELINE.read_bytes())
    described = {file.name for file in files.file if file.package == "dcp.v1"}
    assert described >= {"dcp/v1/jobs.proto", "dcp/v1/sessions.proto"}


def test_list_of_methods_is_complete() -> None:
    """The other tests are generated from this list, so it must not become empty unnoticed."""
    assert len(HTTP) >= 15
    assert all(isinstance(method, MethodDescriptor) for method in METHODS.values())
