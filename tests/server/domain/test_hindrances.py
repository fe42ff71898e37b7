"""Hindrances: why a provider gets no jobs of whole kinds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.domain.gpus import GpuReport, from_plain
from server.domain.hindrances import (
    ALL,
    IN_CONTAINERS,
    Minimums,
    SelfTest,
    by_job_type,
    failing_models,
    hindrances,
    is_before,
)
from server.domain.jobs import JobType
from server.domain.placement import Obstacle

INFERENCE, CUSTOM = frozenset({JobType.LLM_INFERENCE}), frozenset({JobType.CUSTOM_CONTAINER})
ASKED = Minimums(driver="535.0", toolkit="1.14", daemon="0.2")
GOOD = {"driver_version": "550.54.15", "container_toolkit_version": "1.14.3", "daemon_version": "0.2.0"}
PASSED = SelfTest("llamacpp", True, "", ("m",), INFERENCE)
FAILED = SelfTest("llamacpp", False, "It answered nothing.", ("n",), INFERENCE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {}),
        ({"driver_version": "535"}, {}),
        ({"driver_version": "534.99.99"}, dict.fromkeys(ALL, Obstacle.DRIVER_TOO_OLD)),
        ({"driver_version": "unknown"}, dict.fromkeys(ALL, Obstacle.DRIVER_TOO_OLD)),
        ({"container_toolkit_version": "1.13.9"}, dict.fromkeys(IN_CONTAINERS, Obstacle.TOOLKIT_TOO_OLD)),
        ({"container_toolkit_version": ""}, dict.fromkeys(IN_CONTAINERS, Obstacle.TOOLKIT_TOO_OLD)),
        ({"daemon_version": "0.1.9"}, dict.fromkeys(ALL, Obstacle.DAEMON_TOO_OLD)),
        ({"daemon_version": ""}, dict.fromkeys(ALL, Obstacle.DAEMON_TOO_OLD)),
        ({"driver_version": "", "container_toolkit_version": ""}, {}),
        ({"all_gpus": [{"state": 2}, {"state": 1}]}, {}),
        ({"all_gpus": [{"state": 2}, {}]}, {}),
        ({"all_gpus": [{"state": 4}, {"state": 1}]}, {}),
        ({"all_gpus": [{"state": 4}, {"state": 2}]}, dict.fromkeys(ALL, Obstacle.DRAINING)),
        ({"all_gpus": [{"state": 2}, {"state": 3}]}, dict.fromkeys(ALL, Obstacle.GPUS_FAILED)),
    ],
)
def test_each_hindrance_blocks_its_kinds_of_jobs(changes: dict[str, Any], expected: Any) -> None:
    found = hindrances(from_plain(GOOD | changes), (), ASKED)
    assert by_job_type(found) == expected
    assert all(hindrance.message for hindrance in found)


def test_default_minimums_hinder_no_provider() -> None:
    assert hindrances(GpuReport(driver_version="1"), (), Minimums()) == ()
    assert hindrances(GpuReport(driver_version="1"), (), Minimums(driver="0", toolkit="0", daemon="0")) == ()


def test_failed_self_test_blocks_its_job_types_and_models_unless_another_engine_offers_them() -> None:
    (alone,) = hindrances(from_plain(GOOD), [FAILED], ASKED)
    assert (alone.obstacle, alone.job_types) == (Obstacle.SELF_TEST_FAILED, INFERENCE)
    assert "It answered nothing." in alone.message
    (beside,) = hindrances(from_plain(GOOD), [PASSED, FAILED], ASKED)
    assert beside.job_types == frozenset()
    assert failing_models([PASSED, FAILED]) == {"n"}


@pytest.mark.parametrize(
    ("version", "least", "before"),
    [
        ("1.2.3", "1.2.3", False),
        ("1.2.3", "1.2.10", True),
        ("1.2", "1.2.0", False),
        ("1.2.0", "1.2", False),
        ("v1", "0.1", True),
        ("", "1", True),
        ("", "", False),
        ("0.0.0+source", "0.0.1", True),
        ("1.4.0rc1", "1.4.0", True),
        ("1.4.0", "1.4.0rc1", False),
        ("", "0.0", False),
        ("1.14.0-rc.1", "1.14.0", True),
        # Not PEP 440 versions: only their leading numbers count.
        ("550.54.15-open", "550.54.15", False),
        ("550.54.15-open", "550.54.16", True),
        ("9" * 5000, "1", False),
    ],
)
def test_versions_are_compared_by_their_numbers(version: str, least: str, before: bool) -> None:
    assert is_before(version, least) is before


VERSIONS = st.lists(st.integers(0, 999), min_size=1, max_size=4).map(lambda parts: ".".join(map(str, parts)))


@given(VERSIONS | st.text(max_size=20), VERSIONS)
def test_comparison_of_versions_is_consistent_in_both_directions(version: str, least: str) -> None:
    assert not (is_before(version, least) and is_before(least, version))
    assert not is_before(least, least)


NUMBERS = st.lists(st.integers(0, 999), min_size=4, max_size=4)


@given(NUMBERS, NUMBERS)
def test_versions_of_equal_length_are_ordered_by_their_numbers(version: list[int], least: list[int]) -> None:
    assert is_before(".".join(map(str, version)), ".".join(map(str, least))) is (version < least)
