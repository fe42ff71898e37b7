"""Owns the form of server-sent events, and what an event of a job is; it knows no connection."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Union

from dcp_client.generated import models
from dcp_client.reading import Model, loads

EventData = Union[
    models.JobStateEvent,
    models.JobAttemptEvent,
    models.JobTextEvent,
    models.JobFileEvent,
    models.JobPreparation,
    models.JobEndEvent,
    None,
]

_DATA: dict[str, type[Model]] = {
    "state": models.JobStateEvent,
    "attempt": models.JobAttemptEvent,
    "output": models.JobTextEvent,
    "log": models.JobTextEvent,
    "file": models.JobFileEvent,
    "preparation": models.JobPreparation,
    "end": models.JobEndEvent,
}


@dataclass(frozen=True)
class JobEvent:
    """An event of a job. After `attempt`, output and log begin anew: discard what you have.

    ``data`` is None for a kind that this client does not know; ``raw`` has it.
    """

    kind: str
    id: str
    data: EventData
    raw: Any

    @property
    def text(self) -> str:
        """The text of `output` and `log`; empty for others."""
        return self.data.text if isinstance(self.data, models.JobTextEvent) else ""

    @property
    def job(self) -> models.Job | None:
        """The ended job, of `end`."""
        return self.data.job if isinstance(self.data, models.JobEndEvent) else None


@dataclass(frozen=True)
class Message:
    """A server-sent event."""

    event: str
    id: str
    data: str

    def job_event(self) -> JobEvent:
        """The event of a job that it is. Raises MalformedError."""
        raw = loads(self.data.encode())
        model = _DATA.get(self.event)
        data: Any = model.from_json(raw) if model else None
        return JobEvent(self.event, self.id, data, raw)


class Parser:
    """Turns lines into messages, as the standard of server-sent events describes it."""

    def __init__(self) -> None:
        self._data: list[str] = []
        self._event = ""
        self._id = ""

    def feed(self, line: str) -> Iterator[Message]:
        """The message that this line completes, if it completes one."""
        if not line:
            if self._data:
                yield Message(self._event or "message", self._id, "\n".join(self._data))
            self._data, self._event = [], ""
            return
        name, _, value = line.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id":
            self._id = value
