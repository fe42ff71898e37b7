"""Reads the GPUs through the daemon's own code, for the tests with the stub.

Each argument is a script; each gives one line of JSON: the status, what was
detected, and how many warnings there have been.
"""

import json
import logging
import os
import sys
from pathlib import Path

from google.protobuf.json_format import MessageToDict

from daemon.gpus.detect import detect


class Counter(logging.Handler):
    """Counts warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """One more."""
        self.count += record.levelno >= logging.WARNING


def main() -> None:
    """Reads once per script."""
    counter = Counter()
    logging.getLogger().addHandler(counter)
    script = Path(os.environ["NVML_STUB_SCRIPT"])
    gpus = None
    for stage in sys.argv[1:]:
        script.write_text(stage + "\n")
        gpus = gpus or detect()
        status = MessageToDict(gpus.read(), preserving_proto_field_name=True)
        line = {"status": status, "name": gpus.name, "reason": gpus.reason, "warnings": counter.count}
        sys.stdout.write(json.dumps(line) + "\n")
    if gpus is not None:
        gpus.close()


if __name__ == "__main__":
    main()
