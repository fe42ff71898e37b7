"""Writes the part of the Python client that follows from the API: models, bodies, errors and routes.

Its source is the OpenAPI document, so the client cannot drift from it. The synchronous client is the
asynchronous one without `async`: only the latter is written by hand, in `gateway/client/dcp_client/aio`.
"""

from __future__ import annotations

import builtins
import keyword
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from gateway import openapi, routes

Json = dict[str, Any]

PACKAGE = Path("gateway") / "client" / "dcp_client"
FOLDER = PACKAGE / "generated"
HANDWRITTEN = PACKAGE / "aio"
_NOTE = "Generated from protos/ by scripts/generate; edit the protos instead."
_TWIN = "Generated from dcp_client/aio by scripts/generate; edit that instead."
_WIDTH = 96

_SYNCHRONOUS = (
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(\w+)", r"\1"),
    (r"\basyncio\.sleep\b", "time.sleep"),
    (r"\bimport asyncio\b", "import time"),
    (r"\b__a(enter|exit|iter|next)__\b", r"__\1__"),
    (r"\ba(close|read|iter_bytes|iter_lines|iter_raw)\(", r"\1("),
    (r"\bStopAsyncIteration\b", "StopIteration"),
    (r"\basynccontextmanager\b", "contextmanager"),
    (r"\bdcp_client\.aio\.", "dcp_client.generated.sync_"),
    (r"\bdcp_client\.generated\.async_api\b", "dcp_client.generated.sync_api"),
    (r"\bAn asynchronous\b", "A synchronous"),
    (r"\basynchronous\b", "synchronous"),
)


def files(root: Path) -> dict[Path, str]:
    """The text of each generated file, by its path from the root of the repository."""
    document = openapi.document(routes.discover())
    api = _api(document)
    written = {
        FOLDER / "__init__.py": f'"""{_NOTE}"""\n',
        FOLDER / "models.py": "\n".join(_models(document)),
        FOLDER / "bodies.py": "\n".join(_bodies(document)),
        FOLDER / "reasons.py": "\n".join(_reasons(document)),
        FOLDER / "async_api.py": api,
        FOLDER / "sync_api.py": synchronous(api),
    }
    for path in sorted((root / HANDWRITTEN).glob("*.py")):
        if path.stem != "__init__":
            text = synchronous(path.read_text(encoding="utf-8"))
            written[FOLDER / f"sync_{path.stem}.py"] = f"# {_TWIN}\n{text}"
    return {path: _formatted(text) for path, text in written.items()}


def synchronous(source: str) -> str:
    """The synchronous twin of asynchronous source."""
    for pattern, twin in _SYNCHRONOUS:
        source = re.sub(pattern, twin, source)
    return source


def _formatted(source: str) -> str:
    command = [str(Path(sys.executable).parent / "ruff"), "format", "--isolated", "--line-length=110", "-"]
    done = subprocess.run(command, input=source.encode(), capture_output=True, check=True)
    return done.stdout.decode()


# Types of the document's schemas.


def _named(schema: Json) -> str:
    """The name of the schema to which a schema refers, also beside `null`; empty if it refers to none."""
    choices = [schema, *schema.get("anyOf", ())]
    return next((each["$ref"].rpartition("/")[2] for each in choices if "$ref" in each), "")


def _type_name(schema: Json) -> str:
    types = schema.get("type", "")
    return next((each for each in ([types] if isinstance(types, str) else types) if each != "null"), "")


class _Types:
    """The Python types of schemas. Enums are plain texts, since new values are added."""

    def __init__(self, document: Json, module: str = "") -> None:
        self._schemas: Mapping[str, Json] = document["components"]["schemas"]
        self._module = module

    def is_object(self, name: str) -> bool:
        return "properties" in self._schemas[name]

    def plain(self, name: str, schema: Json) -> str:
        """The type of a value that is there."""
        if target := _named(schema):
            return f"{self._module}{target}" if self.is_object(target) else "str"
        kind = _type_name(schema)
        if kind == "array":
            return f"List[{self.plain(name, schema['items'])}]"
        if kind == "object":
            values = schema.get("additionalProperties", {})
            return f"Dict[str, {self.plain('', values) if values else 'Any'}]"
        if schema.get("format") == "date-time":
            return "datetime"
        if kind == "string" and _is_sar(name):
            return "Decimal"
        return {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}.get(kind, "Any")

    def reader(self, name: str, schema: Json) -> str:
        """How the value is read from JSON; empty for a plain value."""
        if (target := _named(schema)) and self.is_object(target):
            return target
        kind = _type_name(schema)
        if kind == "array":
            item = self.reader(name, schema["items"])
            return f"list {item or 'plain'}"
        if kind == "object":
            item = self.reader("", schema.get("additionalProperties") or {})
            return f"map {item or 'plain'}"
        if schema.get("format") == "date-time":
            return "time"
        return "sar" if kind == "string" and _is_sar(name) else ""


