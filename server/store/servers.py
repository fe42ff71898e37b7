"""The servers of the market, as rows. Runs inside its caller's transaction.

A server writes its heartbeat; one that falls silent is gone, and its sessions are no one's until their
daemons come back at another.
"""

from __future__ import annotations

from server.store import sessions
from server.store.models import BlobFolder, Provider, Server, tuples
from server.store.prepared import PreparedQuery, arg

_beat = PreparedQuery(
    lambda: Server.update({Server.heartbeat_ms: arg("now_ms")}).where(Server.id == arg("id"))
)


def begin(name: str, version: str, now_ms: int) -> int:
    """Adds a server and returns its id, which is higher than those of all before it."""
    return int(Server.insert(name=name, version=version, started_ms=now_ms, heartbeat_ms=now_ms).execute())


def end(server_id: int) -> None:
    """Removes a server and ends the sessions that it still has."""
    sessions.end_all_of(server_id)
    Server.delete().where(Server.id == server_id).execute()


def end_all() -> None:
    """Removes all servers and ends all sessions: a new server on a SQLite file is the only one."""
    sessions.end_all()
    Server.delete().execute()


def beat(server_id: int, now_ms: int) -> bool:
    """Writes a server's heartbeat; False if it was removed because it had been silent."""
    return bool(_beat.run(id=server_id, now_ms=now_ms))


def heartbeats() -> dict[int, int]:
    """The last heartbeat of each server, by that server's clock."""
    return {int(id_): int(at_ms) for id_, at_ms in tuples(Server.select(Server.id, Server.heartbeat_ms))}


def all_ids() -> list[int]:
    """The servers, oldest first."""
    return [int(id_) for (id_,) in tuples(Server.select(Server.id).order_by(Server.id))]


def folder_mark() -> str:
    """The mark of the folder in which files of jobs are; empty before the first."""
    return BlobFolder.select(BlobFolder.mark).scalar() or ""


def set_folder_mark(mark: str) -> None:
    """Replaces the mark of the folder in which files of jobs are."""
    BlobFolder.delete().execute()
    BlobFolder.insert(id=1, mark=mark).execute()


def end_lost_sessions() -> int:
    """Ends sessions whose server has no row: it was removed between their Hello and now. Returns how many."""
    known = Server.select(Server.id)
    query = Provider.update(connected=False, draining=False, server_id=None)
    return int(query.where(Provider.server_id.is_null(False), Provider.server_id.not_in(known)).execute())
