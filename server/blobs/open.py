"""Opens the store of blobs that a setting names."""

from __future__ import annotations

from pathlib import Path

from server.blobs import Blobs
from server.blobs.files import FileBlobs


def open_blobs(url: str) -> Blobs:
    """The store at ``file:FOLDER`` or ``s3://BUCKET/PREFIX``. It is not contacted before its first use."""
    kind, _, place = url.partition(":")
    if kind == "file":
        # file:///folder and file:/folder are the same; file:folder is relative to the working directory.
        return FileBlobs(Path(place.removeprefix("//")))
    from server.blobs.s3 import S3Blobs

    bucket, _, prefix = place.removeprefix("//").partition("/")
    return S3Blobs(bucket, prefix.strip("/"))
