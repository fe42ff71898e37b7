"""The interceptor: who calls, by the proto options; the limits of requests; and errors, in one place."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import grpc
from dcp.v1 import options_pb2
from google.protobuf import descriptor_pool

from server.domain.errors import DomainError, Reason
from server.rpc.errors import to_status
from server.rpc.validate import validate
from server.services.keys import ADMIN, Caller, Keys

log = logging.getLogger(__name__)

_caller: ContextVar[Caller] = ContextVar("caller")
_ROLE_NAMES: dict[int, str] = {
    options_pb2.ROLE_PROVIDER: "provider",
    options_pb2.ROLE_RENTER: "renter",
    options_pb2.ROLE_ADMIN: ADMIN,
}
_A_KEY = {"provider": "a provider's key", "renter": "a renter's key", ADMIN: "the admin token"}
_KEY_HEADERS = ("x-provider-key", "x-renter-key", "x-admin-token")
_OPEN_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


def caller() -> Caller:
    """Who makes the present call. Only inside a method whose roles are not public."""
    return _caller.get()


class Authentication(grpc.aio.ServerInterceptor):
    """The one door of every method: who calls, the request's limits, and the one way that errors leave.

    A call is let in when its credential has one of the roles that the method's options name; its
    request is checked after that, so that a stranger learns nothing. What the method raises becomes
    a status; a fault of ours is logged under an id and told nothing of.
    """

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        """The method's handler behind the door; wrapped once, when the server first meets it."""
        method = str(details.method)
        if method not in self._wrapped:
            handler = await continuation(details)
            if handler is None or method.startswith(_OPEN_SERVICES):
                return handler
            self._wrapped[method] = self._wrap(method, handler)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> Any:
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self.unary(method, handler.unary_unary), **codecs)
        return grpc.stream_stream_rpc_method_handler(self.stream(method, handler.stream_stream), **codecs)

    def unary(self, method: str, inner: Any) -> Any:
        """A method with one request, behind the door."""
        roles = roles_of(method)

        async def call(request: Any, context: Any) -> Any:
            try:
                await self._admit(roles, context)
                validate(request)
                return await inner(request, context)
            except Exception as error:
                await _abort(method, error, context)

        return call

    def stream(self, method: str, inner: Any) -> Any:
        """A method with a stream of requests, behind the door; it checks each request itself."""
        roles = roles_of(method)

        async def call(requests: Any, context: Any) -> None:
            try:
                await self._admit(roles, context)
                await inner(requests, context)
            except Exception as error:
                await _abort(method, error, context)

        return call

    async def _admit(self, roles: frozenset[int], context: Any) -> None:
        if options_pb2.ROLE_PUBLIC in roles:
            return
        names = {_ROLE_NAMES[role] for role in roles}
        if names == {ADMIN}:
            self._keys.require_admin_configured()
        credential = find_credential(context.invocation_metadata())
        if credential is None:
            raise DomainError(
                Reason.MISSING_CREDENTIAL,
                f"this needs {_or(_A_KEY[name] for name in names)}: send it as Authorization: Bearer KEY, "
                f"or in the header {_or(_header(name) for name in names)}",
            )
        found = await self._keys.identify(credential)
        if found.role not in names:
            raise DomainError(
                Reason.WRONG_ROLE,
                f"this needs {_or(_A_KEY[name] for name in names)}, not {_A_KEY[found.role]}",
            )
        _caller.set(found)


async def _abort(method: str, error: Exception, context: Any) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, DomainError):
        request_id = _request_id(context)
        log.error("a call failed method=%s request_id=%s", method, request_id, exc_info=error)
        error = DomainError(
            Reason.INTERNAL,
            "something went wrong on our side; it is logged under the request_id",
            request_id=request_id,
        )
    await context.abort_with_status(to_status(error))


def roles_of(method: str) -> frozenset[int]:
    """The roles that a method's options name; none for a method without options: nobody may call it."""
    found = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))
    return frozenset(found.GetOptions().Extensions[options_pb2.method].roles)


def find_credential(metadata: Any) -> str | None:
    """The credential of a call: ``authorization: Bearer`` or a role's header; two different are refused."""
    found: set[str] = set()
    for key, value in metadata or ():
        if key == "authorization":
            scheme, _, token = str(value).partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise DomainError(Reason.INVALID_CREDENTIAL, "write the header as Authorization: Bearer KEY")
            found.add(token.strip())
        elif key in _KEY_HEADERS:
            found.add(str(value))
    if len(found) > 1:
        raise DomainError(
            Reason.CONFLICTING_CREDENTIALS, "two different credentials came in one request; send one"
        )
    return found.pop() if found else None


def _request_id(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id":
            return str(value)[:64]
    return secrets.token_hex(8)


def _header(role: str) -> str:
    return "x-admin-token" if role == ADMIN else f"x-{role}-key"


def _or(words: Any) -> str:
    return " or ".join(sorted(words))
