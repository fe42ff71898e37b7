"""``dcp-server``: reads the settings, serves until SIGTERM or SIGINT, drains, exits; or proves the ledger."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import uvloop

from common.files import raise_file_limit
from common.printing import print_anything
from server import logs
from server.config import VARIABLES, Config
from server.program import collect_seldom, exit_status, leave_out_drivers, stop_signal
from server.version import CURRENT

_PROVE = """\
Replays every transfer of the ledger from empty accounts, and compares the result with the stored balances,
holds, withdrawals and deletions. It also verifies the checkpoints that /api/admin/ledger/proof starts from.

It reads one snapshot of the database of DCP_DATABASE_URL; the server may be running. It changes nothing, and
its memory depends on accounts and open holds, not on transfers. Progress goes to the error stream."""
_PROVE_EXIT = """\
exit status:
  0  the ledger balances
  1  it does not; each discrepancy is a line
  2  a setting is wrong, or the database cannot be read

example:
  DCP_DATABASE_URL=sqlite:////var/lib/dcp/dcp.sqlite3 dcp-server prove"""


def main(argv: Sequence[str] | None = None) -> int:
    """The console command. Exit status 0 after a drain, 2 on a bad setting; see also server.prove."""
    # Nothing that this process makes is for other users of the machine.
    os.umask(0o077)
    print_anything()
    raise_file_limit()
    arguments = _parser().parse_args(argv)
    return exit_status("dcp-server", lambda: _run(arguments.command))


def _run(command: str | None) -> int:
    config = Config.from_env(os.environ)
    logs.set_up(config.log_level)
    leave_out_drivers(config.database_url)
    if command == "prove":
        from server import prove  # like server.app, it loads the drivers that are not left out

        return prove.run(config.database_url)
    uvloop.run(_serve(config))
    return 0


async def _serve(config: Config) -> None:
    from server.app import Server

    collect_seldom()
    stop = stop_signal()
    server = Server(config)
    await server.start()
    print(f"ready {server.address}", flush=True)
    await stop.wait()
    await server.stop()


def _parser() -> argparse.ArgumentParser:
    table = "\n".join(f"  {v.name:<18} {v.meaning} (default: {v.default or 'unset'})" for v in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="dcp-server",
        description="The marketplace's server: accounts, jobs, money, and the daemons' sessions, over gRPC.\n"
        "Without a command it serves until SIGTERM, and stops after a drain.",
        epilog=f"settings, from the environment:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=CURRENT)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    commands.add_parser(
        "prove",
        help="replay the whole ledger and verify its checkpoints",
        description=_PROVE,
        epilog=_PROVE_EXIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
