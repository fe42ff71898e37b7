"""GPU reports: no figure is invented or lost, and the rows of every release can be read."""

from __future__ import annotations

from dataclasses import fields

import pytest
from dcp.v1 import gpus_pb2
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from server.domain.gpus import Gpu, GpuReport, GpuState, from_plain, to_plain
from server.rpc import convert


def messages(message: type[Message], **items: st.SearchStrategy[Message]) -> st.SearchStrategy[Message]:
    """Messages with any of their fields set, also to values that differ in meaning from an unset field."""
    values: dict[str, st.SearchStrategy[object]] = {}
    for field in message.DESCRIPTOR.fields:
        if field.message_type is None:
            kind = field.cpp_type
            text, number = st.sampled_from(["", "8.9"]), st.integers(0, 9)
            value = text if kind == field.CPPTYPE_STRING else number
            value = st.booleans() if kind == field.CPPTYPE_BOOL else value
            values[field.name] = st.lists(number, max_size=3) if field.is_repeated else value
    values |= {name: st.lists(item, max_size=3) for name, item in items.items()}
    return st.fixed_dictionaries({}, optional=values).map(lambda given: message(**given))


STATUSES = messages(gpus_pb2.GpuStatus, all_gpus=messages(gpus_pb2.GpuDevice))


@given(STATUSES)
def test_report_has_every_field_of_its_message_and_of_its_row(message: gpus_pb2.GpuStatus) -> None:
    report = convert.gpu_report(message)
    assert convert.gpu_status(report) == message
    assert from_plain(to_plain(report)) == report
    assert bool(report) == bool(message.ListFields())


def test_fields_are_those_of_the_messages() -> None:
    for type_, message in ((Gpu, gpus_pb2.GpuDevice), (GpuReport, gpus_pb2.GpuStatus)):
        assert {field.name for field in fields(type_)} == set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize("state", GpuState)
def test_states_have_the_numbers_of_the_proto(state: GpuState) -> None:
    number = gpus_pb2.GpuState.Value(f"GPU_STATE_{state.name}")
    assert to_plain(GpuReport(all_gpus=(Gpu(state=state),))) == {"all_gpus": [{"state": number}]}


@pytest.mark.parametrize(
    ("state", "is_healthy"), [(None, True), (0, True), (1, True), (2, False), (3, False), (9, True)]
)
def test_only_a_gpu_that_failed_or_is_unknown_is_not_healthy(state: int | None, is_healthy: bool) -> None:
    (gpu,) = from_plain({"all_gpus": [{} if state is None else {"state": state}]}).gpus
    assert gpu.is_healthy is is_healthy


def test_row_of_another_release_is_read_without_its_unknown_fields() -> None:
    row = {"gpu_name": "L4", "of_a_newer": 1, "all_gpus": [{"uuid": "a", "state": 2, "of_a_newer": [1]}]}
    assert from_plain(row) == GpuReport(gpu_name="L4", all_gpus=(Gpu(uuid="a", state=GpuState.FAILED),))


def test_report_without_a_list_describes_its_first_gpu() -> None:
    report = GpuReport(gpu_name="L4", temp_c=40, driver_version="550")
    assert report.gpus == (Gpu(gpu_name="L4", temp_c=40),)


def test_hottest_gpu_is_found_at_the_top_and_in_the_list() -> None:
    assert GpuReport(gpu_name="L4").hottest_c is None
    assert GpuReport(temp_c=0).hottest_c == 0
    assert GpuReport(temp_c=50, all_gpus=(Gpu(temp_c=50), Gpu(), Gpu(temp_c=61.5))).hottest_c == 61.5