def _is_sar(name: str) -> bool:
    """Whether a field of responses is an amount in SAR or dollars, written as a decimal number."""
    return name.startswith(("sar_per_", "usd_per_"))


_EMPTY = {"str": '""', "int": "0", "float": "0.0", "bool": "False"}


def _models(document: Json) -> Iterator[str]:
    types = _Types(document)
    yield f'"""The objects of responses. {_NOTE}"""\n'
    yield "from __future__ import annotations\n"
    yield "from dataclasses import dataclass, field\nfrom datetime import datetime"
    yield "from decimal import Decimal"
    yield "from typing import Any, ClassVar, Dict, List, Mapping, Optional\n"
    yield "from dcp_client.reading import Model\n\n"
    for name, schema in document["components"]["schemas"].items():
        if _is_input(name, document) or name == "OpenAIError":
            continue
        if "properties" not in schema:
            yield from _values(name, schema)
            continue
        yield "@dataclass(frozen=True, eq=False, repr=False)"
        yield f"class {'ErrorFacts' if name == 'Error' else name}(Model):"
        yield _docstring(schema.get("description", ""), "    ")
        readers = {}
        for field, described in schema["properties"].items():
            if name == "Error" and field in ("error", "code"):
                continue
            plain = types.plain(field, described)
            is_optional = described.get("x-optional") or plain == "Decimal" or plain == "datetime"
            if is_optional or name == "Error":
                yield f"    {field}: Optional[{plain}] = None"
            elif plain.startswith(("List[", "Dict[")):
                empty = "list" if plain.startswith("List") else "dict"
                yield f"    {field}: {plain} = field(default_factory={empty})"
            else:
                yield f"    {field}: {plain} = {_EMPTY[plain]}"
            yield _docstring(described.get("description", ""), "    ")
            if reader := types.reader(field, described):
                readers[field] = reader
        if readers:
            yield f"    KINDS: ClassVar[Mapping[str, str]] = {readers!r}"
        yield ""


def _values(name: str, schema: Json) -> Iterator[str]:
    """A class with the values of an enum that are known, as texts."""
    yield f"class {name}:"
    yield _docstring(schema["description"], "    ")
    for value in schema.get("x-extensible-enum", ()):
        constant = re.sub(r"\W", "_", value).upper()
        constant = f"_{constant}" if constant[0].isdigit() else constant
        yield f"    {constant} = {value!r}"
    yield ""


def _is_input(name: str, document: Json) -> bool:
    schema = document["components"]["schemas"][name]
    return name.endswith("Input") or schema.get("additionalProperties") is False or "enum" in schema


def _bodies(document: Json) -> Iterator[str]:
    types = _Types(document)
    yield f'"""The bodies of requests. {_NOTE}"""\n'
    yield "from __future__ import annotations\n"
    yield "from typing import Any, Dict, List, Optional, TypedDict\n\n"
    for name, schema in document["components"]["schemas"].items():
        if _is_input(name, document) and "properties" in schema:
            yield from _body(name, schema, types)
    for operation in _operations(document):
        if body := operation.body:
            yield from _body(operation.body_name, body, types)


