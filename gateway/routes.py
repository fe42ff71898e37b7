"""Owns the routes of the API: one for every RPC with `google.api.http` and one request.

An RPC that responds with a stream is a file, if its options say so, or else a stream of server-sent events.

The routes are compiled from the descriptors at start; an RPC added to a proto needs no code here.
It knows no single RPC by name, and leaves roles, limits and ownership to the server.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl

import dcp.v1
import grpc
import orjson
from dcp.v1 import options_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor, FileDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from starlette.types import Receive, Scope, Send

from common.json_form import message_writer
from gateway import credentials, errors
from gateway.bodies import BodyLimit, BodyReader
from gateway.browsers import check_own_page, cookie_fields, read_cookie, set_cookie
from gateway.calls import call_metadata, refused, rpc
from gateway.channel import Channel
from gateway.edge import ROOTS, method_not_allowed, read_body, respond
from gateway.errors import ApiError
from gateway.events import EventRelay
from gateway.exchanges import note_account, note_account_of
from gateway.files import FileRelay
from gateway.limits import DEADLINE_SECONDS, LEAST_BODY_LIMIT, MAX_QUERY_FIELDS, PIECE_SECONDS
from gateway.room import sender_of
from gateway.table import Table
from gateway.transcode import body_reader, query_fields, query_reader, single_text_reader
from gateway.uploads import first_place, pieces, refuse_packed

log = logging.getLogger(__name__)

BASES = ("/api", "/api/dc1")
"""Every route under the first exists under both; the second is for browsers on the same origin."""

_VERBS = ("get", "post", "put", "patch", "delete")
# A field in a path; with **, its value may contain slashes.
_PATH_FIELD = re.compile(r"\{(\w+)(=\*\*)?\}")
_REPEAT_KEY = b"idempotency-key"
# What a client waits that asked too early; a job's next state is seldom further away.
_ASK_AGAIN = (("retry-after", "1"),)
_BODYLESS = frozenset(("GET", "DELETE"))


@dataclass(frozen=True)
class Binding:
    """The HTTP method and path of an RPC, as its options define them."""

    method: MethodDescriptor
    rule: options_pb2.MethodRule
    verb: str
    path: str
    """The path with the first base, such as `/api/jobs/{job_id}`."""
    pattern: str
    """The same path in the router's syntax."""
    path_fields: tuple[str, ...]
    fields_in_body: bool
    """Whether the fields that are not in path or headers come from the body; otherwise from the query."""

    @property
    def header_fields(self) -> Mapping[str, str]:
        """The lower-case names of the headers that fields are read from, by field."""
        rules = {f.name: field_rule(f).header for f in self.method.input_type.fields}
        return {name: header.lower() for name, header in rules.items() if header}

    @property
    def elsewhere(self) -> frozenset[str]:
        """The fields that neither the body nor the query may carry."""
        raw = self.rule.raw_request
        return frozenset(
            filter(
                None,
                (*self.path_fields, *self.header_fields, *self.cookies_in, raw.data_field, raw.place_field),
            )
        )

    @property
    def is_upload(self) -> bool:
        """Whether the request's body is raw bytes."""
        return bool(self.rule.raw_request.data_field)

    @property
    def cookies_in(self) -> Mapping[str, options_pb2.CookieRule]:
        """The cookies that fields are read from, by field."""
        return cookie_fields(self.method.input_type)

    @property
    def cookies_out(self) -> Mapping[str, options_pb2.CookieRule]:
        """The cookies that the response sets, by field."""
        return cookie_fields(self.method.output_type)

    @property
    def is_file(self) -> bool:
        """Whether the response is a stream of a file's bytes."""
        return bool(self.rule.raw_body.head_field)

    @property
    def is_events(self) -> bool:
        """Whether the response is a stream of events."""
        return self.method.server_streaming and not self.is_file

    @property
    def is_public(self) -> bool:
        """Whether the method needs no credential; then none is forwarded."""
        return list(self.rule.roles) == [options_pb2.ROLE_PUBLIC]

    @property
    def has_body(self) -> bool:
        """Whether a body is read. It can carry the credential even if no field comes from it."""
        return self.verb not in _BODYLESS or self.fields_in_body

    @property
    def success_status(self) -> int:
        """The HTTP status of success, unless the response's status field determines another."""
        return self.rule.success_code or 200

    @property
    def status_enum(self) -> EnumDescriptor | None:
        """The type of the response's status field, or None."""
        name = self.rule.status_field
        return self.method.output_type.fields_by_name[name].enum_type if name else None

    @property
    def statuses(self) -> Mapping[int, int]:
        """The HTTP status by the value of the response's status field."""
        enum = self.status_enum
        values = enum.values if enum else ()
        rules = {v.number: v.GetOptions().Extensions[options_pb2.value] for v in values}
        return {number: rule.http_status for number, rule in rules.items() if rule.http_status}


