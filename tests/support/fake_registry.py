"""A registry of container images on 127.0.0.1 with a single image, served by tag and by digest."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.support.private_engine import root_filesystem

MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG = "application/vnd.docker.container.image.v1+json"
LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"


_CHUNK = 256 * 1024
_ENDLESS = 2 * 1024 * 1024 * 1024
_ZEROS = 16 * 1024 * 1024


@dataclass
class Registry:
    """``name``: the image with its tag; ``by_digest``: the same by its digest."""

    name: str
    digest: str
    asked: list[str] = field(default_factory=list)

    @property
    def by_digest(self) -> str:
        """The name of the image with its digest."""
        return f"{self.name.rpartition(':')[0]}@{self.digest}"


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def running_registry(
    filler: bytes = b"", *, zeros: int = 0, architecture: str = "amd64", announces_sizes: bool = True
) -> Iterator[Registry]:
    """Serves busybox as ``team/tool:1``; ``filler`` makes the image another and larger one.

    ``zeros``: a last layer with a file of so many zeros, which takes next to nothing compressed. Its
    content is not the one that the image names, so an engine that unpacks it to the end refuses it.
    ``announces_sizes``: False: it does not say how large a layer is, and its layers do not end for 2 GiB.
    """
    tar = root_filesystem()
    layers = [gzip.compress(part, 1) for part in (tar, _tar_with(filler)) if part]
    diffs = [_digest(gzip.decompress(layer)) for layer in layers]
    if zeros:
        layers.append(_layer_of_zeros(zeros))
        diffs.append(_digest(b"another content"))
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": diffs},
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "size": len(config), "digest": _digest(config)},
            "layers": [
                {"mediaType": LAYER, "size": len(layer), "digest": _digest(layer)} for layer in layers
            ],
        }
    ).encode()
    blobs = {_digest(data): data for data in (config, *layers)}
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(is_head=False)

        def do_HEAD(self) -> None:
            self._answer(is_head=True)

        def _answer(self, *, is_head: bool) -> None:
            asked.append(self.path)
            last = self.path.rpartition("/")[2]
            if self.path == "/v2/":
                status, kind, data = 200, "application/json", b"{}"
            elif "/manifests/" in self.path and last in ("1", _digest(manifest)):
                status, kind, data = 200, MANIFEST, manifest
            elif "/blobs/" in self.path and last in blobs:
                status, kind, data = 200, "application/octet-stream", blobs[last]
            else:
                status, kind, data = 404, "application/json", b'{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'
            self.send_response(status)
            self.send_header("Content-Type", kind)
            is_counted = announces_sizes or "/blobs/" not in self.path or data is config
            if is_counted:
                self.send_header("Content-Length", str(len(data)))
            else:
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Docker-Content-Digest", _digest(data))
            self.end_headers()
            if is_head:
                return
            if is_counted:
                self.wfile.write(data)
                return
            chunk = os.urandom(_CHUNK)
            with contextlib.suppress(OSError):  # whoever reads has left
                for _ in range(_ENDLESS // _CHUNK):
                    self.wfile.write(b"%x\r\n%s\r\n" % (_CHUNK, chunk))
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            """Logs nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Registry(f"127.0.0.1:{server.server_port}/team/tool:1", _digest(manifest), asked)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _tar_with(content: bytes) -> bytes:
    if not content:
        return b""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("filler")
        entry.size = len(content)
        tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _layer_of_zeros(size: int) -> bytes:
    entry = tarfile.TarInfo("zeros")
    entry.size = size - size % _ZEROS
    # Joined streams of gzip are one stream.
    piece = gzip.compress(bytes(_ZEROS), 9)
    return gzip.compress(entry.tobuf()) + piece * (size // _ZEROS) + gzip.compress(bytes(1024))