def _body(name: str, schema: Json, types: _Types) -> Iterator[str]:
    # Required keys are in a base of their own: Python 3.9 has no `Required`.
    required = schema.get("required", [])
    properties = {field: each for field, each in schema["properties"].items() if field != "api_key"}
    base = "TypedDict, total=False"
    if required:
        base = f"_{name}Required, total=False"
        yield f"class _{name}Required(TypedDict):"
        for field in required:
            yield f"    {field}: {types.plain('', properties[field])}"
            yield _docstring(properties[field].get("description", ""), "    ")
        yield ""
    yield f"class {name}({base}):"
    yield _docstring(schema.get("description", ""), "    ")
    for field, described in properties.items():
        if field not in required:
            yield f"    {field}: Optional[{types.plain('', described)}]"
            yield _docstring(described.get("description", ""), "    ")
    yield ""


def _reasons(document: Json) -> Iterator[str]:
    comments: dict[str, str] = {}
    for verbs in document["paths"].values():
        for operation in verbs.values():
            for response in operation["responses"].values():
                comments |= response.get("x-codes", {})
    yield f'"""A class of errors for each reason. {_NOTE}"""\n'
    yield "from dcp_client.errors import APIError, classes_of\n\n"
    for reason in document["components"]["schemas"]["Error"]["properties"]["code"]["x-extensible-enum"]:
        name = f"{_camel(reason)}Error"
        name = f"Server{name}" if hasattr(builtins, name) else name
        yield f"class {name}(APIError):"
        yield _docstring(comments.get(reason, f"The reason {reason}."), "    ")
        yield f"    REASON = {reason!r}\n"
    yield "BY_REASON = classes_of(globals())"


def _camel(reason: str) -> str:
    return "".join(word.capitalize() for word in reason.split("_"))


# Routes


class _Operation:
    """A route of the document."""

    def __init__(self, verb: str, path: str, described: Json) -> None:
        self.verb, self.path, self.described = verb.upper(), path, described
        self.id: str = described["operationId"]
        self.name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.id).lower()
        content = described.get("requestBody", {}).get("content", {})
        self.body: Json | None = content.get("application/json", {}).get("schema")
        self.takes_a_file = bool(content) and self.body is None
        self.body_name = f"{self.id}Body"
        self.needs_body: bool = described.get("requestBody", {}).get("required", False)
        parameters = described.get("parameters", ())
        self.path_fields = [each for each in parameters if each["in"] == "path"]
        self.query = [each for each in parameters if each["in"] == "query" and not each.get("deprecated")]
        self.repeat = "always" if self.verb == "GET" else described.get("x-repeat", "secret")
        successes = [each for status, each in described["responses"].items() if status[0] == "2"]
        contents = {kind: each for answer in successes for kind, each in answer.get("content", {}).items()}
        json_answer = contents.get("application/json", {}).get("schema", {})
        self.answer = _named(json_answer)
        self.is_text = any(kind.startswith("text/csv") for kind in contents)

    @property
    def is_served(self) -> bool:
        """False for streams and files, which the client reads and sends by itself."""
        return not self.takes_a_file and (bool(self.answer) or self.is_text)


def _operations(document: Json) -> Iterator[_Operation]:
    for path, verbs in document["paths"].items():
        for verb, described in verbs.items():
            yield _Operation(verb, path, described)


def _api(document: Json) -> str:
    lines = [
        f'"""The routes of the API. {_NOTE}"""\n',
        "from __future__ import annotations\n",
        "from typing import Any, AsyncIterator, List, Optional\n",
        "from dcp_client.calls import Call, page_of, path_of",
        "from dcp_client.generated import bodies, models",
        "from dcp_client.aio.transport import AsyncTransport\n\n",
        "class AsyncApi:",
        '    """Every route of the API, by its name in the OpenAPI document."""\n',
        "    def __init__(self, transport: AsyncTransport) -> None:",
        "        self._transport = transport\n",
    ]
    types = _Types(document, "models.")
    for operation in _operations(document):
        if operation.is_served:
            lines += _route(operation, types)
            lines += _pages(operation, document, types)
    return "\n".join(lines)


