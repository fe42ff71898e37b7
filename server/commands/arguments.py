"""The command line of ``dcp-server``: its commands, and the help that teaches them.

It must load nothing of the database: the drivers that are not needed are left out only after it was read.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from server.config import VARIABLES
from server.domain.operators import OperatorRole
from server.version import CURRENT


class _Command(NamedTuple):
    name: str
    help: str
    description: str
    epilog: str


_BACKUP = _Command(
    "backup",
    "write a verified copy of the database to a file, while the server runs",
    """\
Writes a copy of the database of DCP_DATABASE_URL to FILE: everything that was committed when it began.
The server can be running, and nothing of its database is changed.

SQLite is copied by its online backup, and the copy is checked whole before it gets its name. PostgreSQL is
dumped by pg_dump, which must be installed and not be older than the database's server.

FILE can be read by its owner only: it holds e-mail addresses, prompts and bank accounts. An existing file is
never overwritten. The files of jobs (DCP_BLOB_STORE) are not in it: copy that folder or bucket too.""",
    """\
exit status:
  0  the copy is on the disk and whole; its size, schema and rows are printed
  2  nothing was written: FILE exists, a setting is wrong, or the database cannot be read

example, for a timer:
  export DCP_DATABASE_URL=sqlite:////var/lib/dcp/dcp.sqlite3
  dcp-server backup /backup/dcp-$(date +%F-%H%M).sqlite3""",
)
_RESTORE = _Command(
    "restore",
    "put a backup in the place of the database, and prove its ledger",
    """\
Puts a copy that `dcp-server backup` wrote into the place that DCP_DATABASE_URL names. FILE stays as it is.

First the copy is checked: that it is whole, that it is a database of this program, and that it is not newer
than the program. An older one is migrated. Then the ledger is replayed, as `dcp-server prove` does.

It refuses while any program has the database open: stop the server first. It refuses to replace a database
unless --replace is given, which keeps the old one: SQLite's as FILE.before-restore-TIME beside the new one,
PostgreSQL's as the schema before_restore_TIME in the same database. Delete it when you are sure.

What happened after the backup is lost. When the server is started, daemons come back by themselves, and what
they report and the restored database does not have is discarded: docs/operators.md, "After a restore".""",
    """\
exit status:
  0  restored, and the ledger balances
  1  restored, and the ledger does not balance; each discrepancy is a line
  2  nothing was changed: the reason is one line on the error stream

example:
  systemctl stop dcp-server
  export DCP_DATABASE_URL=sqlite:////var/lib/dcp/dcp.sqlite3
  dcp-server restore --replace /backup/dcp-2026-11-28.sqlite3
  systemctl start dcp-server""",
)
_MIGRATE = _Command(
    "migrate",
    "bring the schema of the database to this program's version",
    """\
Runs the migrations that the database of DCP_DATABASE_URL lacks, and prints their names. The server does the
same at its start; run it before the start to see how long it takes. Take a backup first: nothing undoes them.

With --check it changes nothing, and prints what would run. It also says when the database would be new.""",
    """\
exit status:
  0  the schema is this program's (with --check: nothing would run)
  1  only with --check: the migrations that were printed would run
  2  a setting is wrong, the database cannot be read, or it is newer than this program

example, before an upgrade, with the new program:
  dcp-server migrate --check || dcp-server backup /backup/before-upgrade.sqlite3 && dcp-server migrate""",
)
_PROVE = _Command(
    "prove",
    "replay the whole ledger and verify its checkpoints",
    """\
Replays every transfer of the ledger from empty accounts, and compares the result with the stored balances,
holds, withdrawals and deletions. It also verifies the checkpoints that /api/admin/ledger/proof starts from.

It reads one snapshot of the database of DCP_DATABASE_URL; the server may be running. It changes nothing, and
its memory depends on accounts and open holds, not on transfers. Progress goes to the error stream.""",
    """\
exit status:
  0  the ledger balances
  1  it does not; each discrepancy is a line
  2  a setting is wrong, or the database cannot be read

example:
  DCP_DATABASE_URL=sqlite:////var/lib/dcp/dcp.sqlite3 dcp-server prove""",
)

_INVITE = _Command(
    "invite",
    "invite an operator, where no admin can",
    """\
Adds an operator to the database of DCP_DATABASE_URL, and prints the link with which it creates a passkey,
once, within 24 hours. The server may be running. Use it for the first admin of a server without
DCP_ADMIN_TOKEN, or when every admin lost its passkeys. Without DCP_PUBLIC_URL the link is a path on the
market's address.

The name is in the audit log for good, and no other operator can ever have it.""",
    """\
exit status:
  0  the operator was added; the link is printed
  2  nothing was added: the name is taken, a setting is wrong, or the database cannot be read

example:
  DCP_DATABASE_URL=sqlite:////var/lib/dcp/dcp.sqlite3 dcp-server invite "Sara" --role admin""",
)
_HEALTH = _Command(
    "health",
    "ask the running server of these settings whether it serves",
    """\
Asks the server that listens at DCP_GRPC_LISTEN on this machine whether it serves: it does not while it stops,
or while its database does not answer.""",
    """\
exit status:
  0  it serves
  1  it does not
  2  a setting is wrong

example, of a container's health check:
  dcp-server health --wait 5""",
)


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``command`` is None for a server that serves."""
    table = "\n".join(f"  {v.name:<18} {v.meaning} (default: {v.default or 'unset'})" for v in VARIABLES)
    parser = argparse.ArgumentParser(
        prog="dcp-server",
        description="The marketplace's server: accounts, jobs, money, and the daemons' sessions, over gRPC.\n"
        "Without a command it serves until SIGTERM, and stops after a drain. `dcp-server COMMAND --help`\n"
        "explains a command; they are for the database of a dcp-market too.",
        epilog=f"settings, from the environment:\n{table}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=CURRENT)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    backup = _add(commands, _BACKUP)
    backup.add_argument(
        "file", metavar="FILE", type=Path, help="where the copy is written; it must not exist"
    )
    restore = _add(commands, _RESTORE)
    restore.add_argument("file", metavar="FILE", type=Path, help="a copy that `dcp-server backup` wrote")
    restore.add_argument("--replace", action="store_true", help="replace a database, which is kept beside")
    migrate = _add(commands, _MIGRATE)
    migrate.add_argument("--check", action="store_true", help="change nothing; print what would run")
    _add(commands, _PROVE)
    invite = _add(commands, _INVITE)
    invite.add_argument("name", metavar="NAME", help="the operator's name, as the audit log shows it")
    invite.add_argument(
        "--role",
        choices=[role.value for role in OperatorRole],
        default=OperatorRole.ADMIN.value,
        help="what it may do (default: admin)",
    )
    health = _add(commands, _HEALTH)
    health.add_argument(
        "--wait",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long it may take to serve (default: 0)",
    )
    return parser


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], command: _Command
) -> argparse.ArgumentParser:
    return commands.add_parser(
        command.name,
        help=command.help,
        description=command.description,
        epilog=command.epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
