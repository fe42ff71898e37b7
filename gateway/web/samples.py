"""Owns the code that shows how an endpoint is called, in each language; all of it is drawn from the call.

Keys and ids come from environment variables, which the page names. It knows no single endpoint, except that
OpenAI's client has methods of its own for the paths of OpenAI's API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.events import MEDIA_TYPE as EVENTS_TYPE

DIRECT_ORIGIN = "https://api.dcp.sa"
"""The origin in the samples, until the page replaces it with the origin that served the page."""
ROLE_VARIABLES: Mapping[str, str] = {
    "provider": "DCP_PROVIDER_KEY",
    "renter": "DCP_RENTER_KEY",
    "admin": "DCP_ADMIN_TOKEN",
}
OWN_VARIABLE = "DCP_OPERATOR_KEY"
"""The variable of an operator's own key, for what the admin token, which is nobody's, cannot do."""
_OWN = "/me/"
_PASSKEY_REASONS = frozenset({"LOG_IN_NEEDED", "PASSKEY_REFUSED"})
FILE = "data.tar"
"""The file that the samples send."""
_ROLE_HEADERS = {"provider": "x-provider-key", "renter": "x-renter-key", "admin": "x-admin-token"}
_FILES = "*/*"
# The resources of OpenAI's API, and what its client calls the methods of ours.
_OPENAI_RESOURCES = frozenset({"models", "batches", "files"})
_OPENAI_VERBS = {"list": "list", "get": "retrieve", "cancel": "cancel", "delete": "delete"}
_WIDTH = 72


@dataclass(frozen=True)
class Sample:
    """Sample code for a call, with the address of the API."""

    language: str
    name: str
    code: str


@dataclass(frozen=True)
class Variable:
    """An environment variable that samples read."""

    name: str
    meaning: str


@dataclass(frozen=True)
class Call:
    """What of an endpoint the code of its samples depends on."""

    operation: str
    """Its name in the OpenAPI document, such as `SubmitJob`."""
    method: str
    path: str
    roles: tuple[str, ...]
    numbers: frozenset[str] = frozenset()
    """The fields of its path that are numbers."""
    body: Any = None
    """The example of its JSON body."""
    kind: str = "application/json"
    """The media type of its answer."""
    is_upload: bool = False
    is_of_browsers: bool = False
    command: str = ""
    """The command of `dcp` that does the same."""
    reasons: frozenset[str] = frozenset()
    """The reasons with which it can refuse."""

    @property
    def role(self) -> str:
        """The first role whose key it takes; empty if it takes none."""
        return next((role for role in self.roles if role in ROLE_VARIABLES), "")

    @property
    def variable(self) -> str:
        """The environment variable with its key; empty if it takes none."""
        is_own = self.roles == ("admin",) and (self.is_of_browsers or _OWN in self.path)
        return OWN_VARIABLE if is_own else ROLE_VARIABLES.get(self.role, "")

    @property
    def needs_passkey(self) -> bool:
        """Whether only a browser with a passkey can send it."""
        return not self.reasons.isdisjoint(_PASSKEY_REASONS)

    @property
    def fields(self) -> list[str]:
        """The fields of its path."""
        return re.findall(r"\{(\w+)\}", self.path)

    @property
    def sent(self) -> Any:
        """The body without the key, which travels in a header."""
        if not isinstance(self.body, dict) or not self.role:
            return self.body
        return {name: value for name, value in self.body.items() if name != "api_key"}

    def address(self, variable: str) -> str:
        """Its address with a variable for each field of the path, in the form of a language."""
        place = re.sub(r"\{(\w+)\}", lambda match: variable.replace("NAME", match[1].upper()), self.path)
        return DIRECT_ORIGIN + place


def samples(call: Call) -> Iterator[Sample]:
    """The call in a shell, Python, `dcp`, OpenAI's client and JavaScript; nothing if it needs a passkey."""
    if call.needs_passkey:
        return
    yield Sample("curl", "curl", curl(call))
    yield Sample("python", "Python", _http(call) if call.is_of_browsers else _python(call))
    if call.command:
        yield Sample("dcp", "dcp", _dcp(call))
    if code := _openai(call):
        yield Sample("python", "OpenAI", code)
    yield Sample("javascript", "JavaScript", javascript(call))


