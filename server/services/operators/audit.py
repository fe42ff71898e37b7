"""The audit log of operators' actions: each is recorded inside the transaction of its effect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from server.services.pages import Page, read_page
from server.store.database import Database
from server.store.operators import audit
from server.store.operators.audit import Entry


@dataclass(frozen=True, slots=True)
class Operator:
    """The operator who acts, and the id of the request."""

    name: str
    request_id: str

    def note(
        self,
        action: str,
        object_id: int | str,
        before: Mapping[str, object],
        after: Mapping[str, object],
        now_ms: int,
    ) -> None:
        """Records an action. Call it inside the transaction of its effect."""
        audit.write(
            at_ms=now_ms,
            actor=self.name,
            action=action,
            object_id=object_id,
            before=before,
            after=after,
            request_id=self.request_id,
        )


class Audit:
    """The audit log, as operators read it."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def entries(
        self,
        kind: str | None,
        object_id: str | None,
        actor: str | None,
        before_id: int | None,
        limit: int,
    ) -> Page[Entry]:
        """One page, newest first; optionally of one kind of object, of one object, or of one name."""
        return await self._database.read(
            lambda: read_page(audit.entries, kind, object_id, actor, before_id, limit=limit)
        )
