"""Owns where a caller's key may stand in a request, and takes it out.

It does not know whom a key belongs to: the server judges. A key never appears in an error here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from gateway.errors import ApiError

ROLE_HEADERS = ("x-provider-key", "x-renter-key", "x-admin-token")
QUERY_NAME = "key"
BODY_NAME = "api_key"

_ROLE_HEADERS = frozenset(name.encode() for name in ROLE_HEADERS)
_BEARER = re.compile(r"bearer +(.+)", re.IGNORECASE | re.DOTALL)
# What can travel as gRPC metadata.
_SENDABLE = re.compile(r"[\x21-\x7e]{1,512}")


def take(
    headers: Iterable[tuple[bytes, bytes]], query: dict[str, list[str]], body: dict[str, Any]
) -> str | None:
    """The one credential of the request; None without one. Removes `key` and `api_key` from where they stood.

    Raises ApiError for two different ones, and for one that cannot be one of ours.
    """
    found = {*_in_headers(headers), *query.pop(QUERY_NAME, ()), _in_body(body)} - {""}
    if not found:
        return None
    if len(found) > 1:
        raise ApiError("CONFLICTING_CREDENTIALS", "The request has two different credentials; send one.")
    credential: str = found.pop()
    if not _SENDABLE.fullmatch(credential):
        raise ApiError("INVALID_CREDENTIAL", "The credential is not one of ours.")
    return credential


def _in_headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[str]:
    for name, value in headers:
        if name in _ROLE_HEADERS:
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
