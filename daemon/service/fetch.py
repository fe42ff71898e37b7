"""Fetches files from an https address or a folder, never more than was allowed.

Every download of this program begins with `answering`. It must not know what the files are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urljoin, urlsplit

from daemon.config.config import is_loopback
from daemon.foreign import http

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0
TOTAL_SECONDS = 900.0


class FetchError(Exception):
    """A file could not be fetched; the text says why."""


class BrokenError(FetchError):
    """The same, where another try may help."""


def fetch(source: str, limit_bytes: int) -> bytes:
    """The content of a URL or a file, up to a limit of bytes. Raises FetchError."""
    return _download(source, limit_bytes) if "://" in source else _read(Path(source), limit_bytes)


def beside(source: str, name: str) -> str:
    """The address of a file in the folder of another."""
    return urljoin(source, name) if "://" in source else str(Path(source).parent / name)


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_digest(source: str, data: bytes, sha256: str) -> None:
    """Raises FetchError if what came of a source has another digest; an empty one is not compared."""
    found = hashlib.sha256(data).hexdigest()
    if sha256 and found != sha256.lower():
        raise FetchError(f"{source} has the SHA-256 {found}, not {sha256.lower()}")


def _read(path: Path, limit_bytes: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
    except OSError as error:
        raise FetchError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > limit_bytes:
        raise FetchError(f"{path} is larger than {limit_bytes} bytes")
    return data


@contextmanager
def answering(url: str, headers: Mapping[str, str]) -> Iterator[http.Response]:
    """The answer to a GET, after its redirections, whatever its status and without its body yet.

    Raises FetchError, also for what breaks while the body is read.
    """
    try:
        with http.blocking_client(timeout=TIMEOUT_SECONDS) as client:
            for _ in range(MAX_REDIRECTS + 1):
                _check_scheme(url)
                with client.stream("GET", url, headers=dict(headers)) as answer:
                    if not answer.has_redirect_location:
                        yield answer
                        return
                    url = _redirected(url, answer.headers["location"])
    except http.FAILURES as error:
        raise BrokenError(f"{url} cannot be fetched: {error}") from None
    raise FetchError(f"{url}: more than {MAX_REDIRECTS} redirections")


def _download(url: str, limit_bytes: int) -> bytes:
    deadline = time.monotonic() + TOTAL_SECONDS
    with answering(url, {}) as answer:
        return _body(answer, limit_bytes, deadline)


def _redirected(url: str, location: str) -> str:
    # What began encrypted stays so, also towards this machine.
    target = urljoin(url, location)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise FetchError(f"{target} is not https")
    return target


def _check_scheme(url: str) -> None:
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
