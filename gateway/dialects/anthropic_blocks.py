"""The content of an answer as blocks of Anthropic's Messages API: whole, or as the events of a stream.

Anthropic's blocks follow one another, while a model server's chunks may go back to an earlier tool call. So
the blocks queue in the order in which they began, and only the first is open: what belongs to the others is
held until it ends. A text ends when another block begins; a tool call ends with the bracket that closes its
input, or else with the answer.

The input of a tool call is held until it is complete, as Anthropic's API does by default, because its clients
fail on invalid JSON. Empty deltas show meanwhile that the answer goes on. Input that is not a JSON object is
`{"INVALID_JSON": text}`, as Anthropic's documentation proposes: nothing is lost, no tool mistakes it for its
input, and the model can read what it wrote. Tools with `eager_input_streaming` get input as it is written.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import orjson

from gateway.dialects.chunks import THOUGHT

Values = dict[str, Any]

INVALID = "INVALID_JSON"
_KINDS = {THOUGHT: "thinking", "content": "text", "refusal": "text"}


def content(message: Values, job_id: str) -> list[Values]:
    """The blocks of a whole message, as `chunks.Gathered` gives it."""
    found: list[Values] = []
    if thought := message.get(THOUGHT):
        found.append({"type": "thinking", "thinking": thought, "signature": job_id})
    if text := f"{message.get('content') or ''}{message.get('refusal') or ''}":
        found.append({"type": "text", "text": text})
    for place, each in enumerate(_calls(message)):
        call = Call(_made_id(job_id, place))
        call.add(each)
        if call:
            found.append({**call.head(), "input": orjson.loads(call.input())})
    return found


class Stream:
    """The blocks of a stream, as events without their form."""

    def __init__(self, job_id: str, eager_tools: frozenset[str]) -> None:
        self.has_calls = False
        """Whether a tool call was begun."""
        self._job_id = job_id
        self._eager = eager_tools
        self._waiting: deque[Prose | Call] = deque()
        self._calls: dict[int, Call] = {}
        self._index = 0
        self._is_open = False

    def add(self, delta: Values) -> list[Values]:
        """The events for the next delta; perhaps none."""
        for name, kind in _KINDS.items():
            if text := delta.get(name):
                self._write(kind, text)
        for part in _calls(delta):
            index = part.get("index", 0)
            if (call := self._calls.get(index)) is None:
                call = Call(_made_id(self._job_id, len(self._calls)), self._eager)
                self._calls[index] = call
                self._waiting.append(call)
            call.add(part)
        return self._events(is_end=False)

    def end(self) -> list[Values]:
        """The events that end all blocks."""
        return self._events(is_end=True)

    def _write(self, kind: str, text: str) -> None:
        last = self._waiting[-1] if self._waiting else None
        if not isinstance(last, Prose) or last.kind != kind:
            last = Prose(kind, self._job_id)
            self._waiting.append(last)
        last.add(text)

    def _events(self, is_end: bool) -> list[Values]:
        events: list[Values] = []
        while self._waiting:
            first = self._waiting[0]
            has_ended = is_end or first.ends(len(self._waiting) > 1)
            if not has_ended and not first.can_begin:
                break
            if first:
                events += self._progress(first, has_ended)
            if not has_ended:
                break
            self._waiting.popleft()
        return events

    def _progress(self, block: Prose | Call, has_ended: bool) -> list[Values]:
        events: list[Values] = []
        if not self._is_open:
            events.append(self._event("start", content_block=block.head()))
            self.has_calls |= isinstance(block, Call)
        events += [self._event("delta", delta=delta) for delta in block.deltas(has_ended)]
        if has_ended:
            events.append(self._event("stop"))
            self._index += 1
        self._is_open = not has_ended
        return events

    def _event(self, what: str, **values: Any) -> Values:
        return {"type": f"content_block_{what}", "index": self._index, **values}


class Prose:
    """A block of text, or of what the model thinks."""

    can_begin = True

    def __init__(self, kind: str, signature: str) -> None:
        self.kind = kind
        self._signature = signature
        self._unsent: list[str] = []

    def add(self, text: str) -> None:
        """Takes the next piece."""
        self._unsent.append(text)

    def ends(self, has_next: bool) -> bool:
        """Whether nothing can follow."""
        return has_next

    def head(self) -> Values:
        """The block without its text."""
        if self.kind == "text":
            return {"type": "text", "text": ""}
        return {"type": "thinking", "thinking": "", "signature": ""}

    def deltas(self, has_ended: bool) -> list[Values]:
        """What was not sent yet."""
        text, self._unsent = "".join(self._unsent), []
        found: list[Values] = [{"type": f"{self.kind}_delta", self.kind: text}] if text else []
        if has_ended and self.kind == "thinking":
            # Clients drop a thought without a signature, and a model that calls tools needs its earlier ones.
            found.append({"type": "signature_delta", "signature": self._signature})
        return found


class Call:
    """A tool call, as its parts arrive. Some servers repeat the input after its object: that is dropped."""

    def __init__(self, made_id: str, eager_tools: frozenset[str] = frozenset()) -> None:
        self._made_id = made_id
        self._eager = eager_tools
        self._id = ""
        self._name = ""
        self._texts: list[str] = []
        self._sent = 0
        self._depth = 0
        self._is_quoted = False
        self._is_escaped = False
        self._is_object = True
        self._is_whole = False

    def __bool__(self) -> bool:
        return bool(self._name or self._texts)

    @property
    def can_begin(self) -> bool:
        """Whether its id and name are known."""
        return bool(self._id and self._name)

    def add(self, part: Values) -> None:
        """Takes the next part."""
        function = part["function"]
        self._id = self._id or part.get("id", "")
        self._name = self._name or function.get("name", "")
        if (text := function.get("arguments")) and not self._is_whole:
            self._texts.append(text[: self._end(text)])

    def ends(self, _: bool) -> bool:
        """Whether nothing can follow."""
        return self._is_whole and bool(self._name)

    def head(self) -> Values:
        """The block without its input."""
        return {"type": "tool_use", "id": self._id or self._made_id, "name": self._name, "input": {}}

    def deltas(self, has_ended: bool) -> list[Values]:
        """What was not sent yet; empty while the input is held."""
        if self._name in self._eager:
            text, self._sent = "".join(self._texts[self._sent :]), len(self._texts)
        else:
            text = self.input() if has_ended else ""
        return [{"type": "input_json_delta", "partial_json": text}]

    def input(self) -> str:
        """The input as the JSON text of an object."""
        text = "".join(self._texts)
        if not text.strip():
            return "{}"
        try:
            is_object = isinstance(orjson.loads(text), dict)
        except orjson.JSONDecodeError:
            is_object = False
        return text if is_object else orjson.dumps({INVALID: text}).decode()

    def _end(self, text: str) -> int | None:
        """Where the object ends in the next text; None: not in it.

        Counting brackets takes linear time; parsing it all again with each piece would take quadratic time.
        """
        for place, char in enumerate(text):
            if self._is_escaped:
                self._is_escaped = False
            elif self._is_quoted:
                self._is_escaped, self._is_quoted = char == "\\", char != '"'
            elif char in '"{}':
                self._is_quoted = char == '"'
                self._depth += (char == "{") - (char == "}")
                self._is_object &= self._depth > 0 or char == "}"
                if self._depth == 0 and self._is_object:
                    self._is_whole = True
                    return place + 1
            elif self._depth == 0 and not char.isspace():
                self._is_object = False
        return None


def _made_id(job_id: str, place: int) -> str:
    return f"toolu_{job_id}_{place}"


def _calls(message: Values) -> list[Values]:
    """The tool calls of a message or a delta. Some servers write the older form beside the newer one."""
    if "tool_calls" in message or "function_call" not in message:
        return list(message.get("tool_calls", ()))
    return [{"index": 0, "function": message["function_call"]}]
