"""The table of routes finds what a scan of patterns, the most specific first, would find."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routes import bindings, discover
from gateway.table import Table

PATTERNS = [
    "/api/jobs",
    "/api/jobs/submit",
    "/api/jobs/{job_id}",
    "/api/jobs/{job_id}/output",
    "/api/jobs/submit/{kind}/now",
    "/api/jobs/{job_id}/files/{name:path}",
    "/api/jobs/{job_id}/files/first",
]
TABLE = Table({pattern: pattern for pattern in PATTERNS})


@pytest.mark.parametrize(
    ("path", "pattern", "fields"),
    [
        ("/api/jobs", "/api/jobs", {}),
        ("/api/jobs/submit", "/api/jobs/submit", {}),
        ("/api/jobs/j1", "/api/jobs/{job_id}", {"job_id": "j1"}),
        # The fixed segment leads nowhere here, so the field is tried.
        ("/api/jobs/submit/output", "/api/jobs/{job_id}/output", {"job_id": "submit"}),
        ("/api/jobs/submit/x/now", "/api/jobs/submit/{kind}/now", {"kind": "x"}),
        ("/api/jobs/j/files/first", "/api/jobs/{job_id}/files/first", {"job_id": "j"}),
        (
            "/api/jobs/j/files/first/a//b",
            "/api/jobs/{job_id}/files/{name:path}",
            {"job_id": "j", "name": "first/a//b"},
        ),
        ("/api/jobs/j/files/", "/api/jobs/{job_id}/files/{name:path}", {"job_id": "j", "name": ""}),
    ],
)
def test_path_finds_its_route_and_fields(path: str, pattern: str, fields: dict[str, str]) -> None:
    assert TABLE.find(path) == (pattern, fields)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "/api",
        "/api/",
        "/api/jobs/",
        "/api/jobs/j/",
        "/api/jobs//output",
        "/api/jobs/j/files",
        "api/jobs",
    ],
)
def test_other_paths_find_nothing(path: str) -> None:
    assert TABLE.find(path) is None


OWN = sorted(
    {binding.pattern for binding in bindings(discover())},
    key=lambda path: [part.startswith("{") for part in path.split("/")],
)
OWN_TABLE = Table({pattern: pattern for pattern in OWN})
SEGMENTS = [*sorted({part for pattern in OWN for part in pattern.split("/") if "{" not in part}), "x", "a b"]


@given(st.sampled_from(OWN), st.lists(st.sampled_from(["", *SEGMENTS]), min_size=6, max_size=6))
def test_every_path_finds_the_same_route_as_a_scan(like: str, segments: list[str]) -> None:
    path = re.sub(r"\{[^}]*\}", lambda _: segments.pop(), like) + segments.pop()
    scanned = next(
        (
            (pattern, match.groupdict())
            for pattern in OWN
            if (match := re.fullmatch(expression(pattern), path)) is not None
        ),
        None,
    )
    assert OWN_TABLE.find(path) == scanned


def expression(pattern: str) -> str:
    """The regular expression of a pattern."""
    whole = re.sub(r"\{(\w+):path\}", r"(?P<\1>.*)", pattern)
    return re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", whole)