def field_rule(field: FieldDescriptor) -> options_pb2.FieldRule:
    """The limits of a field, from its options."""
    rule: options_pb2.FieldRule = field.GetOptions().Extensions[options_pb2.field]
    return rule


def discover() -> list[FileDescriptor]:
    """Every proto file of the installed package dcp.v1, sorted by name."""
    names = sorted(m.name for m in pkgutil.iter_modules(dcp.v1.__path__) if m.name.endswith("_pb2"))
    return [importlib.import_module(f"dcp.v1.{name}").DESCRIPTOR for name in names]


def bindings(files: Iterable[FileDescriptor]) -> Iterator[Binding]:
    """The bindings of all RPCs in the files that have one request.

    Raises ValueError for an RPC that the gateway cannot serve.
    """
    for file in files:
        for service in file.services_by_name.values():
            for method in service.methods:
                if not method.client_streaming:
                    yield from _bindings_of(method)


def _bindings_of(method: MethodDescriptor) -> Iterator[Binding]:
    options = method.GetOptions()
    if not options.HasExtension(annotations_pb2.http):
        return
    http = options.Extensions[annotations_pb2.http]
    for rule in (http, *http.additional_bindings):
        verb = rule.WhichOneof("pattern")
        path = getattr(rule, verb) if verb in _VERBS else ""
        fields = tuple(found[1] for found in _PATH_FIELD.finditer(path))
        method_rule = options.Extensions[options_pb2.method]
        bodies = ("", "*", method_rule.raw_request.data_field)
        if not path.startswith(ROOTS) or "{" in _PATH_FIELD.sub("", path) or rule.body not in bodies:
            raise ValueError(f"{method.full_name}: this gateway cannot serve its google.api.http")
        plain = _PATH_FIELD.sub(r"{\1}", path)
        pattern = _PATH_FIELD.sub(lambda found: f"{{{found[1]}{':path' if found[2] else ''}}}", path)
        yield Binding(method, method_rule, verb.upper(), plain, pattern, fields, rule.body == "*")


def api_routes(
    channel: Channel,
    files: Iterable[FileDescriptor],
    deadline_seconds: float = DEADLINE_SECONDS,
    also: Mapping[str, Served] | None = None,
    saw: Mapping[str, Saw] | None = None,
) -> Table[Resource]:
    """Builds a route for every path; one under the first base exists under both.

    ``also``: what serves a path and is no RPC; a POST, unless the path has another method before it.
    ``saw``: what hears of the answers of an RPC, by its name.
    """
    resources: dict[str, Resource] = {}
    for place, served in (also or {}).items():
        verb, _, pattern = place.rpartition(" ")
        resources.setdefault(pattern, Resource(pattern)).add(verb or "POST", served)
    for binding in bindings(files):
        resource = resources.setdefault(binding.pattern, Resource(binding.pattern))
        endpoint = _endpoint(binding)(binding, channel, deadline_seconds)
        if isinstance(endpoint, Endpoint):
            endpoint.saw = (saw or {}).get(endpoint.name)
        resource.add(binding.verb, endpoint)
    return Table({path: resource for pattern, resource in resources.items() for path in _paths(pattern)})


def _endpoint(binding: Binding) -> type[Endpoint | StreamEndpoint | UploadEndpoint]:
    if binding.is_upload:
        return UploadEndpoint
    return StreamEndpoint if binding.method.server_streaming else Endpoint


