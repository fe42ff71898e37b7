"""Starts the command `dcp`."""

from __future__ import annotations

import io
import sys

from dcp_client.settings import environment


def main() -> int:
    """Runs the command; returns its exit code."""
    try:
        from dcp_client.cli.program import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print("dcp: this needs typer and rich: pip install 'dcp-client[cli]'", file=sys.stderr)
        return 2
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without these letters ends no command
    return run(sys.argv[1:], environment())


if __name__ == "__main__":
    sys.exit(main())