def curl(call: Call) -> str:
    """The call by curl."""
    options = {_FILES: " --fail --remote-name --continue-at -", EVENTS_TYPE: " -N"}.get(call.kind, "")
    has_body = call.sent is not None or call.is_upload
    options += f" -X {call.method}" if call.method not in ("GET", "POST" if has_body else "GET") else ""
    parts = [f"curl -sS{options}", f'  "{call.address("$NAME")}"']
    if call.role:
        parts.append(f'  -H "{_ROLE_HEADERS[call.role]}: ${call.variable}"')
    if call.is_of_browsers:
        parts.append(f'  -H "Origin: {DIRECT_ORIGIN}"')
    if call.is_upload:
        parts.append(f"  --upload-file {FILE}")
    elif call.sent is not None:
        quoted = pretty(call.sent).replace("'", "'\\''")
        parts += ["  -H 'content-type: application/json'", f"  -d '{quoted}'"]
    return " \\\n".join(parts).replace(" -X PUT", "")


def _python(call: Call) -> str:
    """By `dcp_client`, whose methods have the names of the OpenAPI document."""
    arguments = [f'os.environ["{name.upper()}"]' for name in call.fields]
    arguments = [
        f"int({value})" if name in call.numbers else value
        for name, value in zip(call.fields, arguments, strict=True)
    ]
    if call.sent:
        arguments.append(_python_literal(call.sent, "    "))
    imports, lines = [], [f"    answer = client.api.{_snake(call.operation)}({', '.join(arguments)})"]
    lines.append("    print(answer)")
    if call.kind == EVENTS_TYPE:
        lines = [f"    for event in client.stream({arguments[0]}):", "        print(event)"]
    elif call.kind == _FILES:
        imports = ["from pathlib import Path"]
        lines = [f'    print(client.download_all({arguments[0]}, Path(".")))']
    elif call.is_upload:
        imports = ["from pathlib import Path"]
        lines = [f'    print(client.upload(Path("{FILE}")))']
    key = f', os.environ["{call.variable}"]' if call.role else ""
    body = [f'with Client("{DIRECT_ORIGIN}"{key}) as client:', *lines]
    if any("os.environ" in line for line in body):
        imports = ["import os", *imports]
    return "\n".join([*imports, *([""] if imports else []), "from dcp_client import Client", "", *body])


def _http(call: Call) -> str:
    """By plain HTTP, for what only our own pages call: the header says so."""
    headers = [f'"{_ROLE_HEADERS[call.role]}": os.environ["{call.variable}"]'] if call.role else []
    headers.append(f'"Origin": "{DIRECT_ORIGIN}"')
    lines = ["import os", "", "import httpx", ""] if call.role else ["import httpx", ""]
    lines += [f"answer = httpx.{call.method.lower()}(", f'    "{call.address("{NAME}")}",']
    lines.append(f"    headers={{{', '.join(headers)}}},")
    if call.sent is not None:
        lines.append(f"    json={_python_literal(call.sent, '    ')},")
    return "\n".join([*lines, ")", "assert answer.is_success, answer.text", "print(answer.json())"])


def _dcp(call: Call) -> str:
    key = f'export DCP_API_KEY="${call.variable}"\n' if call.role else ""
    return f"export DCP_API_URL={DIRECT_ORIGIN}\n{key}{call.command}"


def _openai(call: Call) -> str:
    """By OpenAI's client, if it has the method; its paths have no more than a resource, an id and an act."""
    resource = call.path.removeprefix("/v1/").partition("/")[0] if call.path.startswith("/v1/") else ""
    verb = _OPENAI_VERBS.get(_snake(call.operation).partition("_")[0], "")
    if resource not in _OPENAI_RESOURCES or not verb:
        return ""
    arguments = ", ".join(f'os.environ["{name.upper()}"]' for name in call.fields)
    answer = f"client.{resource}.{verb}({arguments})"
    last = f"for found in {answer}:\n    print(found.id)" if verb == "list" else f"print({answer})"
    return f"{openai_client()}{last}"