def _paths(pattern: str) -> tuple[str, ...]:
    if not pattern.startswith(f"{BASES[0]}/"):
        return (pattern,)
    return tuple(base + pattern.removeprefix(BASES[0]) for base in BASES)


Saw = Callable[[Any, Any], None]
"""Gets the answer of an RPC, and the metadata that it was called with."""


class Served(Protocol):
    """What serves a request of one HTTP method."""

    name: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError."""


class Resource:
    """All HTTP methods of one path."""

    def __init__(self, path: str) -> None:
        self.path = path
        """Its path under the first base, for the log."""
        self._endpoints: dict[str, Served] = {}

    def add(self, verb: str, endpoint: Served) -> None:
        """Serves the HTTP method with the endpoint. Raises ValueError if another RPC already does."""
        if verb in self._endpoints:
            raise ValueError(f"{endpoint.name}: another RPC has this path and method")
        self._endpoints[verb] = endpoint

    def endpoint(self, verb: str) -> Served:
        """The endpoint of an HTTP method. HEAD runs GET; the HTTP server leaves the body out.

        Raises METHOD_NOT_ALLOWED.
        """
        endpoint = self._endpoints.get("GET" if verb == "HEAD" else verb)
        if endpoint is None:
            raise method_not_allowed(", ".join(sorted(self._endpoints)))
        return endpoint


async def run_route(scope: Scope, receive: Receive, send: Send) -> None:
    """Runs the endpoint of the request's method on the resource that was found for its path."""
    await scope["route"].endpoint(scope["method"])(scope, receive, send)


class Endpoint:
    """One RPC over HTTP: reads the request, calls the server, writes the response."""

    def __init__(self, binding: Binding, channel: Channel, deadline_seconds: float) -> None:
        method = binding.method
        self.name = method.full_name
        self._deadline_seconds = deadline_seconds
        self._request_class = GetMessageClass(method.input_type)
        self._call = rpc(channel, method)
        self._read = _RequestReader(binding)
        self._is_harmless = binding.verb == "GET" or binding.rule.repeat == options_pb2.REPEAT_HARMLESS
        """It changes nothing, or the same if it is done twice."""
        self._answer = _Answer(binding)
        self.saw: Saw | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError."""
        values, credential = await self._read(scope, receive)
        request, metadata = self._request_class(**values), call_metadata(scope, credential)
        is_unsure = False
        try:
            try:
                call = self._call(request, metadata=metadata, timeout=self._deadline_seconds)
                answer = await call
            except grpc.aio.AioRpcError as error:
                if not (self._is_harmless or values.get("idempotency_key")) or not errors.is_lost(error):
                    raise
                is_unsure = errors.may_be_done(error)
                # What is harmless, or is done once by its key, is asked of another server.
                call = self._call(request, metadata=metadata, timeout=self._deadline_seconds)
                answer = await call
            await note_account(scope, call)
        except grpc.aio.AioRpcError as error:
            note_account_of(scope, error.trailing_metadata())
            is_unsure = not self._is_harmless and (is_unsure or errors.may_be_done(error))
            raise refused(error, self.name, scope["request_id"], is_unsure=is_unsure) from None
        if self.saw is not None:
            self.saw(answer, metadata)
        await self._answer(scope, send, answer)


class StreamEndpoint:
    """One RPC over HTTP that responds with a stream: a file, or events."""

    def __init__(self, binding: Binding, channel: Channel, deadline_seconds: float) -> None:
        method = binding.method
        self.name = method.full_name
        self._request_class = GetMessageClass(method.input_type)
        self._call = rpc(channel, method)
        self._read = _RequestReader(binding)
        self._relay: FileRelay | EventRelay
        if binding.is_events:
            self._relay = EventRelay(method.output_type, binding.rule.event_id_field, deadline_seconds)
        else:
            self._relay = FileRelay(binding.rule.raw_body, deadline_seconds)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError; an error after the first message breaks the connection."""
        values, credential = await self._read(scope, receive)
        call: Any = self._call(self._request_class(**values), metadata=call_metadata(scope, credential))
        try:
            await self._relay(call, scope, receive, send)
        except grpc.aio.AioRpcError as error:
            note_account_of(scope, error.trailing_metadata())
            raise refused(error, self.name, scope["request_id"]) from None
        finally:
            call.cancel()


