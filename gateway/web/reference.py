"""Owns the content of the reference page: the OpenAPI document, arranged in groups, rows and examples.

It knows endpoints only from the document, and no markup except the Markdown of the comments.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from typing import Any

from markdown_it import MarkdownIt
from markupsafe import Markup

from gateway.events import MEDIA_TYPE as EVENTS_TYPE
from gateway.languages import Language
from gateway.openapi import COMMAND, EVENT_SCHEMA, OF_BROWSERS
from gateway.web.samples import FILE, Call, Sample, Variable, pretty, samples

Json = dict[str, Any]

_KEYS = {
    "DCP_PROVIDER_KEY": "Provider key",
    "DCP_RENTER_KEY": "Renter key",
    "DCP_ADMIN_TOKEN": "Admin token",
    "DCP_OPERATOR_KEY": "A key of the operator.",
}
"""What the environment variables with keys are."""
_MARKDOWN = MarkdownIt("commonmark", {"html": False})


@cache
def markdown(text: str) -> Markup:
    """Renders a comment's Markdown; HTML inside it stays text."""
    return Markup(_MARKDOWN.render(text))  # noqa: S704  # rendered with HTML off


@dataclass(frozen=True)
class Row:
    """A field or parameter in a table."""

    name: str
    depth: int
    """Its nesting level in the body, from 0."""
    type: str
    link: str
    """The name of its object type; empty for a plain value."""
    place: str
    """`path`, `query`, `header` or `body`."""
    required: bool
    meaning: str
    limits: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """One HTTP status of an endpoint's responses."""

    status: int
    title: str
    meaning: str
    codes: Mapping[str, str]
    rows: tuple[Row, ...] = ()
    type: str = ""


@dataclass(frozen=True)
class Operation:
    """An endpoint with everything that the page shows about it."""

    slug: str
    method: str
    path: str
    summary: str
    description: str
    roles: tuple[str, ...]
    rows: tuple[Row, ...]
    answers: tuple[Answer, ...]
    errors: tuple[Answer, ...]
    example_request: str
    example_response: str
    success: int
    samples: tuple[Sample, ...]
    variables: tuple[Variable, ...]
    """The environment variables that the samples read."""
    file: str
    """The file that the samples send; empty if they send none."""

    @property
    def is_public(self) -> bool:
        """Whether the endpoint needs no key."""
        return self.roles == ("public",)


@dataclass(frozen=True)
class Group:
    """The endpoints of one service."""

    slug: str
    title: str
    meaning: str
    operations: tuple[Operation, ...]

    @property
    def path(self) -> str:
        """The address of its page."""
        return f"/docs/{self.slug.removesuffix('-endpoints')}"

    @property
    def audience(self) -> str:
        """Whom it is for: operators if most endpoints are theirs and the others public, providers
        if only they may call most, or renters may call none."""
        roles = [set(operation.roles) - {"public"} for operation in self.operations]
        if all(role <= {"admin"} for role in roles) and sum(map(bool, roles)) * 2 > len(roles):
            return "operators"
        is_of_providers = sum(role == {"provider"} for role in roles) * 2 > len(roles)
        is_of_others = any({"renter", "public"} & set(operation.roles) for operation in self.operations)
        return "providers" if is_of_providers or not is_of_others else "renters"


@dataclass(frozen=True)
class Event:
    """A kind of event that is sent to webhooks."""

    slug: str
    name: str
    meaning: str
    signing: str
    """What its headers are for."""
    rows: tuple[Row, ...]
    """The headers and the body."""
    type: str
    answers: Mapping[str, str]
    """What the answers of the address lead to, by status or class of statuses."""


@dataclass(frozen=True)
class Shape:
    """An object with its fields, or an enum with its values."""

    name: str
    meaning: str
    rows: tuple[Row, ...]


