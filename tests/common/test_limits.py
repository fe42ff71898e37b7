"""Messages are made to fit the limits of the contract: what breaks one costs itself and nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
from dcp.v1 import gpus_pb2, honesty_pb2, options_pb2, sessions_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from common.limits import fit
from server.rpc.validate import validate

Device = gpus_pb2.GpuDevice
HELLO: dict[str, Any] = {"boot_id": "b", "protocol_version": 1, "slots": 1}


@pytest.mark.parametrize(
    ("device", "field"),
    [
        (Device(gpu_util_pct=101), "gpu_util_pct"),
        (Device(gpu_util_pct=4294967295), "gpu_util_pct"),
        (Device(power_w=4294967.295), "power_w"),
        (Device(temp_c=4294967295), "temp_c"),
        (Device(temp_c=-273), "temp_c"),
        (Device(temp_c=math.nan), "temp_c"),
        (Device(power_w=math.inf), "power_w"),
        (Device(gpu_vram_mib=2**44), "gpu_vram_mib"),
        (Device(foreign_memory_mib=2**44), "foreign_memory_mib"),
        (Device(ecc_volatile_uncorrected=-1), "ecc_volatile_uncorrected"),
        (Device(last_xid=-5), "last_xid"),
    ],
)
def test_figure_out_of_its_range_is_left_out_alone(device: Device, field: str) -> None:
    device.uuid, device.persistence_mode = "GPU-a", True
    message = sessions_pb2.DaemonMessage(
        heartbeat=sessions_pb2.SessionHeartbeat(
            sequence=1, gpu_status=gpus_pb2.GpuStatus(gpu_count=1, all_gpus=[device])
        )
    )
    faults = fit(message)
    assert list(faults) == [f"heartbeat.gpu_status.all_gpus[0].{field}"]
    (left,) = message.heartbeat.gpu_status.all_gpus
    assert not left.HasField(field)  # type: ignore[arg-type]
    assert (left.uuid, left.persistence_mode, message.heartbeat.gpu_status.gpu_count) == ("GPU-a", True, 1)
    validate(message.heartbeat)


def test_text_is_cut_and_a_list_too() -> None:
    tests = [honesty_pb2.SelfTest(name="e", reason="x" * 501, models=["m"] * 201)] * 51
    models = [sessions_pb2.ServedModel(name=f"m{number}") for number in range(201)]
    hello = sessions_pb2.Hello(**HELLO, models=models, self_tests=honesty_pb2.SelfTestReport(tests=tests))
    assert fit(hello)["models"] == "has 201 entries; at most 200 are allowed"
    assert [model.name for model in hello.models] == [f"m{number}" for number in range(200)]
    assert {len(test.reason) for test in hello.self_tests.tests} == {500}
    assert {len(test.models) for test in hello.self_tests.tests} == {200}
    validate(hello)


def test_model_whose_name_is_too_long_or_empty_goes_since_a_cut_name_is_another() -> None:
    names = ["good", "x" * 301, "", "better"]
    update = sessions_pb2.CapacityUpdate(models=[sessions_pb2.ServedModel(name=name) for name in names])
    assert {"models[1].name", "models[2]"} <= fit(update).keys()
    assert [model.name for model in update.models] == ["good", "better"]
    validate(update)


def test_message_that_keeps_its_limits_is_not_changed() -> None:
    device = Device(
        uuid="GPU-a", gpu_util_pct=100, temp_c=-100, throttle_reasons=[gpus_pb2.THROTTLE_REASON_POWER_CAP]
    )
    hello = sessions_pb2.Hello(**HELLO, gpu_status=gpus_pb2.GpuStatus(all_gpus=[device]))
    before = hello.SerializeToString()
    assert fit(hello) == {}
    assert hello.SerializeToString() == before


def fields_of(descriptor: Descriptor, seen: set[str]) -> Iterator[FieldDescriptor]:
    if descriptor.full_name in seen or not descriptor.full_name.startswith("dcp.v1."):
        return
    seen.add(descriptor.full_name)
    for field in descriptor.fields:
        yield field
        if field.message_type is not None:
            yield from fields_of(field.message_type, seen)


def test_daemons_messages_use_no_limit_that_cannot_be_kept_by_cutting() -> None:
    """A new kind of limit in a daemon's message must be taught to `common.limits` first."""
    for field in fields_of(sessions_pb2.DaemonMessage.DESCRIPTOR, set()):
        rule = field.GetOptions().Extensions[options_pb2.field]
        known = {"required", "max_length", "minimum", "maximum", "max_items", "shown", "unit"}
        assert {option.name for option, _ in rule.ListFields()} <= known, field.full_name
        is_map = field.message_type is not None and field.message_type.GetOptions().map_entry
        assert not is_map, field.full_name


def spoil(message: Message, draw: Any) -> None:
    """Fills every field with what may break its limit."""
    for field in message.DESCRIPTOR.fields:
        value: Any = None
        if field.message_type is not None:
            if field.message_type.full_name.startswith("dcp.v1."):
                targets = [getattr(message, field.name)]
                if field.is_repeated:
                    targets = [targets[0].add() for _ in range(draw(st.integers(0, 2)))]
                for target in targets:
                    spoil(target, draw)
            continue
        if field.type in (FieldDescriptor.TYPE_DOUBLE, FieldDescriptor.TYPE_FLOAT):
            value = draw(st.floats())
        elif field.type == FieldDescriptor.TYPE_INT32:
            value = draw(st.integers(-(2**31), 2**31 - 1))
        elif field.type == FieldDescriptor.TYPE_INT64:
            value = draw(st.integers(-(2**63), 2**63 - 1))
        elif field.type == FieldDescriptor.TYPE_STRING:
            value = draw(st.sampled_from(["", "a", "a\0b", "x" * 3000]))
        if value is not None and field.is_repeated:
            getattr(message, field.name).extend([value] * draw(st.sampled_from([0, 1, 300])))
        elif value is not None:
            setattr(message, field.name, value)


@given(st.data())
def test_whatever_a_machine_reports_the_server_takes_what_is_left(data: st.DataObject) -> None:
    update = sessions_pb2.CapacityUpdate()
    heartbeat = sessions_pb2.SessionHeartbeat(sequence=1)
    spoil(heartbeat.gpu_status, data.draw)
    spoil(update, data.draw)
    for message in (heartbeat, update):
        fit(message)
        validate(message)