class UploadEndpoint:
    """One RPC over HTTP whose request is raw bytes: it is called once for each piece of them."""

    def __init__(self, binding: Binding, channel: Channel, deadline_seconds: float) -> None:
        method = binding.method
        self.name = method.full_name
        self._rule = binding.rule.raw_request
        self._request_class = GetMessageClass(method.input_type)
        self._call = rpc(channel, method)
        self._read = _RequestReader(binding)
        self._answer = _Answer(binding)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ApiError; what was stored before stays."""
        refuse_packed(scope["headers"])
        place = first_place(scope["headers"])
        values, credential = await self._read(scope, receive)
        metadata = call_metadata(scope, credential)
        async with aclosing(pieces(receive, sender_of(scope))) as found:
            async for piece in found:
                part = {self._rule.data_field: piece, self._rule.place_field: place}
                answer = await self._send(self._request_class(**values, **part), metadata, scope)
                place += len(piece)
        await self._answer(scope, send, answer)

    async def _send(self, request: Any, metadata: list[tuple[str, str]], scope: Scope) -> Any:
        """Sends one piece, twice if the first answer was lost: a piece that has arrived changes nothing."""
        for is_last in (False, True):
            try:
                call = self._call(request, metadata=metadata, timeout=PIECE_SECONDS)
                answer = await call
                await note_account(scope, call)
                return answer
            except grpc.aio.AioRpcError as error:
                if is_last or not errors.is_lost(error):
                    note_account_of(scope, error.trailing_metadata())
                    raise refused(error, self.name, scope["request_id"]) from None
        raise AssertionError("the last try returns or raises")


class _RequestReader:
    """Collects a request's values from path, query, headers and body, and its credential."""

    def __init__(self, binding: Binding) -> None:
        message = binding.method.input_type
        everything = frozenset(message.fields_by_name)
        self._is_public = binding.is_public
        self._repeat = binding.rule.repeat
        in_body = binding.fields_in_body
        from_elsewhere = binding.elsewhere if in_body else everything
        self._is_upload = binding.is_upload
        has_fields = binding.has_body and not binding.is_upload
        self._load = BodyReader(BodyLimit.of(message, from_elsewhere)) if has_fields else None
        self._read_body = body_reader(message, from_elsewhere)
        self._read_query = query_reader(message, everything if in_body else binding.elsewhere)
        # Clients of other APIs send fields that only those know.
        self._ignores_unknown = binding.path.startswith("/v1/")
        self._known = query_fields(message, everything if in_body else binding.elsewhere)
        self._path = {n: single_text_reader(message.fields_by_name[n], n) for n in binding.path_fields}
        self._headers = {
            header.encode(): (name, single_text_reader(message.fields_by_name[name], header))
            for name, header in binding.header_fields.items()
        }

        self._cookies = {name: rule.name for name, rule in binding.cookies_in.items()}
        self._is_of_browsers = bool(binding.cookies_in or binding.cookies_out)

    async def __call__(self, scope: Scope, receive: Receive) -> tuple[dict[str, Any], str | None]:
        """The values of the request message, and the credential to forward. Raises ApiError."""
        if self._is_of_browsers:
            check_own_page(scope)
        if self._repeat:
            self._check_repeat_key(scope["headers"])
        query = _parse_query(scope["query_string"])
        body: dict[str, Any] = {}
        if self._load is not None:
            body = await self._load(scope["headers"], receive)
        elif not self._is_upload:  # Nothing is carried out before the whole request has arrived.
            await read_body(scope["headers"], receive, LEAST_BODY_LIMIT)
        if self._is_public:
            credentials.take(scope["headers"], query, body)
            credential = None
        else:
            credential = credentials.of_request(scope, query, body)
        values: dict[str, Any] = self._read_body(body) if body else {}
        if self._ignores_unknown:
            query = {name: texts for name, texts in query.items() if name in self._known}
        if query:
            values.update(self._read_query(query))
        for name, read in self._path.items():
            values[name] = read(scope["path_params"][name])
        if self._headers:
            self._add_headers(values, scope["headers"])
        for name, cookie in self._cookies.items():
            values[name] = read_cookie(scope, cookie) or ""
        return values, credential

    def _check_repeat_key(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Refuses an `Idempotency-Key` that would protect nothing, so that nobody relies on it."""
        for header, raw in headers:
            if header != _REPEAT_KEY:
                continue
            if not raw.strip():
                raise _invalid_header(header, "it is blank; send a value, or leave the header out")
            if self._repeat == options_pb2.REPEAT_SECRET:
                text = "the response holds a new secret and cannot be sent again; leave the header out"
                raise _invalid_header(header, text)

    def _add_headers(self, values: dict[str, Any], headers: Iterable[tuple[bytes, bytes]]) -> None:
        for header, raw in headers:
            if header in self._headers:
                name, read = self._headers[header]
                if name in values:
                    raise _invalid_header(header, "it is given more than once")
                try:
                    values[name] = read(raw.decode())
                except UnicodeDecodeError:
                    raise _invalid_header(header, "expected UTF-8") from None


class _Answer:
    """Sends a response: its status, and JSON, a file, or the raw bytes of an image."""

    def __init__(self, binding: Binding) -> None:
        self._write = message_writer(binding.method.output_type)
        self._status = binding.success_status
        self._statuses = binding.statuses
        self._status_field = binding.rule.status_field
        self._raw = binding.rule.raw_body
        self._cookies = binding.cookies_out

    async def __call__(self, scope: Scope, send: Send, answer: Any) -> None:
        status = self._status
        if self._statuses:
            status = self._statuses.get(getattr(answer, self._status_field), status)
        if status == 204:
            await respond(send, status, b"")
        elif self._raw.media_type:
            headers = [("content-disposition", f'attachment; filename="{self._raw.file_name}"')]
            data = getattr(answer, self._raw.data_field).encode()
            await respond(send, status, data, headers, self._raw.media_type)
        elif (image_type := self._image_type(answer)) and not _asks_for_json(scope["headers"]):
            headers = [("content-disposition", "inline")]
            await respond(send, status, getattr(answer, self._raw.data_field), headers, image_type)
        else:
            again = _ASK_AGAIN if status == 202 and self._statuses else ()
            cookies = [set_cookie(scope, rule, getattr(answer, name)) for name, rule in self._cookies.items()]
            await respond(send, status, orjson.dumps(self._write(answer)), (*again, *cookies))

    def _image_type(self, answer: Any) -> str:
        """The media type of the response's image, or an empty text. Anything else is sent as JSON:
        bytes from a provider must not run as a page on our origin, as SVG would.
        """
        if not self._raw.data_field or not getattr(answer, self._raw.data_field):
            return ""
        media_type = getattr(answer, self._raw.content_type_field)
        return media_type if _IMAGE_TYPE.fullmatch(media_type) else ""


_IMAGE_TYPE = re.compile(r"image/(?!svg)[a-z0-9][a-z0-9.+-]{0,60}")


def _asks_for_json(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name == b"accept" and b"application/json" in value.lower() for name, value in headers)


def _parse_query(raw: bytes) -> dict[str, list[str]]:
    """The texts of a query by name. Raises ApiError if it is not UTF-8 or has too many fields."""
    query: dict[str, list[str]] = {}
    if not raw:
        return query
    try:
        pairs = parse_qsl(raw.decode(), True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    except ValueError:
        text = f"The query is not valid UTF-8 or has more than {MAX_QUERY_FIELDS} fields."
        raise ApiError("INVALID_FIELD", text, field="query") from None
    for name, text in pairs:
        query.setdefault(name, []).append(text)
    return query


def _invalid_header(header: bytes, text: str) -> ApiError:
    name = header.decode()
    return ApiError("INVALID_FIELD", f"{name}: {text}.", field=name)
