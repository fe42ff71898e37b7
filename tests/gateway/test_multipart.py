"""Forms with files, as their bytes arrive."""

from __future__ import annotations

import httpx
import pytest

from gateway.errors import ApiError
from gateway.multipart import Data, Multipart, Part, boundary_of

FILE = b"one\r\n--two\r\n" + bytes(range(256)) * 8
FORM = (
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.jsonl"\r\n'
    b"Content-Type: application/octet-stream\r\n\r\n" + FILE + b"\r\n--b--\r\n"
)


def parts(form: bytes, size: int, boundary: bytes = b"b") -> list[tuple[Part, bytes]]:
    reader = Multipart(boundary)
    found: list[tuple[Part, bytes]] = []
    for start in range(0, len(form), size):
        for event in reader.feed(form[start : start + size]):
            if isinstance(event, Data):
                found[-1] = (found[-1][0], found[-1][1] + event.data)
            else:
                found.append((event, b""))
    reader.finish()
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1 << 20])
def test_form_is_the_same_however_its_bytes_arrive(size: int) -> None:
    assert parts(FORM, size) == [(Part("purpose", None), b"batch"), (Part("file", "a.jsonl"), FILE)]


def test_forms_of_httpx_are_read() -> None:
    files = {"file": ("طلبات.jsonl", b"", "text/plain")}
    request = httpx.Request("POST", "http://a/", data={"purpose": "batch"}, files=files)
    boundary = boundary_of(request.headers["content-type"].encode())
    request.read()
    found = parts(request.content, 10, boundary)
    assert found == [(Part("purpose", None), b"batch"), (Part("file", "طلبات.jsonl"), b"")]


@pytest.mark.parametrize(
    "form",
    [
        b"",
        FORM[:-4],
        FORM[: len(FORM) // 2],
        b"--b\r\nContent-Disposition: form-data\r\n\r\nx\r\n--b--\r\n",
        b"--b\r\n" + b"x" * 9000,
        b"--bX",
        b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n\r\n' * 21 + b"--b--",
    ],
)
def test_form_that_is_cut_or_too_large_is_refused(form: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        parts(form, 100)
    assert (caught.value.code, caught.value.facts["field"]) == ("INVALID_FIELD", "body")


@pytest.mark.parametrize(
    "kind", ["application/json", "multipart/form-data", "multipart/form-data; boundary="]
)
def test_body_that_is_no_form_is_refused(kind: str) -> None:
    with pytest.raises(ApiError) as caught:
        boundary_of(kind.encode())
    assert caught.value.code == "UNSUPPORTED_MEDIA_TYPE"