def _route(operation: _Operation, types: _Types) -> Iterator[str]:
    answer = f"models.{operation.answer}" if operation.answer else "str"
    yield f"    async def {operation.name}(self, {_parameters(operation, types)}) -> {answer}:"
    yield _docstring(_about(operation), "        ")
    arguments = [repr(operation.verb), _path(operation)]
    if operation.query:
        arguments.append(f"query={{{_pairs(operation.query)}}}")
    if operation.body is not None:
        arguments.append("body=body" if operation.needs_body else "body=body or {}")
    arguments.append(f"repeat={operation.repeat!r}")
    if operation.repeat == "keyed":
        arguments.append("key=idempotency_key")
    call = f"Call({', '.join(arguments)})"
    if operation.is_text:
        yield f"        return await self._transport.text({call})\n"
    else:
        yield f"        return await self._transport.model({call}, {answer})\n"


def _about(operation: _Operation) -> str:
    roles = ", ".join(operation.described["x-roles"])
    return f"{operation.described['summary']}\n\n`{operation.verb} {operation.path}`, for: {roles}."


def _path(operation: _Operation) -> str:
    if not operation.path_fields:
        return repr(operation.path)
    names = ", ".join(f"{each['name']}={each['name']}" for each in operation.path_fields)
    return f"path_of({operation.path!r}, {names})"


def _safe(name: str) -> str:
    return f"{name}_" if keyword.iskeyword(name) else name


def _pairs(parameters: Iterable[Json]) -> str:
    return ", ".join(f"{each['name']!r}: {_safe(each['name'])}" for each in parameters)


def _parameters(operation: _Operation, types: _Types, without: Iterable[str] = ()) -> str:
    given = [f"{each['name']}: {types.plain('', each['schema'])}" for each in operation.path_fields]
    if operation.body is not None:
        body = f"bodies.{operation.body_name}"
        given.append(f"body: {body}" if operation.needs_body else f"body: Optional[{body}] = None")
    named = [
        f"{_safe(each['name'])}: Optional[{types.plain('', each['schema'])}] = None"
        for each in operation.query
        if each["name"] not in without
    ]
    if operation.repeat == "keyed":
        named.append("idempotency_key: Optional[str] = None")
    return ", ".join([*given, *(["*", *named] if named else [])])


def _pages(operation: _Operation, document: Json, types: _Types) -> Iterator[str]:
    """A method that walks through all pages of a list, if the route has pages."""
    properties = document["components"]["schemas"].get(operation.answer, {}).get("properties", {})
    names = {each["name"] for each in operation.query}
    cursors = {name[5:]: name for name in properties if name.startswith("next_") and name[5:] in names}
    lists = {
        name: target
        for name, each in properties.items()
        if _type_name(each) == "array" and (target := _named(each["items"])) and types.is_object(target)
    }
    items = "all" if "all" in lists else next(iter(lists), "")
    if not cursors or (len(lists) != 1 and items != "all"):
        return
    without = {"page", *cursors}
    name = re.sub("^(list|get)_", "iterate_", operation.name)
    passed = [each["name"] for each in operation.path_fields]
    passed += [f"{_safe(e['name'])}={_safe(e['name'])}" for e in operation.query if e["name"] not in without]
    # A walk in another order than by id has a cursor, which then comes first.
    order = sorted(cursors, key=lambda each: each != "cursor")
    parameters = _parameters(operation, types, without)
    yield f"    async def {name}(self, {parameters}) -> AsyncIterator[models.{lists[items]}]:"
    yield _docstring(f"Walks through all pages of `{operation.name}`.", "        ")
    yield "        after: Any = {}"
    yield "        while after is not None:"
    yield f"            page = await self.{operation.name}({', '.join([*passed, '**after'])})"
    yield f"            for item in page.{items}:"
    yield "                yield item"
    yield f"            after = page_of(page, {[(each, cursors[each]) for each in order]!r})\n"


def _docstring(text: str, indent: str) -> str:
    """A docstring, or the comment of a field in that form."""
    text = re.sub(r"[ \t]+", " ", text.replace("\\", "\\\\").replace('"""', "'''")).strip()
    paragraphs = []
    for paragraph in text.split("\n"):
        after = "  " if paragraph.startswith("* ") else ""
        paragraphs.append(textwrap.fill(paragraph, _WIDTH, subsequent_indent=after, break_long_words=False))
    body = "\n".join(paragraphs)
    if not body:
        return ""
    closing = '"""' if "\n" not in body and not body.endswith('"') else '\n"""'
    return textwrap.indent(f'"""{body}{closing}', indent)
