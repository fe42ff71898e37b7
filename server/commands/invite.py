"""``dcp-server invite``: invites an operator on the server's machine, where no other operator can.

It is the way in on a server without an admin token, and the way back if every admin lost its passkeys.
"""

from __future__ import annotations

import asyncio
import secrets
import sys
import time

from server.domain.errors import DomainError
from server.domain.mailboxes import CODE_BYTES, written_code
from server.domain.operators import OperatorRole, name_key
from server.services.operators.audit import Operator
from server.services.operators.roster import Invitation, invite
from server.store.database import Database
from server.store.operators import roster

DONE, REFUSED = 0, 2
NAME = "server"
"""Under this name the audit log records it."""


def run(database_url: str, public_url: str, name: str, role: str) -> int:
    """Writes the link of the invitation to stdout. Exit status 2 if the operator cannot be added.

    Raises DatabaseUrlError.
    """
    database = Database(database_url)
    database.start(may_migrate=False)
    try:
        invited = asyncio.run(database.run(lambda: add(name, role, int(time.time() * 1000))))
    except DomainError as error:
        sys.stderr.write(f"dcp-server: {error.message}\n")
        return REFUSED
    finally:
        database.stop()
    sys.stdout.write(f"{public_url}/invitation#{invited.code}\n")
    return DONE


def add(name: str, role: str, now_ms: int) -> Invitation:
    """Adds an operator with an invitation, inside a transaction."""
    code = written_code(secrets.token_bytes(CODE_BYTES))
    return invite(
        roster.lock_all(), Operator(NAME, NAME), name, name_key(name), "", OperatorRole(role), code, now_ms
    )
