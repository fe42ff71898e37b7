"""Runs moto's S3-compatible server on this machine, in a separate process."""

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
# The first request makes moto import its S3, which takes a busy machine more than the usual five seconds.
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for an S3 client."""
        return {
            "AWS_ENDPOINT": self.url,
            "AWS_ALLOW_HTTP": "true",
            **{f"AWS_{name.upper()}": value for name, value in SETTINGS.items()},
        }

    def empty(self) -> None:
        """Deletes everything and creates the bucket again."""
        httpx.post(f"{self.url}/moto-api/reset", trust_env=False, timeout=PATIENCE_SECONDS).raise_for_status()
        httpx.put(f"{self.url}/{BUCKET}", trust_env=False, timeout=PATIENCE_SECONDS).raise_for_status()

    def keys(self) -> list[str]:
        """The keys of all objects."""
        answer = httpx.get(
            f"{self.url}/{BUCKET}", params={"list-type": "2"}, trust_env=False, timeout=PATIENCE_SECONDS
        )
        return re.findall(r"<Key>([^<]*)</Key>", answer.raise_for_status().text)

    def unfinished(self) -> int:
        """How many multipart uploads were started and neither completed nor aborted."""
        answer = httpx.get(f"{self.url}/{BUCKET}?uploads", trust_env=False, timeout=PATIENCE_SECONDS)
        return answer.raise_for_status().text.count("<UploadId>")


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Runs the server on 127.0.0.1 until the block ends."""
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
