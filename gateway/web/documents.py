"""Owns how a finished document is sent: compressed, and only if the client does not have it yet.

A document is prepared once; a request does no work on its content.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

FOREVER = "public, max-age=31536000, immutable"
ASK_AGAIN = "no-cache"

# Scripts, styles and connections are allowed only from our own origin, and nothing inline. Trusted types
# forbid turning any string into markup, so a server's text can only become text.
SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


class Document:
    """A response body that never changes while this process runs."""

    def __init__(
        self,
        body: bytes,
        media_type: str,
        cache_control: str = ASK_AGAIN,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._body = body
        self._zipped = gzip.compress(body, 9, mtime=0)
        self._media_type = media_type
        self._tag = hashlib.sha256(body).hexdigest()[:32]
        self._headers = {"cache-control": cache_control, "vary": "accept-encoding", **(headers or {})}

    def answer(self, request: Request, headers: Mapping[str, str] | None = None) -> Response:
        """The response to a request: 304 if the client has the document, else its bytes, perhaps gzipped."""
        takes_gzip = bool(_names(request, "accept-encoding") & {"gzip", "*"})
        tag = f'"{self._tag}{"-gz" if takes_gzip else ""}"'
        sent = {**self._headers, "etag": tag, **(headers or {})}
        if {name.removeprefix("W/") for name in _names(request, "if-none-match")} & {tag, "*"}:
            return Response(status_code=304, headers=sent)
        if takes_gzip:
            sent["content-encoding"] = "gzip"
        body = self._zipped if takes_gzip else self._body
        return Response(body, headers=sent, media_type=self._media_type)


def _names(request: Request, header: str) -> set[str]:
    """The items of a list header, without items that `q=0` excludes."""
    items = (item.strip().replace(" ", "") for item in request.headers.get(header, "").split(","))
    return {item.split(";")[0] for item in items if not item.endswith(";q=0")}
