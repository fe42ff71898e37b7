"""The chunks of an answer as model servers stream them: OpenAI's chat chunks, cleaned and gathered.

A chunk here has nothing but `choices`, each with `index`, `delta`, `finish_reason` and `logprobs`. What a
provider's model server sends may be anything: what is not of the form that clients read is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

Values = dict[str, Any]

_TEXTS = ("content", "refusal")
THOUGHT = "reasoning_content"
"""Where a cleaned delta has what the model thinks before it answers."""
_THOUGHTS = (THOUGHT, "reasoning", "thinking")
MAX_TOOL_CALLS = 1000


def read(line: bytes | str) -> Values | None:
    """The chunk in a line of a job's output; None for a line that is none."""
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    given = found.get("choices") if isinstance(found, dict) else None
    if not isinstance(given, list):
        return None
    choices = [choice for each in given if (choice := _choice(each)) is not None]
    return {"choices": choices} if choices else None


def _choice(given: object) -> Values | None:
    if not isinstance(given, dict):
        return None
    index, delta, reason, logprobs = (
        given.get(name) for name in ("index", "delta", "finish_reason", "logprobs")
    )
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        return None
    return {
        "index": index,
        "delta": _delta(delta) if isinstance(delta, dict) else {},
        "finish_reason": reason if isinstance(reason, str) and reason else None,
        "logprobs": logprobs if isinstance(logprobs, dict) else None,
    }


def _delta(given: Values) -> Values:
    """A delta whose known fields are of their types; what is not known stays as it is."""
    known = {*_TEXTS, *_THOUGHTS, "tool_calls", "function_call", "role"}
    delta = {name: value for name, value in given.items() if name not in known and value is not None}
    content = given.get("content")
    thoughts = [text for name in _THOUGHTS if isinstance(text := given.get(name), str) and text]
    if isinstance(content, list):
        # Mistral's servers write parts, and what the model thinks as one of them.
        thoughts += _parts(content, "thinking")
        content = "".join(_parts(content, "text"))
    for name, text in (("content", content), ("refusal", given.get("refusal"))):
        if isinstance(text, str) and text:
            delta[name] = text
    if thoughts:
        delta[THOUGHT] = thoughts[0]
    calls = given.get("tool_calls")
    if isinstance(calls, list):
        found = [call for place, each in enumerate(calls) if (call := _tool_call(each, place)) is not None]
        delta |= {"tool_calls": found} if found else {}
    if isinstance(function := given.get("function_call"), dict) and (texts := _function(function)):
        delta["function_call"] = texts
    return delta


def _parts(content: list[Any], kind: str) -> list[str]:
    found = [part.get(kind) for part in content if isinstance(part, dict)]
    flat = [each for part in found for each in (_parts(part, "text") if isinstance(part, list) else [part])]
    return [text for text in flat if isinstance(text, str)]


def _tool_call(given: object, place: int) -> Values | None:
    if not isinstance(given, dict):
        return None
    index, function = given.get("index", place), given.get("function")
    if not isinstance(index, int) or isinstance(index, bool) or not 0 <= index < MAX_TOOL_CALLS:
        return None
    call: Values = {"index": index}
    if isinstance(given.get("id"), str) and given["id"]:
        call |= {"id": given["id"], "type": "function"}
    return call | {"function": _function(function) if isinstance(function, dict) else {}}


def _function(given: Values) -> Values:
    texts = {name: given.get(name) for name in ("name", "arguments")}
    if isinstance(texts["arguments"], dict):  # some servers write the object, not its text
        texts["arguments"] = orjson.dumps(texts["arguments"]).decode()
    return {name: text for name, text in texts.items() if isinstance(text, str)}


