"""The interceptor of every method: identifies the caller, checks roles, scopes and limits, and maps errors.

The rules come from the methods' proto options. It does not know what a method does.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NamedTuple, cast
from weakref import WeakValueDictionary

import grpc
from dcp.v1 import options_pb2, sessions_pb2
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor

from common import logs, tracing
from common.telemetry import OFF, Telemetry
from common.tracing import Traces
from server.domain.errors import DomainError, Reason, outcome_unknown
from server.domain.keys import Scope
from server.domain.operators import OperatorRole, refuse_role
from server.domain.reads import Purpose, end_of_reads, reading_for
from server.rpc.addresses import Addresses
from server.rpc.context import Context
from server.rpc.enums import member_map
from server.rpc.errors import to_status
from server.rpc.limits import RateLimits
from server.rpc.measures import Measures, NoteCall
from server.rpc.traced import Traced
from server.rpc.validate import validate
from server.services.keys import ADMIN, GATEWAY, Caller, Credentials
from server.services.operators.audit import Operator

log = logging.getLogger(__name__)

_caller: ContextVar[Caller] = ContextVar("caller")
_address: ContextVar[str] = ContextVar("address")
_ROLE_NAMES: dict[int, str] = {
    options_pb2.ROLE_PROVIDER: "provider",
    options_pb2.ROLE_RENTER: "renter",
    options_pb2.ROLE_ADMIN: ADMIN,
    options_pb2.ROLE_GATEWAY: GATEWAY,
}
_SCOPES = member_map(Scope, options_pb2.Scope)
_OPERATOR_ROLES = member_map(OperatorRole, options_pb2.OperatorRole)
_A_KEY = {
    "provider": "a provider's key",
    "renter": "a renter's key",
    ADMIN: "an operator's key",
    GATEWAY: "a gateway's certificate",
}
# Their texts say that nothing was changed.
_SAY_NOTHING_CHANGED = (Reason.STORE_UNAVAILABLE, Reason.OVERLOADED)
_KEY_HEADERS = ("x-provider-key", "x-renter-key", "x-admin-token")
ACCOUNT_HEADER = "x-account"
SAY_WHY_SECONDS = 1.0
_OPEN_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")
Continuation = Callable[[grpc.HandlerCallDetails], Awaitable[Any]]


def caller() -> Caller:
    """The caller of the current method. Use it only in methods that are not public."""
    return _caller.get()


def caller_address() -> str:
    """The address that the current call comes from, as far as it is known; the gateway is seen through."""
    return _address.get()


def operator(context: Context) -> Operator:
    """The operator whose credential the current call has. Use it only in methods that admit operators."""
    return Operator(caller().name, request_id(context))


class Authentication(grpc.aio.ServerInterceptor):
    """Wraps every method: rate limits, credentials, the limits of the request's fields, and errors.

    A call is admitted if its credential has one of the roles that the method's options name. Its request is
    checked only after that, so that unknown callers learn nothing. An exception of the method becomes a
    status; an unexpected one is logged under an id, and the caller gets only the id.
    """

    def __init__(
        self,
        keys: Credentials,
        limits: RateLimits,
        addresses: Addresses,
        note_unknown: Callable[[str, str], None],
        note_call: NoteCall,
        telemetry: Telemetry = OFF,
        traces: Traces = tracing.OFF,
    ) -> None:
        """``note_unknown`` gets each credential that no account has, and the address that sent it;
        ``note_call`` gets each call with one answer when it has ended.
        """
        self._note_unknown = note_unknown
        self._measures = Measures(telemetry, note_call)
        self._traced = Traced(traces, self._is_gateway)
        self._keys = keys
        self._limits = limits
        self._addresses = addresses
        self._wrapped: dict[str, Any] = {}
        # The look-ups of each address that sent too many unknown keys, while there are any.
        self._lookups: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def intercept_service(self, continuation: Continuation, details: grpc.HandlerCallDetails) -> Any:
        """The method's wrapped handler; each method is wrapped once, at its first call."""
        method = str(details.method)
        if method not in self._wrapped:
            handler = await continuation(details)
            if handler is None:
                return handler
            is_open = method.startswith(_OPEN_SERVICES)
            wrapped = (self._wrap_open if is_open else self._wrap)(method, handler)
            # Probes of health come every few seconds and say nothing.
            traced = wrapped if is_open else self._traced.of(method, wrapped)
            self._wrapped[method] = self._measures.of(method, traced)
        return self._wrapped[method]

    def _wrap(self, method: str, handler: Any) -> Any:
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self.unary(method, handler.unary_unary), **codecs)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self.unary(method, handler.unary_stream), **codecs)
        return grpc.stream_stream_rpc_method_handler(self.stream(method, handler.stream_stream), **codecs)

    def _wrap_open(self, method: str, handler: Any) -> Any:
        """Wraps a method of health or reflection, which needs no credential but passes the same limits."""
        codecs = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._open(method, handler.unary_unary), **codecs)

        async def watch(request: Any, context: Context) -> None:
            with self._limits.open_stream(self._address(context)):
                await handler.unary_stream(request, context)

        async def reflect(requests: Any, context: Context) -> None:
            with self._limits.open_stream(self._address(context)):
                async for answer in handler.stream_stream(self._counted(requests, context), context):
                    await context.write(answer)

        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._open(method, watch), **codecs)
        return grpc.stream_stream_rpc_method_handler(self._open(method, reflect), **codecs)

    def _open(self, method: str, inner: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            try:
                self._limits.count_call(options_pb2.RATE_CLASS_UNSPECIFIED, self._address(context))
                return await inner(request, context)
            except Exception as error:
                await _abort(method, error, context)

        return call

    async def _counted(self, requests: Any, context: Context) -> AsyncIterator[Any]:
        async for request in requests:
            self._limits.count_call(options_pb2.RATE_CLASS_UNSPECIFIED, self._address(context))
            yield request

    def _address(self, context: Context) -> str:
        return self._addresses.of(
            context.peer(), context.invocation_metadata(), is_certified=self._is_certified(context)
        )

    def _is_certified(self, context: Context) -> bool:
        """Whether the call comes from a gateway, where these need a certificate; else from anywhere."""
        return not self._addresses.needs_certificate or bool(context.peer_identities())

    def _is_gateway(self, context: Context) -> bool:
        """Whether a gateway calls: from where they are and, where they need one, with a certificate."""
        return self._is_certified(context) and self._addresses.is_gateway(context.peer())

    def unary(self, method: str, inner: Any) -> Any:
        """Wraps a method with one request; a method with many answers writes them to the context."""
        rule = rule_of(method)

        async def call(request: Any, context: Context) -> Any:
            try:
                await self._admit(rule, context)
                validate(request)
                with reading_for(self._purpose(rule, context)) as purpose:
                    try:
                        return await inner(request, context)
                    except DomainError as error:
                        if purpose.has_written and error.reason in _SAY_NOTHING_CHANGED:
                            raise outcome_unknown() from error
                        raise
            except Exception as error:
                await _abort(method, error, context)

        return call

    def stream(self, method: str, inner: Any) -> Any:
        """Wraps a method with a stream of requests, which validates each request itself.

        A stream whose messages can say why it ends says it before its status: see ``_say_why``.
        """
        rule = rule_of(method)
        says_why = _is_session(method)

        async def call(requests: Any, context: Context) -> None:
            try:
                await self._admit(rule, context)
                await inner(requests, context)
            except Exception as error:
                await _abort(method, error, context, says_why=says_why)

        return call

    def _purpose(self, rule: Rule, context: Context) -> Purpose:
        """What the call's reads are for: whose they are, how long the caller waits, and whether they grow."""
        owner = ("", self._address(context)) if rule.is_public else (caller().role, caller().id)
        end_s = end_of_reads(asyncio.get_running_loop().time(), context.time_remaining())
        return Purpose(owner, end_s, rule.may_grow)

    async def _admit(self, rule: Rule, context: Context) -> None:
        metadata = context.invocation_metadata()
        if given := _given_id(context):
            logs.begin_request(given)
        address = self._address(context)
        _address.set(address)
        self._limits.count_call(rule.rate, address)
        if rule.is_public:
            return
        names = rule.names
        if names == {ADMIN}:
            await self._keys.require_admin_configured()
        credential = find_credential(metadata)
        if credential is None and GATEWAY in names and context.peer_identities():
            _caller.set(Caller(GATEWAY))
            return
        if credential is None:
            raise DomainError(Reason.MISSING_CREDENTIAL, _missing(names))
        found = await self._identify(credential, address)
        if found.role not in names:
            raise DomainError(
                Reason.WRONG_ROLE,
                f"this needs {_or(_A_KEY[name] for name in names)}, not {_A_KEY[found.role]}",
            )
        if found.role == ADMIN and not self._is_certified(context):
            raise DomainError(
                Reason.WRONG_ROLE,
                "operators' calls are accepted only from gateways with a certificate (DCP_GATEWAY_LISTEN)",
            )
        self._limits.count_caller(found)
        if found.operator is not None:
            refuse_role(found.operator, rule.operator)
        _refuse_scope(rule, found)
        _caller.set(found)
        # For the gateway's log, which knows only credentials.
        context.set_trailing_metadata(((ACCOUNT_HEADER, f"{found.role}:{found.id}"),))

    async def _identify(self, credential: str, address: str) -> Caller:
        """The caller: a valid credential passes from every address.

        Further unknown credentials of an address that sent too many are answered RATE_LIMITED, and
        its keys are looked up one at a time, so that guesses keep no reader busy but one.
        """
        if (known := self._keys.recall(credential)) is not None:
            return known
        refusal = self._limits.refusal_of_guesses(address)
        try:
            if refusal is None:
                return await self._keys.identify(credential)
            async with self._lookups.setdefault(address, asyncio.Lock()):
                return await self._keys.identify(credential)
        except DomainError as error:
            if error.reason is not Reason.INVALID_CREDENTIAL:
                raise
            if refusal is not None:
                raise refusal from None
            self._limits.count_failed_key(address)
            self._note_unknown(credential, address)
            raise


def refuse_scope(method: str) -> None:
    """Raises MAIN_KEY_NEEDED, MISSING_SCOPE if the caller's key does not allow a further method."""
    _refuse_scope(rule_of(method), caller())


def _refuse_scope(rule: Rule, found: Caller) -> None:
    """Raises MAIN_KEY_NEEDED or MISSING_SCOPE for a sub-key whose scopes do not allow the method."""
    if found.scopes is None or found.scopes & rule.scopes:
        return
    if not rule.scopes:
        raise DomainError(Reason.MAIN_KEY_NEEDED, "this needs the account's main key; a sub-key was sent")
    raise DomainError(
        Reason.MISSING_SCOPE,
        f"this needs a key with the scope {_or(rule.scopes)}; this sub-key has {_and(found.scopes)}",
    )


async def _abort(method: str, error: Exception, context: Context, *, says_why: bool = False) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, DomainError):
        number = request_id(context)
        log.error("a call failed method=%s request_id=%s", method, number, exc_info=error)
        error = DomainError(
            Reason.INTERNAL,
            "the server failed unexpectedly; try again, or report the request_id to the operator",
            request_id=number,
        )
    else:
        log.debug("refused a call method=%s reason=%s", method, error.reason.value)
    tracing.note("error.type", error.reason.value)
    if says_why:
        await _say_why(context, error)
    status = to_status(error)
    known = tuple(context.trailing_metadata() or ())
    if known:
        ended = _Ended(status.code, status.details, (*status.trailing_metadata, *known))
        status = cast(grpc.Status, ended)
    await context.abort_with_status(status)


