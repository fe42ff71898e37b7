"""JSON to message and back: nothing is lost, and nothing invalid gets through."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from typing import Any

import orjson
import pytest
from dcp.v1 import admin_pb2, gpus_pb2, jobs_pb2, providers_pb2, renters_pb2, sessions_pb2
from google.protobuf import descriptor_pb2, descriptor_pool, struct_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given, settings
from hypothesis import strategies as st

from common.json_form import is_cookie, message_writer
from gateway.bodies import parse_object
from gateway.errors import ApiError
from gateway.routes import bindings, discover
from gateway.transcode import body_reader, query_reader, single_text_reader

INTEGERS = {5: (-(2**31), 2**31 - 1), 3: (-(2**63), 2**63 - 1), 13: (0, 2**32 - 1), 4: (0, 2**64 - 1)}
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
TIMES = st.builds(
    lambda seconds, millis: {"seconds": seconds, "nanos": millis * 1_000_000},
    st.integers(-62_135_596_800, 253_402_300_799),
    st.integers(0, 999),
)
LENGTHS = st.builds(
    lambda sign, seconds, millis: {"seconds": sign * seconds, "nanos": sign * millis * 1_000_000},
    st.sampled_from([1, -1]),
    st.integers(0, 10**9),
    st.integers(0, 999),
)


def scalars(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of a single item of the field, as its message class takes it."""
    if field.message_type is not None:
        name = field.message_type.full_name
        well_known = {"google.protobuf.Timestamp": TIMES, "google.protobuf.Duration": LENGTHS}
        return well_known[name] if name in well_known else messages(field.message_type)
    if field.enum_type is not None:
        return st.sampled_from([value.number for value in field.enum_type.values if value.number])
    if field.type in INTEGERS:
        return st.integers(*INTEGERS[field.type])
    return {
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False, allow_infinity=False),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_STRING: TEXTS,
        FieldDescriptor.TYPE_BYTES: st.binary(max_size=8),
    }[field.type]