class Reader:
    """Reads the lines of one answer.

    Each tool call gets an index of its own, in the order of their beginnings: some model servers give all of
    them the same, and only another id tells that another one begins.
    """

    def __init__(self) -> None:
        self._calls: dict[tuple[int, int], tuple[str, int]] = {}
        self._counts: Counter[int] = Counter()

    def read(self, line: bytes | str) -> Values | None:
        """The chunk in a line of a job's output; None for a line that is none."""
        chunk = read(line)
        for choice in chunk["choices"] if chunk is not None else ():
            for call in choice["delta"].get("tool_calls", ()):
                call["index"] = self._number(choice["index"], call)
        return chunk

    def _number(self, choice: int, call: Values) -> int:
        key, call_id = (choice, call["index"]), call.get("id", "")
        known_id, number = self._calls.get(key, ("", -1))
        if number < 0 or (call_id and known_id and call_id != known_id):
            number, known_id = self._counts[choice], ""
            self._counts[choice] += 1
        self._calls[key] = (call_id or known_id, number)
        return number


class Gathered:
    """The choices of an answer, put together from its chunks."""

    def __init__(self) -> None:
        self._choices: dict[int, Values] = {}
        self._texts: dict[tuple[int, str], list[str]] = {}
        self._calls: dict[tuple[int, int], Values] = {}

    def add(self, chunk: Values) -> None:
        """Takes the next chunk."""
        for part in chunk["choices"]:
            self._add(part["index"], part)

    @property
    def choices(self) -> Sequence[Values]:
        """Each with `index`, `message`, `finish_reason` and `logprobs`; one empty choice if there was none.

        A message has `role`, `content` (None beside nothing but tool calls), and what else there was:
        `reasoning_content`, `refusal`, `tool_calls`, `function_call`.
        """
        found = self._choices or {0: _empty(0)}
        return [self._whole(index, found[index]) for index in sorted(found)]

    def _add(self, index: int, part: Values) -> None:
        choice = self._choices.setdefault(index, _empty(index))
        choice["finish_reason"] = part["finish_reason"] or choice["finish_reason"]
        if part["logprobs"] is not None:
            _extend(choice, part["logprobs"])
        for name, value in part["delta"].items():
            match name:
                case "content" | "refusal" | "reasoning_content":
                    self._texts.setdefault((index, name), []).append(value)
                case "tool_calls":
                    for call in value:
                        self._add_call(index, call)
                case "function_call":
                    _join(choice["message"].setdefault("function_call", {"name": "", "arguments": ""}), value)
                case _:
                    choice["message"][name] = value

    def _add_call(self, index: int, part: Values) -> None:
        call = self._calls.setdefault(
            (index, part["index"]),
            {"id": "", "type": "function", "function": {"name": "", "arguments": ""}},
        )
        call["id"] = call["id"] or part.get("id", "")
        _join(call["function"], part["function"])

    def _whole(self, index: int, choice: Values) -> Values:
        texts = {name: "".join(found) for (of, name), found in self._texts.items() if of == index}
        calls = [call for (of, _), call in sorted(self._calls.items()) if of == index]
        content = texts.pop("content", None if calls else "")
        message: Values = {"role": "assistant", "content": content, **choice["message"], **texts}
        if calls:
            message["tool_calls"] = calls
        return choice | {"message": message}


def _empty(index: int) -> Values:
    return {"index": index, "message": {}, "finish_reason": None, "logprobs": None}


def _join(whole: Values, part: Values) -> None:
    whole["name"] = whole["name"] or part.get("name", "")
    whole["arguments"] += part.get("arguments", "")


def _extend(choice: Values, logprobs: Values) -> None:
    whole = choice["logprobs"]
    if whole is None:
        choice["logprobs"] = {name: _copied(value) for name, value in logprobs.items()}
        return
    for name, value in logprobs.items():
        if isinstance(value, list) and isinstance(whole.get(name), list):
            whole[name] += value
        elif whole.get(name) is None:
            whole[name] = _copied(value)


def _copied(value: Any) -> Any:
    return list(value) if isinstance(value, list) else value
