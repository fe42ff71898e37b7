"""The output of a response: items of OpenAI's Responses API, and the events of a stream that report them.

Events are without `sequence_number`, which counts through the whole stream. An item ends when an item of
another kind begins: thoughts, a message, calls. Only calls stay open to the end, because a model server's
chunks may go back to an earlier one. A call begins once its name is known. Text of nothing but white space is
held until more follows: models write some before a call, and clients would show it as an empty message.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from gateway.dialects.chunks import THOUGHT
from gateway.dialects.responses_tools import CustomInput, Tool, Tools

Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartForm:
    """How the parts of a message or of thoughts are called, and their events."""

    item: str
    """The type of the item that has such parts."""
    type: str
    field: str
    """Where the part has its text."""
    events: str
    """What the types of the events of its text begin with."""
    place: str = "content"
    """Where the item has its parts."""
    part_events: str = "response.content_part"
    index: str = "content_index"


TEXT = PartForm("message", "output_text", "text", "response.output_text")
REFUSAL = PartForm("message", "refusal", "refusal", "response.refusal")
REASONING = PartForm("reasoning", "reasoning_text", "text", "response.reasoning_text")
SUMMARY = PartForm(
    "reasoning",
    "summary_text",
    "text",
    "response.reasoning_summary_text",
    place="summary",
    part_events="response.reasoning_summary_part",
    index="summary_index",
)


@dataclass(frozen=True, slots=True)
class CallForm:
    """How calls of a kind of tool are called, and their events."""

    type: str
    field: str
    """Where the call has what it passes to the tool."""
    events: str
    id: str
    """What the ids of such items begin with."""


FUNCTION = CallForm("function_call", "arguments", "response.function_call_arguments", "fc")
CUSTOM = CallForm("custom_tool_call", "input", "response.custom_tool_call_input", "ctc")
_IDS = {"message": "msg", "reasoning": "rs"}
_MOST_SPACE = 100
"""The characters of white space that are held. A limit keeps the time linear."""


class Output:
    """The items of one answer, as its deltas arrive."""

    def __init__(self, job_id: str, tools: Tools, thoughts: PartForm) -> None:
        self._job_id = job_id
        self._tools = tools
        self._forms = {THOUGHT: thoughts, "content": TEXT, "refusal": REFUSAL}
        self._items: list[Prose | Call] = []
        self._open: Prose | None = None
        self._calls: dict[int, Call] = {}
        self._call_ids: set[str] = set()
        self._counts: Counter[str] = Counter()
        """Of items, by type."""
        self._space = ""
        self._logprobs: list[Values] = []

    @property
    def items(self) -> list[Values]:
        """The items so far."""
        return [item.values() for item in self._items]

    def add(self, delta: Values, logprobs: Iterable[Values] = ()) -> list[Values]:
        """The events for the next delta; perhaps none. A whole message is a delta too."""
        self._logprobs += logprobs
        events: list[Values] = []
        for name, form in self._forms.items():
            if text := delta.get(name):
                events += self._write(form, text)
        for place, part in enumerate(_calls(delta)):
            events += self._add_call(part.get("index", place), part)
        return events

    def end(self, is_cut: bool) -> list[Values]:
        """The events that end all items. The last item of an answer that was cut is incomplete."""
        events: list[Values] = []
        for call in self._calls.values():
            if not call.has_begun and call:
                events += self._begin_call(call)
        if self._open is not None:
            self._open.keep(self._logprobs)
        for item in self._items:
            if item.status == "in_progress":
                events += item.end("incomplete" if is_cut and item is self._items[-1] else "completed")
        return events

    def _write(self, form: PartForm, text: str) -> list[Values]:
        is_open = self._open is not None and self._open.type == form.item
        if form is TEXT and not is_open:
            text = self._space + text
            self._space = text if text.isspace() and len(text) < _MOST_SPACE else ""
            if self._space:
                return []
        events: list[Values] = []
        if self._open is None or not is_open:
            events += self._close()
            self._open = Prose(form.item, self._new_id(form.item), len(self._items))
            self._items.append(self._open)
            events.append(self._open.added())
        logprobs: list[Values] = []
        if form is TEXT:
            logprobs, self._logprobs = self._logprobs, []
        return events + self._open.write(form, text, logprobs)

    def _close(self) -> list[Values]:
        item, self._open = self._open, None
        return item.end("completed") if item is not None else []

    def _add_call(self, index: int, part: Values) -> list[Values]:
        call = self._calls.setdefault(index, Call())
        call.add(part)
        if call.has_begun:
            return call.deltas()
        return self._begin_call(call) if call.name else []

    def _begin_call(self, call: Call) -> list[Values]:
        events = self._close()
        number = len(self._call_ids)
        if not call.call_id or call.call_id in self._call_ids:
            # Clients match the outputs of tools with their calls by this id.
            call.call_id = f"call_{self._job_id}_{number}"
        self._call_ids.add(call.call_id)
        self._items.append(call)
        call.begin(f"{self._job_id}_{number}", len(self._items) - 1, self._tools.get(call.name))
        return [*events, call.added(), *call.deltas()]

    def _new_id(self, kind: str) -> str:
        """That of the job, with a number for each further item of the kind."""
        count = self._counts[kind]
        self._counts[kind] += 1
        return f"{_IDS[kind]}_{self._job_id}" + (f"_{count}" if count else "")


class Item:
    """What all items have in common."""

    def __init__(self) -> None:
        self.type = ""
        self.id = ""
        self.output_index = 0
        self.status = "in_progress"

    def values(self) -> Values:
        """The item as it is now."""
        raise NotImplementedError

    def added(self) -> Values:
        """The event that begins it."""
        return self._whole("added")

    def done(self, status: str) -> Values:
        """The event that ends it."""
        self.status = status
        return self._whole("done")

    def event(self, kind: str, **values: Any) -> Values:
        """An event of what it holds."""
        return {"type": kind, "item_id": self.id, "output_index": self.output_index, **values}

    def _whole(self, what: str) -> Values:
        return {
            "type": f"response.output_item.{what}",
            "output_index": self.output_index,
            "item": self.values(),
        }


class Prose(Item):
    """A message, or what the model thinks."""

    def __init__(self, kind: str, item_id: str, output_index: int) -> None:
        super().__init__()
        self.type, self.id, self.output_index = kind, item_id, output_index
        self._parts: list[Part] = []

    def values(self) -> Values:
        """The item as it is now."""
        values: Values = {"id": self.id, "type": self.type, "status": self.status}
        if self.type == "reasoning":
            values |= {"summary": [], "content": []}
        else:
            values |= {"role": "assistant", "content": []}
        for part in self._parts:
            values[part.form.place].append(part.values())
        return values

    def write(self, form: PartForm, text: str, logprobs: list[Values]) -> list[Values]:
        """The events for the next text, which begins a part if it is of another form."""
        events: list[Values] = []
        if not self._parts or self._parts[-1].form is not form:
            events += self._end_part()
            self._parts.append(Part(form, len(self._parts)))
            events.append(self._part_event("added"))
        part = self._parts[-1]
        part.texts.append(text)
        part.logprobs += logprobs
        shown = {"logprobs": logprobs} if form is TEXT else {}
        return [*events, self.event(f"{form.events}.delta", **part.place(), delta=text, **shown)]

    def keep(self, logprobs: list[Values]) -> None:
        """Takes what followed the last text."""
        self._parts[-1].logprobs += logprobs

    def end(self, status: str) -> list[Values]:
        """The events that end it."""
        return [*self._end_part(), self.done(status)]

    def _end_part(self) -> list[Values]:
        if not self._parts:
            return []
        part = self._parts[-1]
        values = part.values()
        shown = {name: values[name] for name in (part.form.field, "logprobs") if name in values}
        return [self.event(f"{part.form.events}.done", **part.place(), **shown), self._part_event("done")]

    def _part_event(self, what: str) -> Values:
        part = self._parts[-1]
        return self.event(f"{part.form.part_events}.{what}", **part.place(), part=part.values())


class Part:
    """A part of a message or of thoughts."""

    def __init__(self, form: PartForm, index: int) -> None:
        self.form = form
        self.texts: list[str] = []
        self.logprobs: list[Values] = []
        self._index = index

    def place(self) -> Values:
        """Where it is in its item."""
        return {self.form.index: self._index}

    def values(self) -> Values:
        """The part as it is now."""
        values: Values = {"type": self.form.type, self.form.field: "".join(self.texts)}
        if self.form is TEXT:
            values |= {"annotations": [], "logprobs": list(self.logprobs)}
        return values


class Call(Item):
    """A call of a tool. What comes before its name is held."""

    def __init__(self) -> None:
        super().__init__()
        self.name = ""
        self.call_id = ""
        self._form = FUNCTION
        self._tool: Tool | None = None
        self._held: list[str] = []
        self._written: list[str] = []
        self._input = CustomInput()

    def __bool__(self) -> bool:
        return bool(self.name or self._held)

    @property
    def has_begun(self) -> bool:
        """Whether it has its place among the items."""
        return bool(self.id)

    def values(self) -> Values:
        """The item as it is now."""
        values: Values = {"id": self.id, "type": self.type, "status": self.status, "call_id": self.call_id}
        values |= {"name": self.name, self._form.field: "".join(self._written)}
        if self._tool is not None:
            values["name"] = self._tool.name
            if self._tool.namespace:
                values["namespace"] = self._tool.namespace
        return values

    def add(self, part: Values) -> None:
        """Takes the next part, as `chunks.read` gives it."""
        function = part["function"]
        self.name = self.name or function.get("name", "")
        self.call_id = self.call_id or part.get("id", "")
        if arguments := function.get("arguments"):
            self._held.append(arguments)

    def begin(self, id_end: str, output_index: int, tool: Tool | None) -> None:
        """Gives it its place among the items, and its tool if the client has such a tool."""
        self._form = CUSTOM if tool is not None and tool.is_custom else FUNCTION
        self._tool = tool
        self.type, self.id, self.output_index = self._form.type, f"{self._form.id}_{id_end}", output_index

    def deltas(self) -> list[Values]:
        """The events for what was not written yet."""
        arguments, self._held = "".join(self._held), []
        return self._write(self._input.add(arguments) if self._form is CUSTOM else arguments)

    def end(self, status: str) -> list[Values]:
        """The events that end it."""
        if self._form is CUSTOM:
            events = self._write(self._input.end())
            shown = {"input": "".join(self._written)}
        else:
            # Clients parse the arguments, and some models write none for a tool without parameters.
            events = self._write("{}" if not self._written else "")
            shown = {"name": self.name, "arguments": "".join(self._written)}
        return [*events, self.event(f"{self._form.events}.done", **shown), self.done(status)]

    def _write(self, text: str) -> list[Values]:
        if not text:
            return []
        self._written.append(text)
        return [self.event(f"{self._form.events}.delta", delta=text)]


def _calls(delta: Values) -> Iterable[Values]:
    """The tool calls of a delta. Some servers write the older form beside the newer one."""
    if "function_call" in delta and "tool_calls" not in delta:
        return [{"function": delta["function_call"]}]
    found: list[Values] = delta.get("tool_calls", [])
    return found