def openai_client() -> str:
    """How OpenAI's client is opened; its requests come after it."""
    key = 'os.environ["DCP_RENTER_KEY"]'
    return (
        f"import os\n\nfrom openai import OpenAI\n\n"
        f'client = OpenAI(base_url="{DIRECT_ORIGIN}/v1", api_key={key})\n'
    )


def javascript(call: Call) -> str:
    """The call by `fetch`, as a module of Node.js."""
    headers = [f'"{_ROLE_HEADERS[call.role]}": process.env.{call.variable}'] if call.role else []
    headers += [f'"origin": "{DIRECT_ORIGIN}"'] if call.is_of_browsers else []
    headers += ['"content-type": "application/json"'] if call.sent is not None else []
    options = [f'  method: "{call.method}",'] if call.method != "GET" else []
    options += [_listed("  headers: {", headers, "},")] if headers else []
    if call.is_upload:
        options.append(f'  body: await readFile("{FILE}"),')
    elif call.sent is not None:
        indented = pretty(call.sent).replace("\n", "\n  ")
        options.append(f"  body: JSON.stringify({indented}),")
    quote = "`" if call.fields else '"'
    address = f"{quote}{call.address('${process.env.NAME}')}{quote}"
    lines = [f"const answer = await fetch({address}, {{", *options, "});"] if options else []
    lines = lines or [f"const answer = await fetch({address});"]
    lines.append("if (!answer.ok) throw new Error(await answer.text());")
    if call.is_upload:
        lines = ['import { readFile } from "node:fs/promises";', "", *lines]
    if call.kind == _FILES:
        lines = ['import { writeFile } from "node:fs/promises";', "", *lines]
        return "\n".join([*lines, f"await writeFile(process.env.{call.fields[-1].upper()}, answer.body);"])
    if call.kind == EVENTS_TYPE:
        return "\n".join(
            [
                *lines,
                "const texts = answer.body.pipeThrough(new TextDecoderStream());",
                "for await (const text of texts) process.stdout.write(text);",
            ]
        )
    reader = "text" if call.kind.startswith("text/") else "json"
    return "\n".join([*lines, f"console.log(await answer.{reader}());"])


def _listed(opening: str, items: list[str], closing: str) -> str:
    """Items on one line, or where they are too long for it, each on its own."""
    line = f"{opening} {', '.join(items)} {closing}"
    if len(line) <= _WIDTH:
        return line
    return "\n".join([opening, *(f"    {item}," for item in items), f"  {closing}"])


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def _python_literal(body: Any, indent: str) -> str:
    doubled = re.sub(r"(?m)^ +", lambda match: match[0] * 2, pretty(body))
    indented = doubled.replace("\n", f"\n{indent}")
    words = {"true": "True", "false": "False", "null": "None"}
    return re.sub(r'"(?:[^"\\]|\\.)*"|\b(?:true|false|null)\b', lambda m: words.get(m[0], m[0]), indented)


def pretty(value: Any) -> str:
    """JSON for people: a short object or list stays on a single line."""

    def lines(item: Any, indent: str) -> str:
        plain = json.dumps(item, ensure_ascii=False)
        if not isinstance(item, dict | list) or not item or (indent and len(plain) + len(indent) <= 64):
            return plain
        inner = indent + "  "
        if isinstance(item, list):
            parts: Iterable[str] = (lines(part, inner) for part in item)
            opening, closing = "[", "]"
        else:
            parts = (f"{json.dumps(key)}: {lines(part, inner)}" for key, part in item.items())
            opening, closing = "{", "}"
        joined = f",\n{inner}".join(parts)
        return f"{opening}\n{inner}{joined}\n{indent}{closing}"

    return lines(value, "")
