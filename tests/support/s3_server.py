"""A real S3-compatible server on this machine: moto's, as a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx

BUCKET = "artifacts"
SETTINGS = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """The variables that an S3 client reads."""
        return {
            "AWS_ENDPOINT": self.url,
            "AWS_ALLOW_HTTP": "true",
            **{f"AWS_{name.upper()}": value for name, value in SETTINGS.items()},
        }

    def empty(self) -> None:
        """Forgets everything, and makes the bucket anew."""
        httpx.post(f"{self.url}/moto-api/reset", trust_env=False).raise_for_status()
        httpx.put(f"{self.url}/{BUCKET}", trust_env=False).raise_for_status()

    def keys(self) -> list[str]:
        """The objects that there are."""
        answer = httpx.get(f"{self.url}/{BUCKET}", params={"list-type": "2"}, trust_env=False)
        return re.findall(r"<Key>([^<]*)</Key>", answer.raise_for_status().text)

    def unfinished(self) -> int:
        """How many uploads in parts were begun and neither ended nor given up."""
        answer = httpx.get(f"{self.url}/{BUCKET}?uploads", trust_env=False)
        return answer.raise_for_status().text.count("<UploadId>")


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server on 127.0.0.1, ended with the block."""
    command = (sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r"Running on (http://127\.0\.0\.1:\d+)", line):
                server = S3Server(found[1])
                server.empty()
                yield server
                return
        raise AssertionError("the S3 server ended before it served")
    finally:
        process.kill()
        process.communicate()