class _Ended(NamedTuple):
    """A status with further metadata."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str | bytes], ...]


def _is_session(method: str) -> bool:
    """Whether the stream's messages can be the reason of its end."""
    return _method(method).output_type.full_name == sessions_pb2.ServerMessage.DESCRIPTOR.full_name


async def _say_why(context: Context, error: DomainError) -> None:
    """Sends the reason as a message: a daemon that writes meanwhile often loses the status of the stream.

    Waits for no daemon that does not read.
    """
    refusal = sessions_pb2.SessionRefusal(reason=error.reason.value, message=error.message)
    writing = asyncio.ensure_future(context.write(sessions_pb2.ServerMessage(refusal=refusal)))
    await asyncio.wait([writing], timeout=SAY_WHY_SECONDS)
    # What it raises says only that the stream is gone.
    writing.add_done_callback(lambda task: task.cancelled() or task.exception())


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method, by its options. By default no caller may."""

    names: frozenset[str] = frozenset()
    """The names of the roles that may call it, as in Caller.role."""
    is_public: bool = False
    rate: int = options_pb2.RATE_CLASS_UNSPECIFIED
    scopes: frozenset[Scope] = frozenset()
    """A sub-key needs any of them; if empty, only main keys may call it."""
    may_grow: bool = False
    """What it reads grows with what is stored."""
    operator: OperatorRole = OperatorRole.ADMIN
    """The least role of an operator that may call it."""


def rule_of(method: str) -> Rule:
    """The rule of a method; a method without options admits no caller."""
    options = _method(method).GetOptions().Extensions[options_pb2.method]
    names = frozenset(_ROLE_NAMES[role] for role in options.roles if role in _ROLE_NAMES)
    scopes = frozenset(_SCOPES[scope] for scope in options.scopes if scope in _SCOPES)
    return Rule(
        names,
        options_pb2.ROLE_PUBLIC in options.roles,
        options.rate,
        scopes,
        options.may_grow,
        _OPERATOR_ROLES.get(options.operator_role, OperatorRole.ADMIN),
    )


def _method(method: str) -> MethodDescriptor:
    return descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))


def find_credential(metadata: Any) -> str | None:
    """The credential of a call, from ``authorization: Bearer`` or a role's header; None without one.

    Raises INVALID_CREDENTIAL, and CONFLICTING_CREDENTIALS for two different ones.
    """
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
            Reason.CONFLICTING_CREDENTIALS, "the request has different credentials; send only one"
        )
    return found.pop() if found else None


def request_id(context: Context) -> str:
    """The id of the request from its ``x-request-id``, which the gateway sets; a new id without it."""
    return _given_id(context) or secrets.token_hex(8)


def _given_id(context: Context) -> str:
    """The id that the caller gave to the request; empty without a valid one."""
    given = (str(value) for key, value in context.invocation_metadata() or () if key == "x-request-id")
    return next(filter(logs.is_request_id, given), "")


def _missing(names: frozenset[str]) -> str:
    """What a call without a credential needs."""
    with_keys = names - {GATEWAY}
    if names and not with_keys:
        return "this is for gateways with a certificate (DCP_GATEWAY_LISTEN)"
    return (
        f"this needs {_or(_A_KEY[name] for name in with_keys)}: send it as Authorization: Bearer KEY, "
        f"or in the header {_or(_header(name) for name in with_keys)}"
    )


def _header(role: str) -> str:
    return "x-admin-token" if role == ADMIN else f"x-{role}-key"


def _and(words: Any) -> str:
    return " and ".join(sorted(words))


def _or(words: Any) -> str:
    return " or ".join(sorted(words))
