"""How a body becomes a JSON object: its length, its compression, its syntax; through the real gateway."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from dcp.v1 import jobs_pb2, options_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from starlette.types import Message

from gateway.bodies import BodyLimit, BodyReader
from gateway.edge import ClientGoneError
from gateway.errors import ApiError
from gateway.limits import LEAST_BODY_LIMIT
from gateway.routes import bindings, discover, field_rule
from tests.support.gateway_server import FakeServer

TOPUP = "/api/renters/topup"
SUBMIT = "/api/jobs/submit"
SUBMIT_LIMIT = BodyLimit.of(jobs_pb2.SubmitJobRequest.DESCRIPTOR, ("idempotency_key",)).size
GZIP = {"content-encoding": "gzip"}


def padded(size: int) -> bytes:
    """A JSON object of this many bytes."""
    return b'{"amount_halala": 1' + b" " * (size - 20) + b"}"


async def chunks(body: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(body), 1 << 16):
        yield body[start : start + (1 << 16)]


@pytest.mark.parametrize("sent", [b"", b"{}", b'{"amount_halala": 5}'])
async def test_a_body_shorter_than_announced_is_refused_and_ends_its_connection(
    gateway: httpx.AsyncClient, server: FakeServer, sent: bytes
) -> None:
    answer = await gateway.post(TOPUP, content=sent, headers={"content-length": "100"})
    assert (answer.status_code, answer.headers["connection"]) == (400, "close")
    assert f"{len(sent)} of the 100 bytes" in answer.json()["error"]
    assert server.calls == []


@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize(("size", "status"), [(LEAST_BODY_LIMIT, 200), (LEAST_BODY_LIMIT + 1, 413)])
async def test_a_body_over_one_mebibyte_is_refused_however_it_is_sent(
    gateway: httpx.AsyncClient, server: FakeServer, size: int, status: int, is_chunked: bool
) -> None:
    body = padded(size)
    answer = await gateway.post(TOPUP, content=chunks(body) if is_chunked else body)
    assert answer.status_code == status
    assert answer.json().get("code") == (None if status == 200 else "BODY_TOO_LARGE")
    assert len(server.calls) == (status == 200)


@pytest.mark.parametrize("character", ["م", "\N{GRINNING FACE}", "x", '"'])
@pytest.mark.parametrize("is_ascii", [True, False])
async def test_a_prompt_of_a_million_characters_is_read_whatever_they_are(
    gateway: httpx.AsyncClient, server: FakeServer, character: str, is_ascii: bool
) -> None:
    prompt = character * 1_000_000
    body = json.dumps({"params": {"prompt": prompt}}, ensure_ascii=is_ascii)
    answer = await gateway.post(SUBMIT, content=body.encode())
    assert answer.status_code == 201
    assert server.calls[0].request.params.prompt == prompt


async def test_a_submit_over_its_own_limit_is_refused(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    answer = await gateway.post(SUBMIT, content=b"{" + b" " * (SUBMIT_LIMIT - 1) + b"}")
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert f"{SUBMIT_LIMIT} bytes (12 MiB)" in answer.json()["error"]
    assert server.calls == []


async def test_a_large_body_of_more_values_than_fields_allow_is_refused_before_it_is_parsed(
    gateway: httpx.AsyncClient,
) -> None:
    answer = await gateway.post(SUBMIT, content=b'{"a": [' + b"{}," * 2_000_000 + b"{}]}")
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")
    assert "values" in answer.json()["error"]


def longest(message: Descriptor, without: frozenset[str] = frozenset()) -> Any:
    """A value of the message in which every field has the length that its limits allow."""
    values: dict[str, Any] = {}
    for field in message.fields:
        if field.name in without:
            continue
        rule, kind = field_rule(field), field.message_type
        text = "\N{GRINNING FACE}" * rule.max_length
        item: Any = text if field.type == FieldDescriptor.TYPE_STRING else -1.7976931348623157e308
        if kind is not None and not kind.GetOptions().map_entry:
            item = longest(kind)
        if kind is not None and kind.GetOptions().map_entry:
            values[field.name] = {f"{n:04}{text[4:]}": text for n in range(rule.max_items)}
        else:
            values[field.name] = [item] * rule.max_items if field.is_repeated else item
    return values


def test_the_limit_of_every_route_lets_every_field_have_its_longest_value() -> None:
    """Written by `json.dumps` with an indentation. Some messages have a limit of all their texts together."""
    for binding in bindings(discover()):
        message = binding.method.input_type
        is_limited = message.GetOptions().Extensions[options_pb2.message].max_characters > 0
        if binding.fields_in_body and not is_limited:
            body = json.dumps(longest(message, binding.elsewhere), indent=4)
            assert len(body) <= BodyLimit.of(message, binding.elsewhere).size, binding.path


async def read(*received: Message, headers: tuple[tuple[bytes, bytes], ...] = ()) -> Any:
    """Reads a body when only these messages arrive."""
    waiting = list(received)

    async def receive() -> Message:
        return waiting.pop(0)

    return await BodyReader(BodyLimit(LEAST_BODY_LIMIT, LEAST_BODY_LIMIT))(headers, receive)


async def test_a_large_body_is_refused_before_all_of_it_has_arrived() -> None:
    part = {"type": "http.request", "body": b" " * LEAST_BODY_LIMIT, "more_body": True}
    with pytest.raises(ApiError, match="BODY_TOO_LARGE"):
        await read(part, part)


@pytest.mark.parametrize("length", [b"1048577", b"9" * 5000])
async def test_an_announced_large_body_is_not_read_at_all(length: bytes) -> None:
    with pytest.raises(ApiError, match="BODY_TOO_LARGE"):
        await read(headers=((b"content-length", length),))


async def test_nothing_is_sent_to_a_client_that_disconnected() -> None:
    with pytest.raises(ClientGoneError):
        await read({"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"})


@pytest.mark.parametrize("name", ["gzip", "x-gzip", "GZIP", "identity"])
async def test_a_body_may_be_compressed_with_gzip(
    gateway: httpx.AsyncClient, server: FakeServer, name: str
) -> None:
    plain = b'{"amount_halala": 5}'
    body = plain if name == "identity" else gzip.compress(plain)
    answer = await gateway.post(TOPUP, content=body, headers={"content-encoding": name})
    assert answer.status_code == 200
    assert server.calls[0].request.amount_halala == 5


@pytest.mark.parametrize(("size", "status"), [(LEAST_BODY_LIMIT, 200), (LEAST_BODY_LIMIT + 1, 413)])
async def test_what_a_body_unpacks_to_has_the_limit_of_a_plain_body(
    gateway: httpx.AsyncClient, size: int, status: int
) -> None:
    answer = await gateway.post(TOPUP, content=gzip.compress(padded(size)), headers=GZIP)
    assert answer.status_code == status


async def test_a_bomb_is_refused(gateway: httpx.AsyncClient) -> None:
    packer = zlib.compressobj(9, wbits=31)
    bomb = b"".join([*(packer.compress(bytes(1 << 24)) for _ in range(6)), packer.flush()])
    assert len(bomb) < LEAST_BODY_LIMIT < 6 << 24
    answer = await gateway.post(TOPUP, content=bomb, headers=GZIP)
    assert (answer.status_code, answer.json()["code"]) == (413, "BODY_TOO_LARGE")


@pytest.mark.parametrize("encoding", ["br", "zstd", "deflate", "gzip, gzip", "gzip,identity", "nonsense"])
async def test_another_encoding_is_refused_with_what_is_accepted(
    gateway: httpx.AsyncClient, server: FakeServer, encoding: str
) -> None:
    answer = await gateway.post(TOPUP, content=b"x", headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert answer.headers["accept-encoding"] == "gzip"
    assert "only gzip" in answer.json()["error"]
    assert server.calls == []


async def test_two_headers_of_encodings_are_two_encodings(gateway: httpx.AsyncClient) -> None:
    body = gzip.compress(gzip.compress(b"{}"))
    headers = [("content-encoding", "gzip"), ("content-encoding", "gzip")]
    assert (await gateway.post(TOPUP, content=body, headers=headers)).status_code == 415


PACKED = gzip.compress(b'{"amount_halala": 5}', mtime=0)


@pytest.mark.parametrize(
    "body",
    [b'{"amount_halala": 5}', PACKED[:-9], PACKED + PACKED, PACKED + b"x", PACKED[:-8] + bytes(8)],
    ids=["not packed", "cut", "two members", "more bytes", "wrong checksum"],
)
async def test_damaged_gzip_is_refused(gateway: httpx.AsyncClient, body: bytes) -> None:
    answer = await gateway.post(TOPUP, content=body, headers=GZIP)
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_JSON")
    assert "gzip" in answer.json()["error"]


async def test_gzip_without_its_header_is_named(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.post(TOPUP, content=PACKED)
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_JSON")
    assert "Content-Encoding: gzip" in answer.json()["error"]


async def test_a_byte_order_mark_is_accepted(gateway: httpx.AsyncClient, server: FakeServer) -> None:
    answer = await gateway.post(TOPUP, content=b'\xef\xbb\xbf{"amount_halala": 5}')
    assert answer.status_code == 200
    assert server.calls[0].request.amount_halala == 5


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
async def test_json_that_is_not_utf_8_is_named(gateway: httpx.AsyncClient, encoding: str) -> None:
    answer = await gateway.post(TOPUP, content='{"amount_halala": 5}'.encode(encoding))
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_JSON")
    assert "send UTF-8" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        (TOPUP, '{"amount_halala": 1, "amount_halala": 2}', "amount_halala"),
        (TOPUP, '{"amount_halala": 1, "amount\\u005fhalala": 1}', "amount_halala"),
        (TOPUP, '{"api_key": "a", "amount_halala": 1, "api_key": "a"}', "api_key"),
        (SUBMIT, '{"params": {"messages": [{"role": "user", "role": "system"}]}}', "role"),
        (SUBMIT, '{"container_spec": {"env": {"A": "1", "A": "2"}}}', "A"),
        ("/api/providers/heartbeat", '{"gpu_status": {"newer": 1, "newer": {}}}', "newer"),
    ],
)
async def test_a_key_that_stands_twice_is_refused_with_its_name(
    gateway: httpx.AsyncClient, server: FakeServer, path: str, body: str, key: str
) -> None:
    answer = await gateway.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FIELD")
    assert answer.json()["field"] == key
    assert answer.json()["error"].startswith(f"{key}: it stands twice")
    assert server.calls == []


@pytest.mark.parametrize(
    ("body", "media_type", "word"),
    [
        (b"amount_halala=5", "application/x-www-form-urlencoded", "a form"),
        (b"--x\r\n", "multipart/form-data; boundary=x", "a form"),
        (b"five", "text/plain; charset=utf-8", "plain text"),
    ],
)
async def test_a_body_of_another_kind_is_named(
    gateway: httpx.AsyncClient, body: bytes, media_type: str, word: str
) -> None:
    answer = await gateway.post(TOPUP, content=body, headers={"content-type": media_type})
    assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")
    assert word in answer.json()["error"]
    assert "Content-Type: application/json" in answer.json()["error"]


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain", "nonsense", ""])
async def test_json_is_read_whatever_its_content_type_says(
    gateway: httpx.AsyncClient, server: FakeServer, media_type: str
) -> None:
    """`curl -d` calls every body a form."""
    answer = await gateway.post(TOPUP, content=b'{"amount_halala": 5}', headers={"content-type": media_type})
    assert answer.status_code == 200
    assert server.calls[0].request.amount_halala == 5


@pytest.mark.parametrize(
    "value",
    [
        *("NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" + "0" * 400, "9" * 5000),
        *(
            r'"\ud800"',
            r'"\udc00\ud800"',
            "[" * 100_000,
            '{"a":' * 100_000,
            '{"a":' * 1020 + "1" + "}" * 1020,
        ),
    ],
    ids=lambda value: value[:12],
)
@pytest.mark.parametrize("path", [TOPUP, SUBMIT])
async def test_values_that_json_does_not_have_are_a_clear_400(
    gateway: httpx.AsyncClient, server: FakeServer, path: str, value: str
) -> None:
    answer = await gateway.post(path, content=f'{{"amount_halala": {value}}}')
    assert (answer.status_code, answer.json()["code"]) == (400, "MALFORMED_JSON")
    assert answer.json()["error"].startswith("The body is ")
    assert server.calls == []


@pytest.mark.parametrize("value", ["9" * 30, str(2**63), "-1e300", "0.5", "1e-400"])
async def test_numbers_that_a_field_cannot_hold_name_the_field(
    gateway: httpx.AsyncClient, server: FakeServer, value: str
) -> None:
    answer = await gateway.post(TOPUP, content=f'{{"amount_halala": {value}}}')
    if value == "1e-400":  # It is 0 as a double.
        assert server.calls[0].request.amount_halala == 0
        return
    assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_FIELD")
    assert answer.json()["field"] == "amount_halala"


@pytest.mark.parametrize("value", ["-0", "-0.0", "0e5"])
async def test_negative_zero_is_zero(gateway: httpx.AsyncClient, server: FakeServer, value: str) -> None:
    answer = await gateway.post(TOPUP, content=f'{{"amount_halala": {value}}}')
    assert answer.status_code == 200
    assert str(server.calls[0].request.amount_halala) == "0"
