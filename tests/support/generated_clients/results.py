"""What the programs with generated clients ask for, and how they print what they got."""

from __future__ import annotations

import hashlib
import json

from tests.support.file_daemon import order
from tests.support.scripted_daemon import MODEL as MODEL

PROMPT = order(model__weights=3)


def show(status: str, response: str, is_listed: bool, file: bytes, refusal: str) -> None:
    """Prints one line of JSON."""
    digest = hashlib.sha256(file).hexdigest()
    print(json.dumps([status, response, is_listed, digest, refusal]))  # noqa: T201
