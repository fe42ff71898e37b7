"""Owns the cookies of browsers: how they are read and set, and which requests may use them.

A browser sends a cookie without the person's doing, so a request that uses one must come from one of our
own pages. It does not know whose a log-in is: the server checks it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from dcp.v1 import options_pb2
from google.protobuf.descriptor import Descriptor
from starlette.types import Scope

from gateway.errors import ApiError

LOG_IN_PREFIX = "dcp-session-"
"""How the secret of a log-in begins. Only its cookie carries it, never a header."""
SESSION = "session"
OWN_PAGE = b"dcp-page"
"""The header, with the value 1, by which a form of our own pages differs from one of another site."""
_SAFE = frozenset(("GET", "HEAD"))
_MEDIA_TYPES = frozenset(("application/json", "application/octet-stream"))
_FORM = "multipart/form-data"
# The values that our cookies have; any other is ignored.
_VALUE = re.compile(r"[A-Za-z0-9_-]{1,100}")

RawHeaders = Iterable[tuple[bytes, bytes]]


def cookie_fields(message: Descriptor) -> Mapping[str, options_pb2.CookieRule]:
    """The fields of a message that are cookies, by name."""
    rules = {field.name: field.GetOptions().Extensions[options_pb2.field] for field in message.fields}
    return {name: rule.cookie for name, rule in rules.items() if rule.cookie.name}


def read_cookie(scope: Scope, name: str) -> str | None:
    """The value of one of our cookies; None if it is missing, cannot be ours, or is there twice."""
    wanted, found = _full_name(scope, name), []
    for header, value in scope["headers"]:
        if header == b"cookie":
            pairs = (pair.strip().partition("=") for pair in value.decode("latin-1").split(";"))
            found += [text for key, _, text in pairs if key == wanted and _VALUE.fullmatch(text)]
    return found[0] if len(found) == 1 else None


def log_in_of(scope: Scope) -> str | None:
    """The log-in that a request of one of our own pages carries, or None. Raises CROSS_ORIGIN."""
    session = read_cookie(scope, SESSION)
    if session is None or not session.startswith(LOG_IN_PREFIX):
        return None
    check_own_page(scope)
    return session


def check_own_page(scope: Scope) -> None:
    """Raises CROSS_ORIGIN for a request that one of our own pages did not make.

    A request that changes something must say that it comes from here, and be of a media type that a form of
    another site cannot send: JSON, or raw bytes. A form of ours says so in a header, which such a form cannot
    have either. One that only reads may leave that out: only its reader gets the answer.
    """
    headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
    is_safe = scope["method"] in _SAFE
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    # Browsers send the first over TLS and to this machine. It holds behind proxies that change Host, too.
    if site is not None:
        is_ours = site == "same-origin" or (is_safe and site == "none")
    elif origin is not None:
        is_ours = urlsplit(origin).netloc == headers.get(b"host")
    elif is_safe:
        return
    else:
        raise _cross_origin("it does not say which page it comes from; send the header Origin")
    if not is_ours:
        raise _cross_origin("it comes from a page of another site")
    if is_safe:
        return
    media_type = headers.get(b"content-type", "").partition(";")[0].strip().lower()
    if media_type not in _MEDIA_TYPES and not (media_type == _FORM and headers.get(OWN_PAGE) == "1"):
        raise _cross_origin("its Content-Type must be application/json")


def set_cookie(scope: Scope, rule: options_pb2.CookieRule, value: str) -> tuple[str, str]:
    """The header that stores a cookie, or removes it if the value is empty."""
    parts = [f"{_full_name(scope, rule.name)}={value}", "Path=/", "HttpOnly", "SameSite=Strict"]
    parts.append(f"Max-Age={rule.max_age_seconds if value else 0}")
    if _is_secure(scope):
        parts.append("Secure")
    return "set-cookie", "; ".join(parts)


def _full_name(scope: Scope, name: str) -> str:
    """With TLS its prefix makes browsers refuse it from anywhere but this host, over TLS."""
    return f"__Host-dcp-{name}" if _is_secure(scope) else f"dcp-{name}"


def _is_secure(scope: Scope) -> bool:
    return scope.get("scheme") == "https"


def _cross_origin(why: str) -> ApiError:
    return ApiError("CROSS_ORIGIN", f"A log-in by cookie works only on this site's own pages: {why}.")