class Reference:
    """The content of the page in the document's language."""

    def __init__(self, document: Json, language: Language) -> None:
        self._document = document
        self._schemas: Mapping[str, Json] = document["components"]["schemas"]
        self._language = language
        self._shared = self._shared_codes()
        self.introduction: str = document["info"]["description"]
        self.groups = tuple(self._group(tag) for tag in document["tags"])
        self.events = tuple(
            self._event(name, item["post"]) for name, item in document.get("webhooks", {}).items()
        )
        self.shapes = tuple(self._shapes())

    @property
    def operations(self) -> list[Operation]:
        """All endpoints in the order of the page."""
        return [operation for group in self.groups for operation in group.operations]

    @property
    def all_errors(self) -> Mapping[str, str]:
        """What each reason of an error means, sorted by reason."""
        failed = [*self.shared_errors, *(error for o in self.operations for error in o.errors)]
        return dict(sorted((code, text) for answer in failed for code, text in answer.codes.items()))

    @property
    def shared_errors(self) -> list[Answer]:
        """The errors that every endpoint shares."""
        entry: Json = next((item for _, _, item in self._entries()), {"responses": {}})
        shared = [_only(answer, self._shared.__contains__) for answer in self._failures(entry)]
        return [answer for answer in shared if answer.codes]

    def _entries(self) -> Iterator[tuple[str, str, Json]]:
        for path, item in self._document["paths"].items():
            for verb, entry in item.items():
                yield verb.upper(), path, entry

    def _shared_codes(self) -> frozenset[str]:
        per_route = [
            {code for answer in entry["responses"].values() for code in answer.get("x-codes", ())}
            for _, _, entry in self._entries()
        ]
        return frozenset(set.intersection(*per_route)) if per_route else frozenset()

    def _group(self, tag: Json) -> Group:
        operations = [self._operation(*e) for e in self._entries() if e[2]["tags"] == [tag["name"]]]
        return Group(_slug(tag["name"]), tag["x-title"], tag["description"], tuple(operations))

    def _operation(self, method: str, path: str, entry: Json) -> Operation:
        body = entry.get("requestBody", {}).get("content", {}).get("application/json", {})
        rows = [self._parameter_row(parameter) for parameter in entry["parameters"]]
        rows += self._rows(body["schema"], "body") if body else []
        answers = [self._answer(s, a) for s, a in entry["responses"].items() if int(s) < 400]
        example = next(self._examples(entry), "")
        errors = [_only(a, lambda code: code not in self._shared) for a in self._failures(entry)]
        call = _call(method, path, entry)
        return Operation(
            slug=_slug(entry["operationId"]),
            method=method,
            path=path,
            summary=entry["summary"],
            description=entry["description"],
            roles=tuple(entry["x-roles"]),
            rows=tuple(rows),
            answers=tuple(answers),
            errors=tuple(answer for answer in errors if answer.codes),
            example_request=pretty(body["example"]) if "example" in body else "",
            example_response=example if isinstance(example, str) else pretty(example),
            success=min(int(status) for status in entry["responses"] if int(status) < 400),
            samples=tuple(samples(call)),
            variables=tuple(self._variables(call, entry)),
            file=FILE if call.is_upload else "",
        )

    def _variables(self, call: Call, entry: Json) -> Iterator[Variable]:
        """What the samples read from the environment, in the order in which they read it."""
        code = "".join(sample.code for sample in samples(call))
        for name, meaning in _KEYS.items():
            if name in code:
                yield Variable(name, self._language.say(meaning))
        for parameter in entry["parameters"]:
            if parameter["in"] == "path":
                yield Variable(parameter["name"].upper(), parameter["description"])

    def _event(self, name: str, entry: Json) -> Event:
        body = entry["requestBody"]["content"]["application/json"]["schema"]
        headers = [self._parameter_row(parameter) for parameter in entry["parameters"]]
        return Event(
            slug=f"event-{_slug(name)}",
            name=name,
            meaning=entry["summary"],
            signing=entry["description"],
            rows=(*headers, *self._rows(self._resolved(body), "body")),
            type=_named(body),
            answers={status: answer["description"] for status, answer in entry["responses"].items()},
        )

    def _examples(self, entry: Json) -> Iterator[Any]:
        for answer in entry["responses"].values():
            yield from (kind["example"] for kind in answer.get("content", {}).values() if "example" in kind)

    def _answer(self, status: str, answer: Json) -> Answer:
        content = answer.get("content", {})
        schema = content.get("application/json", {}).get("schema", {})
        schema = schema or content.get(EVENTS_TYPE, {}).get(EVENT_SCHEMA, {})
        rows = tuple(self._rows(self._resolved(schema), "body", nested=False)) if schema else ()
        return Answer(int(status), _phrase(status), answer["description"], {}, rows, _named(schema))

    def _failures(self, entry: Json) -> list[Answer]:
        return [
            Answer(int(status), _phrase(status), "", answer["x-codes"])
            for status, answer in entry["responses"].items()
            if "x-codes" in answer
        ]

    def _shapes(self) -> Iterator[Shape]:
        """The named objects and enums, sorted by name."""
        for name, schema in self._schemas.items():
            yield Shape(name, schema.get("description", ""), tuple(self._rows(schema, "body", nested=False)))

    def _parameter_row(self, parameter: Json) -> Row:
        schema = parameter["schema"]
        meaning = parameter["description"]
        return self._row(parameter["name"], schema, parameter["in"], parameter["required"], meaning, 0)

    def _rows(self, schema: Json, place: str, *, nested: bool = True, depth: int = 0) -> Iterator[Row]:
        """The fields of an object. With ``nested``, each is followed by the fields of its own object."""
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            yield self._row(name, field, place, name in required, field.get("description", ""), depth)
            inner = self._resolved(field.get("items", field))
            if nested and depth < 4 and "properties" in inner:
                yield from self._rows(inner, place, depth=depth + 1)

    def _row(self, name: str, schema: Json, place: str, required: bool, meaning: str, depth: int) -> Row:
        resolved = self._resolved(schema)
        kind = self._type(schema)
        limits = tuple(self._limits(resolved if _named(schema) else schema))
        return Row(name, depth, kind, _named(schema.get("items", schema)), place, required, meaning, limits)

    def _type(self, schema: Json) -> str:
        resolved = self._resolved(schema)
        say = self._language.say
        type_name = _plain_type(resolved)
        if type_name == "array":
            return say("list of {type}", type=self._type(schema["items"]))
        if "additionalProperties" in resolved and isinstance(resolved["additionalProperties"], dict):
            return say("map of text to {type}", type=self._type(resolved["additionalProperties"]))
        if type_name == "object":
            return _named(schema) or say("object")
        if _values(resolved) and _named(schema):
            return _named(schema)
        names = {"string": "text", "integer": "integer", "number": "number", "boolean": "true or false"}
        formats = {"date-time": "time (RFC 3339)", "email": "e-mail address", "phone": "telephone number"}
        return say(formats.get(resolved.get("format", ""), names[type_name]))

    def _limits(self, schema: Json) -> Iterator[str]:
        say = self._language.say
        pairs = (
            ("minLength", "maxLength", "{low} to {high} characters", "at most {high} characters"),
            ("minimum", "maximum", "{low} to {high}", "at most {high}"),
        )
        for least, most, both, upper in pairs:
            low, high = _number(schema.get(least)), _number(schema.get(most))
            if low and high:
                yield say(both, low=low, high=high)
            elif high:
                yield say(upper, high=high)
            elif low and least == "minimum":
                yield say("at least {low}", low=low)
        if "maxItems" in schema or "maxProperties" in schema:
            high = _number(schema.get("maxItems", schema.get("maxProperties")))
            yield say("at most {high} items", high=high)
        if 0 < len(_values(schema)) <= 12:
            texts = [f"`{value}`" for value in _values(schema) if value is not None]
            yield say("one of {values}", values=say(", ").join(texts))
        if "default" in schema:
            yield say("default: {value}", value=_number(schema["default"]))

    def _resolved(self, schema: Json) -> Json:
        name = _named(schema)
        return self._schemas[name] if name else schema


