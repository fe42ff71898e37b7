"""Fetching a release: limited in size, and encrypted through every redirection."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from daemon.service.fetch import MAX_REDIRECTS, FetchError, beside, fetch


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: a redirection to a target, or a number of bytes."""

    def do_GET(self) -> None:
        """Sends the answer."""
        action, _, rest = self.path[1:].partition("/")
        if action == "to":
            self.send_response(302)
            self.send_header("Location", rest)
            self.end_headers()
        elif action == "bytes":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"x" * int(rest))
        elif action == "loop":
            self.send_response(302)
            self.send_header("Location", "/loop")
            self.end_headers()
        else:
            self.send_error(404)

    def log_message(self, *arguments: object) -> None:
        """Logs nothing."""


@pytest.fixture
def site() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_file_is_fetched_through_redirections(site: str) -> None:
    assert fetch(f"{site}/bytes/100", 100) == b"x" * 100
    assert fetch(f"{site}/to//bytes/7", 100) == b"x" * 7
    assert fetch(f"{site}/to/{site}/bytes/7", 100) == b"x" * 7


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/bytes/101", "is larger than 100 bytes"),
        ("/bytes/100000000", "is larger than 100 bytes"),
        ("/nothing", "answers 404"),
        ("/loop", f"more than {MAX_REDIRECTS} redirections"),
        ("/to/http://example.com/release.json", "http://example.com/release.json is not https"),
        ("/to/file:///etc/passwd", "file:///etc/passwd is not https"),
    ],
)
def test_oversized_file_or_unsafe_redirection_is_refused(site: str, path: str, message: str) -> None:
    with pytest.raises(FetchError, match=message):
        fetch(f"{site}{path}", 100)


def test_unreachable_address_is_named(site: str) -> None:
    with pytest.raises(FetchError, match="cannot be fetched"):
        fetch("http://127.0.0.1:1/release.json", 100)


def test_wheel_is_fetched_from_beside_the_manifest() -> None:
    assert beside("https://x.example/a/release.json", "b.whl") == "https://x.example/a/b.whl"
    assert beside("/srv/releases/release.json", "b.whl") == "/srv/releases/b.whl"
