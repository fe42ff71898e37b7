"""Runs the parts of a script that drives a client of another API against a market.

The scripts beside this one run in environments of their own. They know no module of this repository but this
one, and read from their environment: BASE_URL (without /v1), API_KEY, MODEL, PARTS (names of parts, separated
by spaces), EXPECT (a text that each answer has; may be empty) and TOOLS (0: offer no tools).
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

ROOT = os.environ["BASE_URL"]
V1 = f"{ROOT}/v1"
KEY = os.environ["API_KEY"]
MODEL = os.environ["MODEL"]
HAS_TOOLS = os.environ.get("TOOLS") != "0"
QUESTION = "What is the weather in Riyadh?"
CITY_SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}


def run(parts: Mapping[str, Callable[[], Any]]) -> NoReturn:
    """Runs the wanted parts and prints what each returned; exits with 1 if one failed.

    A text is an answer of the model; anything else only has to be there.
    """
    failed = False
    for name in os.environ["PARTS"].split():
        try:
            found = parts[name]()
            assert found, f"nothing came: {found!r}"
            if isinstance(found, str):
                assert os.environ.get("EXPECT", "") in found, found
            print(f"{name}: {found}")
        except Exception as error:
            failed = True
            traceback.print_exc()
            print(f"{name}: FAILED {type(error).__name__}: {error}")
    sys.exit(failed)
