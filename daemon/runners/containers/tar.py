"""Owns the tars that a container engine is given. It must not know the engine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """These files as a tar: everybody may read and run them."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o555
            tar.addfile(entry, io.BytesIO(content))
        end = tar.offset + 2 * tarfile.BLOCKSIZE
    # Podman stops reading where the tar ends, and does not bear the padding that follows.
    return buffer.getvalue()[:end]
