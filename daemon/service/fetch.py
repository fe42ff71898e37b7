"""Fetches a release's files from an https address or a folder, never more than was allowed.

It must not know what the files are.
"""

from __future__ import annotations

import time
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from daemon.config.config import is_loopback
from daemon.foreign import http

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0
TOTAL_SECONDS = 900.0


class FetchError(Exception):
    """A file could not be fetched; the text says why."""


def fetch(source: str, limit_bytes: int) -> bytes:
    """The content of a URL or a file, up to a limit of bytes. Raises FetchError."""
    return _download(source, limit_bytes) if "://" in source else _read(Path(source), limit_bytes)


def beside(source: str, name: str) -> str:
    """The address of a file in the folder of another."""
    return urljoin(source, name) if "://" in source else str(Path(source).parent / name)


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit_bytes:
        raise FetchError(f"{path} is larger than {limit_bytes} bytes")
    return data


def _download(url: str, limit_bytes: int) -> bytes:
    deadline = time.monotonic() + TOTAL_SECONDS
    try:
        with http.blocking_client(timeout=TIMEOUT_SECONDS) as client:
            for _ in range(MAX_REDIRECTS + 1):
                _check_scheme(url)
                with client.stream("GET", url) as answer:
                    if not answer.has_redirect_location:
                        return _body(answer, limit_bytes, deadline)
                    url = urljoin(url, answer.headers["location"])
    except http.FAILURES as error:
        raise FetchError(f"{url} cannot be fetched: {error}") from None
    raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirections")


def _check_scheme(url: str) -> None:
    # Also after each redirection: what began encrypted stays so.
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and is_loopback(f"{parts.hostname}:0")):
        return
    raise FetchError(f"{url} is not https")


def _body(answer: http.Response, limit_bytes: int, deadline: float) -> bytes:
    if answer.status_code != http.OK:
        raise FetchError(f"{answer.url} answers {answer.status_code}")
    data = bytearray()
    for piece in answer.iter_bytes():
        data += piece
        if len(data) > limit_bytes:
            raise FetchError(f"{answer.url} is larger than {limit_bytes} bytes")
        if time.monotonic() > deadline:
            raise FetchError(f"{answer.url} took longer than {TOTAL_SECONDS:.0f} s")
    return bytes(data)