def _named(schema: Json) -> str:
    """The name of the object that a schema refers to; empty for an inline schema."""
    reference = schema.get("$ref", "") or schema.get("anyOf", [{}])[0].get("$ref", "")
    return str(reference).removeprefix("#/components/schemas/")


def _values(schema: Json) -> list[str | None]:
    """The values that an enum has now; empty for another schema."""
    return list(schema.get("enum") or schema.get("x-extensible-enum") or ())


def _plain_type(schema: Json) -> str:
    """The type of the values that are not null."""
    kind = schema["type"]
    return str(kind if isinstance(kind, str) else kind[0])


def _only(answer: Answer, wanted: Callable[[str], bool]) -> Answer:
    codes = {code: text for code, text in answer.codes.items() if wanted(code)}
    return Answer(answer.status, answer.title, answer.meaning, codes)


def _phrase(status: str) -> str:
    return HTTPStatus(int(status)).phrase


def _slug(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|[^A-Za-z0-9]+", "-", name).strip("-").lower()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,}"


def _call(method: str, path: str, entry: Json) -> Call:
    body = entry.get("requestBody", {}).get("content", {})
    return Call(
        operation=entry["operationId"],
        method=method,
        path=path,
        roles=tuple(entry["x-roles"]),
        numbers=frozenset(p["name"] for p in entry["parameters"] if p["schema"].get("type") == "integer"),
        body=body.get("application/json", {}).get("example"),
        kind=_kind(entry),
        is_upload="application/octet-stream" in body,
        is_of_browsers=entry.get(OF_BROWSERS, False),
        command=entry.get(COMMAND, ""),
        reasons=frozenset(
            code for answer in entry["responses"].values() for code in answer.get("x-codes", ())
        ),
    )


def _kind(entry: Json) -> str:
    """The media type of an answer that succeeds."""
    types = [
        name for status, a in entry["responses"].items() if int(status) < 400 for name in a.get("content", ())
    ]
    special = (name for name in types if name in ("*/*", EVENTS_TYPE))
    return next(special, types[0] if types else "application/json").partition(";")[0]