def values(field: FieldDescriptor) -> st.SearchStrategy[Any]:
    """Any value of the field."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entry = field.message_type.fields_by_name
        return st.dictionaries(scalars(entry["key"]), scalars(entry["value"]), max_size=3)
    return st.lists(scalars(field), max_size=3) if field.is_repeated else scalars(field)


def messages(message: Descriptor) -> st.SearchStrategy[dict[str, Any]]:
    """The fields of any message of the type. An enum without presence is always set to a known value."""
    needed = {f.name for f in message.fields if f.enum_type is not None and not f.has_presence}
    every = {f.name: values(f) for f in message.fields if not is_cookie(f)}
    chosen = {name: every.pop(name) for name in needed}
    return st.fixed_dictionaries(chosen, optional=every)


SERVED = sorted(
    {
        m.full_name: m for b in bindings(discover()) for m in (b.method.input_type, b.method.output_type)
    }.items()
)
MORE = [sessions_pb2.Welcome.DESCRIPTOR, sessions_pb2.JobOffer.DESCRIPTOR]


every_message = pytest.mark.parametrize("message", [m for _, m in SERVED] + MORE, ids=lambda m: m.name)


@every_message
@settings(max_examples=20)
@given(data=st.data())
def test_a_message_survives_the_way_to_json_and_back(message: Descriptor, data: st.DataObject) -> None:
    assert_survives(message, data)


@pytest.mark.slow
@every_message
@settings(max_examples=200)
@given(data=st.data())
def test_many_messages_survive_the_way_to_json_and_back(message: Descriptor, data: st.DataObject) -> None:
    assert_survives(message, data)


def assert_survives(message: Descriptor, data: st.DataObject) -> None:
    """Asserts that a drawn message is unchanged after its conversion to JSON and back."""
    before = GetMessageClass(message)(**data.draw(messages(message)))
    text = orjson.dumps(message_writer(message)(before))
    assert GetMessageClass(message)(**body_reader(message)(parse_object(text))) == before


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(sorted(f.name for f in jobs_pb2.SubmitJobRequest.DESCRIPTOR.fields))
            | st.sampled_from(["messages", "env", "role", "gpu_count"])
            | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(JSON_VALUES)
def test_any_json_value_is_read_or_refused(value: Any) -> None:
    message = jobs_pb2.SubmitJobRequest
    with suppress(ApiError):
        message(**body_reader(message.DESCRIPTOR)(parse_object(json.dumps(value).encode())))


@given(st.binary(max_size=40))
def test_bytes_that_are_not_a_json_object_are_refused(body: bytes) -> None:
    with suppress(ApiError):
        assert isinstance(parse_object(body), dict)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"null",
        b'"text"',
        b"3",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e400}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": 1} {}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_malformed_bodies_are_refused(body: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        parse_object(body)
    assert (refused.value.code, refused.value.status) == ("MALFORMED_JSON", 400)


def submit(**fields: Any) -> Any:
    """Reads a body of SubmitJob."""
    body = parse_object(json.dumps(fields).encode())
    return jobs_pb2.SubmitJobRequest(**body_reader(jobs_pb2.SubmitJobRequest.DESCRIPTOR)(body))


@pytest.mark.parametrize(
    ("fields", "code", "path"),
    [
        ({"jobType": "training"}, "UNKNOWN_FIELD", "jobType"),
        ({"": 1}, "UNKNOWN_FIELD", '""'),
        ({"params": {"messages": [{"rol": "user"}]}}, "UNKNOWN_FIELD", "params.messages[0].rol"),
        ({"params": {"messages": [{}, {"role": 3}]}}, "INVALID_FIELD", "params.messages[1].role"),
        ({"params": {"messages": [None]}}, "INVALID_FIELD", "params.messages[0]"),
        ({"params": {"messages": {}}}, "INVALID_FIELD", "params.messages"),
        ({"params": "text"}, "INVALID_FIELD", "params"),
        ({"params": {"max_tokens": True}}, "INVALID_FIELD", "params.max_tokens"),
        ({"params": {"max_tokens": "5"}}, "INVALID_FIELD", "params.max_tokens"),
        ({"params": {"max_tokens": 2**31}}, "INVALID_FIELD", "params.max_tokens"),
        ({"params": {"max_tokens": 1.5}}, "INVALID_FIELD", "params.max_tokens"),
        ({"params": {"temperature": "0"}}, "INVALID_FIELD", "params.temperature"),
        ({"params": {"temperature": False}}, "INVALID_FIELD", "params.temperature"),
        ({"provider_id": 2**63}, "INVALID_FIELD", "provider_id"),
        ({"provider_id": 2**70}, "INVALID_FIELD", "provider_id"),
        ({"provider_id": -(2.0**63) - 2048}, "INVALID_FIELD", "provider_id"),
        ({"job_type": "gaming"}, "INVALID_FIELD", "job_type"),
        ({"job_type": "unspecified"}, "INVALID_FIELD", "job_type"),
        ({"job_type": "JOB_TYPE_TRAINING"}, "INVALID_FIELD", "job_type"),
        ({"job_type": 3}, "INVALID_FIELD", "job_type"),
        ({"container_spec": {"command": "ls"}}, "INVALID_FIELD", "container_spec.command"),
        ({"container_spec": {"command": ["ls", 3]}}, "INVALID_FIELD", "container_spec.command[1]"),
        ({"container_spec": {"env": {"A": 1}}}, "INVALID_FIELD", "container_spec.env.A"),
        ({"container_spec": {"env": {"A": None}}}, "INVALID_FIELD", "container_spec.env.A"),
        ({"container_spec": {"env": ["A"]}}, "INVALID_FIELD", "container_spec.env"),
    ],
)
def test_error_names_the_wrong_field(fields: dict[str, Any], code: str, path: str) -> None:
    with pytest.raises(ApiError) as refused:
        submit(**fields)
    assert (refused.value.code, refused.value.facts["field"]) == (code, path)
    assert refused.value.text.startswith(path)


def test_the_error_of_an_enum_lists_what_is_allowed() -> None:
    with pytest.raises(ApiError) as refused:
        submit(job_type="gaming")
    assert "llm-inference, image_generation, training" in refused.value.text
    assert "unspecified" not in refused.value.text


def test_error_names_the_type_of_the_value_and_never_quotes_it() -> None:
    with pytest.raises(ApiError) as refused:
        submit(provider_id="dcp-renter-secret")
    assert refused.value.text == "provider_id: expected an integer, got a string."


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"provider_id": 3.0}, {"provider_id": 3}),
        ({"provider_id": None, "params": None}, {}),
        ({"duration_minutes": 3}, {"duration_minutes": 3.0}),
        ({"params": {}}, {"params": {}}),
        ({"priority": 0}, {"priority": 0}),
        ({"job_type": "llm_inference"}, {"job_type": 1}),
        ({"job_type": "llm-inference"}, {"job_type": 1}),
    ],
)
def test_tolerated_inputs(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert submit(**fields) == jobs_pb2.SubmitJobRequest(**expected)


def test_unknown_keys_of_a_daemon_are_dropped_but_their_kind_is_checked() -> None:
    read = body_reader(providers_pb2.HeartbeatRequest.DESCRIPTOR)
    status = {"gpu_name": "RTX 4090", "fan": 3, "all_gpus": [{"index": 1, "fan": 3}]}
    assert read({"gpu_status": status}) == {
        "gpu_status": {"gpu_name": "RTX 4090", "all_gpus": [{"index": 1}]}
    }
    wrong: Any
    for wrong in ("busy", 3, [], True):
        with pytest.raises(ApiError, match="INVALID_FIELD"):
            read({"gpu_status": wrong})


def test_defaults_are_written_and_what_is_absent_is_not() -> None:
    written = message_writer(jobs_pb2.Job.DESCRIPTOR)(jobs_pb2.Job(status=jobs_pb2.JOB_STATE_RUNNING))
    assert written["status"] == "running"
    assert (written["cost_halala"], written["cancel_requested"], written["job_id"]) == (0, False, "")
    assert written.keys().isdisjoint({"provider_id", "created_at", "billing", "failure_reason"})
    assert message_writer(gpus_pb2.GpuStatus.DESCRIPTOR)(gpus_pb2.GpuStatus()) == {
        "all_gpus": [],
        "empty_mig_gpus": [],
    }


def test_enums_are_written_by_the_rule_of_their_options() -> None:
    job = jobs_pb2.Job(
        job_type=jobs_pb2.JOB_TYPE_LLM_INFERENCE, failure_reason=jobs_pb2.FAILURE_REASON_BAD_PARAMS
    )
    written = message_writer(jobs_pb2.Job.DESCRIPTOR)(job)
    assert (written["job_type"], written["failure_reason"]) == ("llm-inference", "BAD_PARAMS")


def test_an_enum_value_of_a_newer_server_does_not_break_the_answer() -> None:
    job = jobs_pb2.Job.FromString(bytes([2 << 3, 99]))
    assert message_writer(jobs_pb2.Job.DESCRIPTOR)(job)["status"] == "99"


def test_times_are_written_in_rfc_3339_with_milliseconds() -> None:
    job = jobs_pb2.Job(created_at={"seconds": 1_700_000_000, "nanos": 999_999_999})  # type: ignore[arg-type]
    assert message_writer(jobs_pb2.Job.DESCRIPTOR)(job)["created_at"] == "2023-11-14T22:13:20.999Z"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14t22:13:20.5z", 1_700_000_000),
        ("2023-11-15T01:13:20+03:00", 1_700_000_000),
        ("0001-01-01T00:00:00Z", -62_135_596_800),
        ("0001-01-01T00:00:00+01:00", None),
        ("9999-12-31T23:59:59-01:00", None),
        ("2023-11-14", None),
        ("2023-11-14T22:13:20", None),
        ("2023-02-30T00:00:00Z", None),
        ("2023-11-14T22:13:60Z", None),
        ("٢٠٢٣-11-14T22:13:20Z", None),
        ("now", None),
    ],
)
def test_times_are_read_from_rfc_3339(text: str, seconds: int | None) -> None:
    read = single_text_reader(jobs_pb2.Job.DESCRIPTOR.fields_by_name["created_at"], "created_at")
    if seconds is None:
        with pytest.raises(ApiError, match="INVALID_FIELD"):
            read(text)
    else:
        assert read(text)["seconds"] == seconds


@pytest.mark.parametrize("text", ["a", "a===", "ab cd", "é", base64.b64encode(b"ab").decode()[:-1]])
def test_bytes_must_be_base64(text: str) -> None:
    with pytest.raises(ApiError, match="INVALID_FIELD"):
        body_reader(jobs_pb2.GetJobOutputResponse.DESCRIPTOR)({"data": text})


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_numbers_that_json_does_not_have_are_refused(number: float) -> None:
    with pytest.raises(ApiError, match="INVALID_FIELD"):
        body_reader(jobs_pb2.Usage.DESCRIPTOR)({"tokens_per_second": number})


def test_fields_from_elsewhere_are_unknown_in_body_and_query() -> None:
    message = renters_pb2.TopUpOwnWalletRequest.DESCRIPTOR
    with pytest.raises(ApiError, match="UNKNOWN_FIELD"):
        body_reader(message, ["amount_halala"])({"amount_halala": 1})
    with pytest.raises(ApiError, match="UNKNOWN_FIELD"):
        query_reader(message, ["amount_halala"])({"amount_halala": ["1"]})


def test_query_fields_of_maps_and_lists_of_messages_do_not_exist() -> None:
    read = query_reader(admin_pb2.ListWithdrawalsResponse.DESCRIPTOR)
    assert read({"pagination.page": ["3"]}) == {"pagination": {"page": 3}}
    with pytest.raises(ApiError, match="UNKNOWN_FIELD"):
        read({"pending": ["3"]})


def tree_file() -> Any:
    """A proto with a recursive message, a oneof and a map of messages."""
    file = descriptor_pb2.FileDescriptorProto(name="tree.proto", package="tree", syntax="proto3")
    node = file.message_type.add(name="Node")
    node.field.add(name="child", number=1, type=11, label=1, type_name=".tree.Node")
    node.oneof_decl.add(name="choice")
    node.field.add(name="left", number=2, type=9, label=1, oneof_index=0)
    node.field.add(name="right", number=3, type=9, label=1, oneof_index=0)
    entry = node.nested_type.add(name="NamedEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=5, label=1)
    entry.field.add(name="value", number=2, type=11, label=1, type_name=".tree.Node")
    node.field.add(name="named", number=4, type=11, label=3, type_name=".tree.Node.NamedEntry")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindMessageTypeByName("tree.Node")


NODE: Descriptor = tree_file()


def test_a_recursive_message_is_read_and_written() -> None:
    value = {"child": {"child": {"left": "a", "named": {}}, "named": {"7": {"named": {}}}}, "named": {}}
    message = GetMessageClass(NODE)(**body_reader(NODE)(value))
    assert message_writer(NODE)(message) == value


def test_excessive_nesting_is_refused() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"child": deep}
    with pytest.raises(ApiError, match="MALFORMED_JSON"):
        body_reader(NODE)(deep)
    while deep:
        deep = deep["child"]


def test_two_fields_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ApiError) as refused:
        body_reader(NODE)({"child": {"left": "a", "right": "b"}})
    assert refused.value.facts == {"field": "child.right"}


def test_keys_of_maps_are_read_as_their_type() -> None:
    with pytest.raises(ApiError) as refused:
        body_reader(NODE)({"named": {"seven": {}}})
    assert refused.value.facts == {"field": "named.seven"}


def test_a_struct_is_not_a_special_case() -> None:
    """google.protobuf.Struct contains itself through maps and lists, and its compilation must end."""
    assert message_writer(struct_pb2.Struct.DESCRIPTOR)(struct_pb2.Struct()) == {"fields": {}}
