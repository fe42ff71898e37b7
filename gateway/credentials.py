"""Owns the places of a request that can carry the caller's key, and removes the key from them.

It does not know the owner of a key: the server checks it. A key never appears in an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from starlette.types import Scope

from gateway.browsers import LOG_IN_PREFIX, log_in_of
from gateway.errors import ApiError

ROLE_HEADERS = ("x-provider-key", "x-renter-key", "x-admin-token")
QUERY_NAME = "key"
BODY_NAME = "api_key"

# The last is that of other APIs, whose clients call /v1.
_KEY_HEADERS = frozenset(name.encode() for name in (*ROLE_HEADERS, "x-api-key"))
_BEARER = re.compile(r"bearer +(.+)", re.IGNORECASE | re.DOTALL)
# The values that gRPC metadata can carry.
_SENDABLE = re.compile(r"[\x21-\x7e]{1,512}")


def of_request(scope: Scope, query: dict[str, list[str]], body: dict[str, Any]) -> str | None:
    """Returns the request's credential, else the log-in of the browser that sent it, else None.

    Removes credentials as ``take`` does. Raises ApiError as it does, and CROSS_ORIGIN.
    """
    credential = take(scope["headers"], query, body)
    return log_in_of(scope) if credential is None else credential


def take(
    headers: Iterable[tuple[bytes, bytes]], query: dict[str, list[str]], body: dict[str, Any]
) -> str | None:
    """Returns the request's credential, or None. Removes `key` from the query and `api_key` from the body.

    Raises ApiError for two different credentials, and for one that cannot be a key of this marketplace.
    """
    found = {*_in_headers(headers), *query.pop(QUERY_NAME, ()), _in_body(body)} - {""}
    if not found:
        return None
    if len(found) > 1:
        raise ApiError("CONFLICTING_CREDENTIALS", "The request has two different credentials; send only one.")
    credential: str = found.pop()
    if not _SENDABLE.fullmatch(credential) or credential.startswith(LOG_IN_PREFIX):
        raise ApiError("INVALID_CREDENTIAL", "The credential is not a key of this marketplace; check it.")
    return credential


def _in_headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    for name, value in headers:
        if name in _KEY_HEADERS:
            yield value.decode("latin-1").strip()
        elif name == b"authorization":
            match = _BEARER.fullmatch(value.decode("latin-1").strip())
            if match is None:
                raise ApiError("INVALID_CREDENTIAL", "The header Authorization must be `Bearer` and a key.")
            yield match[1]


def _in_body(body: dict[str, Any]) -> str:
    value = body.pop(BODY_NAME, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ApiError("INVALID_FIELD", f"{BODY_NAME} must be a string.", field=BODY_NAME)
    return value
