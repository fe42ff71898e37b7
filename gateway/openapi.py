"""Owns the OpenAPI document, which is built from the same descriptors as the routes.

Its texts come from the comments in the protos, which the descriptor set keeps, and are in one language.
It knows no single RPC by name and serves no request: `web` does.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Any

import orjson
from dcp.v1 import errors_pb2, options_pb2
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

from common.json_form import DURATION, TIMESTAMP, enum_names, is_cookie
from gateway import credentials
from gateway.dialects.openai_errors import STATUSES as OPENAI_STATUSES
from gateway.dialects.refusals import ROOT
from gateway.errors import CODES, STATUS_BY_REASON
from gateway.events import MEDIA_TYPE as EVENTS_TYPE
from gateway.languages import ARABIC, ENGLISH, Language
from gateway.relations import NOT_BLANK, body_conditions, needs_of_values, parameter_needs
from gateway.routes import BASES, Binding, bindings, field_rule
from gateway.scalars import (
    FLOAT_TYPES,
    INT32_TYPES,
    INT64_TYPES,
    enum_numbers,
    integer_limits,
)
from gateway.transcode import query_fields

Json = dict[str, Any]

_ROLE_SCHEMES: dict[int, tuple[str, str]] = {
    options_pb2.ROLE_PROVIDER: ("providerKey", "x-provider-key"),
    options_pb2.ROLE_RENTER: ("renterKey", "x-renter-key"),
    options_pb2.ROLE_ADMIN: ("adminToken", "x-admin-token"),
}

# The reasons that all routes share. Every other reason is named in the options of its RPCs.
_ALWAYS = (
    *("INVALID_FIELD", "UNKNOWN_FIELD", "CONFLICTING_CREDENTIALS", "RATE_LIMITED", "INTERNAL"),
    *("OVERLOADED", "UNAVAILABLE", "STORE_UNAVAILABLE", "STORE_DAMAGED", "OUTCOME_UNKNOWN", "TIMEOUT"),
    *("HEAD_TOO_LARGE", "REQUEST_TOO_SLOW"),
)
_WITH_BODY = ("MALFORMED_JSON", "BODY_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE")
_WITH_CREDENTIAL = ("MISSING_CREDENTIAL", "INVALID_CREDENTIAL", "WRONG_ROLE", "CROSS_ORIGIN")
_WITH_ADMIN = ("ADMIN_NOT_CONFIGURED", "OPERATOR_ROLE_NEEDED")
# A method of operators without a role is for admins, as the server enforces it.
_ADMIN = options_pb2.OPERATOR_ROLE_ADMIN
_OF_OPERATORS = "The least role of an operator that may call this: {role}."

_INTRODUCTION = (
    f"Every path under `{BASES[0]}` also exists under `{BASES[1]}`, for browsers on the same origin, with "
    "identical results. All amounts of money are integers in halala (1/100 SAR).",
    'An error has the form `{"error": text, "code": REASON, ...facts}`; 429 and 503 carry `Retry-After`.',
    "In a body, `null` means the same as leaving the field out. No text may contain the character U+0000.",
    "Texts that others see (`format: shown-line` or `shown-lines`) have no control characters, no invisible "
    "characters and none that turn text around; in `shown-lines`, line ends and tabs are allowed.",
    "A request carries one credential: in the header of its role, as a bearer token, as the query field "
    f"`{credentials.QUERY_NAME}`, or as `{credentials.BODY_NAME}` in a JSON body.",
)

# The values of an enum to which new ones can be added, by the convention of the RESTful API Guidelines.
_OPEN_ENUM = "x-extensible-enum"
# A field of a response that can be absent. `required` would refuse the answers of older gateways.
_OPTIONAL = "x-optional"
EVENT_SCHEMA = "x-item-schema"
"""The schema of a message of a stream; OpenAPI 3.2 has a field `itemSchema` for it."""
OF_BROWSERS = "x-of-browsers"
"""Marks an operation that uses cookies, so that only our own pages may call it."""
COMMAND = "x-command"
"""The command of `dcp` that does what the example of an operation does."""
_OF_BROWSERS = (
    "It uses cookies, so only the marketplace's own pages may call it: other programs must send the header "
    "`Origin` with the marketplace's own origin."
)
_PLACE = "Where the bytes begin, such as `bytes 1048576-2097151/2097152`. Default: at 0."
_NEW_VALUES = "New values can be added: accept one that you do not know."
_POLICY = "The limit that was reached: its name, and the number of requests `q` allowed in `w` seconds."
_LIMIT = (
    "The rest of the limit that was reached: `r=0` requests, and the seconds `t` until requests are allowed."
)

_SUCCESS_TEXTS = {
    200: "Done.",
    201: "Created.",
    202: "Accepted; not ready yet.",
    204: "Done, without content.",
    206: "The requested part of the file.",
}
_EVENTS = (
    "A stream of server-sent events. The name of each event is a field of the schema, its data the value of "
    "that field, and its id the `Last-Event-ID` to continue after it. An event `error` has the form of every "
    "error, and the stream breaks after it. Lines that begin with a colon only keep the connection open."
)


# Not the tag of a service: openapi-generator writes a file for each tag of a webhook, over the service's.
_EVENTS_TAG = "Webhook Events"
_EVENT_ANSWERS = {
    "2XX": "The event is delivered.",
    "3XX": "The event is sent again later; redirects are not followed.",
    "4XX": "The event is sent again later; other events do not wait for it.",
    "429": "The address is left alone for as long as `Retry-After` asks, at most ten minutes.",
    "5XX": "The event is sent again later; after several in a row, the address is left alone for a while.",
    "503": "The address is left alone for as long as `Retry-After` asks, at most ten minutes.",
}


@dataclass(frozen=True, slots=True)
class EventKind:
    """A kind of event that is sent to webhooks."""

    name: str
    full_name: str
    body: Descriptor
    headers: Descriptor
    file: FileDescriptor


def event_kinds(files: Iterable[FileDescriptor]) -> list[EventKind]:
    """The kinds of events that the options of enums declare."""
    return [
        EventKind(
            enum_names(enum)[value.number],
            f"{enum.full_name}.{value.name}",
            file.pool.FindMessageTypeByName(f"{file.package}.{body}"),
            file.message_types_by_name[enum.GetOptions().Extensions[options_pb2.enum].event_headers],
            file,
        )
        for file in files
        for enum in file.enum_types_by_name.values()
        for value in enum.values
        if (body := value.GetOptions().Extensions[options_pb2.value].event_body)
    ]


def document(files: Iterable[FileDescriptor], language: Language = ENGLISH) -> Json:
    """Builds the OpenAPI 3.1 document of all RPCs in the files that are served over HTTP."""
    files = list(files)
    return _Document(list(bindings(files)), event_kinds(files), comments(), language).whole()


def comments() -> Mapping[str, str]:
    """All comments in the protos by the full name of the element, from the descriptor set of dcp.v1."""
    raw = (resources.files("dcp.v1") / "descriptors.binpb").read_bytes()
    found: dict[str, str] = {}
    for file in descriptor_pb2.FileDescriptorSet.FromString(raw).file:
        for location in file.source_code_info.location:
            if location.leading_comments:
                lines = location.leading_comments.strip().splitlines()
                found[_full_name(file, location.path)] = "\n".join(
                    line for line in lines if not line.strip().startswith("buf:lint:")
                ).strip()
    return found


def _full_name(file: Any, path: Sequence[int]) -> str:
    """The full name of the element at a path of source information; for an option, an unused name."""
    names, here = [file.package], file
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = here.DESCRIPTOR.fields_by_number.get(number)
        if field is None or not field.is_repeated or field.message_type is None:
            return ""
        here = getattr(here, field.name)[index]
        names.append(getattr(here, "name", ""))
    return ".".join(names) if len(path) % 2 == 0 else ""


class _Document:
    """The document under construction. Schemas are added when they are first referenced."""

    def __init__(
        self,
        served: list[Binding],
        events: list[EventKind],
        comments: Mapping[str, str],
        language: Language,
    ) -> None:
        self._served = served
        self._events = events
        self._comments = comments
        self._language = language
        self._say = language.say
        sent = (*(b.method.output_type for b in served), *(event.body for event in events))
        self._answered = _nested(errors_pb2.ErrorFacts.DESCRIPTOR, *sent)
        self._schemas: dict[str, Json] = {"Error": self._error()}

    def whole(self) -> Json:
        """Assembles the document."""
        paths: dict[str, Json] = {}
        for binding in self._served:
            paths.setdefault(binding.path, {})[binding.verb.lower()] = self._operation(binding)
        webhooks = {event.name: {"post": self._event(event)} for event in self._events}
        return {
            "openapi": "3.1.0",
            "info": {
                "title": "DCP API",
                "version": metadata.version("dcp-marketplace"),
                "summary": self._say("A GPU compute marketplace."),
                "description": "\n\n".join(self._say(text) for text in _INTRODUCTION),
            },
            "servers": [{"url": "/"}],
            "tags": self._tags(),
            "paths": paths,
            "webhooks": webhooks,
            "components": {
                "schemas": dict(sorted(self._schemas.items())),
                "securitySchemes": _security_schemes(),
            },
        }

    def _tags(self) -> list[Json]:
        services = {b.method.containing_service.full_name: b.method.containing_service for b in self._served}
        rules = {name: s.GetOptions().Extensions[options_pb2.service] for name, s in services.items()}
        ordered = sorted(services.items(), key=lambda item: rules[item[0]].position or len(services) + 1)
        return [
            {
                "name": _tag(s),
                "description": self._comment(name),
                "x-title": _text(rules[name].title, self._language),
                "x-title-ar": rules[name].title.ar,
            }
            for name, s in ordered
        ]

    def _event(self, event: EventKind) -> Json:
        """The request that a webhook receives, and what its answers lead to."""
        description = self._comment(event.full_name)
        headers = [
            self._parameter("header", field_rule(field).header, field) for field in event.headers.fields
        ]
        return {
            "operationId": event.name,
            "tags": [_EVENTS_TAG],
            "summary": description,
            "description": self._comment(event.headers.full_name),
            "security": [],
            "parameters": headers,
            "requestBody": {"required": True, "content": _json_content(self._reference(event.body, False))},
            "responses": {
                status: {"description": self._say(text)} for status, text in _EVENT_ANSWERS.items()
            },
        }

    def _operation(self, binding: Binding) -> Json:
        method, rule = binding.method, binding.rule
        operation: Json = {
            "operationId": method.name,
            "tags": [_tag(method.containing_service)],
            "summary": _text(rule.summary, self._language),
            "x-summary-en": rule.summary.en,
            "x-summary-ar": rule.summary.ar,
            "description": self._comment(method.full_name),
            "x-roles": [enum_names(options_pb2.Role.DESCRIPTOR)[role] for role in rule.roles],
            "security": _security(rule.roles),
            "parameters": self._parameters(binding),
            "responses": self._responses(binding),
        }
        if binding.is_upload:
            raw = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
            operation["requestBody"] = {"required": True, "content": raw}
        elif binding.fields_in_body:
            content = self._request_content(binding)
            needed = bool(content["application/json"]["schema"].get("required"))
            operation["requestBody"] = {"required": needed, "content": content}
        if rule.repeat:
            operation["x-repeat"] = enum_names(options_pb2.Repeat.DESCRIPTOR)[rule.repeat]
        if rule.command:
            operation[COMMAND] = rule.command
        if options_pb2.ROLE_RENTER in rule.roles:
            operation["x-scopes"] = [enum_names(options_pb2.Scope.DESCRIPTOR)[scope] for scope in rule.scopes]
            operation["description"] += f"\n\n{self._sub_keys(operation['x-scopes'])}"
        if options_pb2.ROLE_ADMIN in rule.roles:
            role = enum_names(options_pb2.OperatorRole.DESCRIPTOR)[rule.operator_role or _ADMIN]
            operation["x-operator-role"] = role
            operation["description"] += f"\n\n{self._say(_OF_OPERATORS, role=f'`{role}`')}"
        if binding.cookies_in or binding.cookies_out:
            operation[OF_BROWSERS] = True
            operation["description"] += f"\n\n{self._say(_OF_BROWSERS)}"
        return operation

    def _sub_keys(self, scopes: Sequence[str]) -> str:
        """The sentence about the renter's keys that may call the method."""
        if not scopes:
            return self._say("Of a renter's keys, only the main key may call this.")
        names = ", ".join(f"`{scope}`" for scope in scopes)
        if len(scopes) == 1:
            return self._say("A renter's sub-key needs the scope {scope}.", scope=names)
        return self._say("A renter's sub-key needs one of the scopes {scopes}.", scopes=names)

    def _parameters(self, binding: Binding) -> list[Json]:
        fields = binding.method.input_type.fields_by_name
        parameters = [self._parameter("path", name, fields[name]) for name in binding.path_fields]
        for name, header in binding.header_fields.items():
            parameters.append(
                self._parameter("header", field_rule(fields[name]).header or header, fields[name])
            )
        if binding.is_upload:
            parameters.append(
                {
                    "name": "Content-Range",
                    "in": "header",
                    "required": False,
                    "description": self._say(_PLACE),
                    "schema": {"type": "string"},
                }
            )
        if not binding.fields_in_body:
            query = query_fields(binding.method.input_type, binding.elsewhere)
            needs = parameter_needs(binding.method.input_type)
            by_value = needs_of_values(binding.method.input_type)
            for name, path in query.items():
                parameters.append(self._parameter("query", name, path[-1]))
                parameters[-1] |= {"x-needs": needs[name]} if name in needs else {}
                parameters[-1] |= {"x-needs-by-value": by_value[name]} if name in by_value else {}
        return parameters

    def _parameter(self, place: str, name: str, field: FieldDescriptor) -> Json:
        schema = self._field(field, in_request=True)
        old = {"deprecated": True} if field.GetOptions().deprecated else {}
        return old | {
            "name": name,
            "in": place,
            "required": place == "path" or field_rule(field).required,
            "description": schema.pop("description", ""),
            "schema": schema,
        }

    def _request_content(self, binding: Binding) -> Json:
        schema = self._object(binding.method.input_type, True, binding.elsewhere)
        if not binding.is_public:
            schema["properties"][credentials.BODY_NAME] = {
                "type": ["string", "null"],
                "description": self._say("The caller's key, if it is not sent in a header or in the query."),
            }
        return _json_content(schema, binding.rule.example_request)

    def _responses(self, binding: Binding) -> Json:
        success = set(binding.statuses.values()) or {binding.success_status}
        success |= {206} if binding.is_file else {204} if binding.is_events else set()
        responses = {str(status): self._success(binding, status) for status in sorted(success)}
        by_status: dict[int, list[str]] = {}
        for reason in dict.fromkeys(_reasons(binding)):
            status = STATUS_BY_REASON[reason]
            if binding.path.startswith(ROOT):
                status = OPENAI_STATUSES.get(reason, status)
            by_status.setdefault(status, []).append(reason)
        error = self._openai_error() if binding.path.startswith(ROOT) else "Error"
        for status in sorted(by_status):
            responses[str(status)] = self._failure(status, by_status[status], error)
        return responses

    def _success(self, binding: Binding, status: int) -> Json:
        described: Json = {"description": self._status_text(binding, status)}
        if status == 204:
            return described
        if binding.is_events:
            return {"description": self._say(_EVENTS), "content": self._event_content(binding)}
        raw = binding.rule.raw_body
        if raw.head_field:
            # Generators leave out a response of the type `*/*` alone, and with it the download.
            binary = {"schema": {"type": "string", "format": "binary"}}
            described["content"] = {"application/octet-stream": binary, "*/*": binary}
            return described
        if raw.media_type:
            field = binding.method.output_type.fields_by_name[raw.data_field]
            example = orjson.loads(binding.rule.example_response)[raw.data_field]
            schema = self._field(field, in_request=False)
            described["content"] = {raw.media_type: {"schema": schema, "example": example}}
            return described
        schema = self._reference(binding.method.output_type, in_request=False)
        example = binding.rule.example_response if status == binding.success_status else ""
        described["content"] = _json_content(schema, example)
        if binding.rule.HasField("raw_body") and status == binding.success_status:
            described["content"]["image/*"] = {"schema": {}}
        if status == 202 and binding.statuses:
            described["headers"] = self._retry_after()
        return described

    def _event_content(self, binding: Binding) -> Json:
        """A stream of events; `schema` would be taken for that of each of them."""
        example = orjson.loads(binding.rule.example_response)
        lines = [f"event: {name}\ndata: {orjson.dumps(data).decode()}\n\n" for name, data in example.items()]
        return {
            EVENTS_TYPE: {
                EVENT_SCHEMA: self._reference(binding.method.output_type, in_request=False),
                "example": "".join(lines),
            }
        }

    def _status_text(self, binding: Binding, status: int) -> str:
        enum = binding.status_enum
        for value in enum.values if enum else ():
            if enum and binding.statuses.get(value.number) == status:
                return self._comment(f"{enum.full_name}.{value.name}")
        return self._say(_SUCCESS_TEXTS.get(status, "Done."))

    def _failure(self, status: int, reasons: list[str], error: str) -> Json:
        codes = {reason: self._comment(f"dcp.v1.ErrorReason.ERROR_REASON_{reason}") for reason in reasons}
        failure: Json = {
            "description": "\n\n".join(f"`{reason}`: {text}" for reason, text in codes.items()),
            "x-codes": codes,
            "content": _json_content({"$ref": f"#/components/schemas/{error}"}),
        }
        if status in (429, 503):
            failure["headers"] = self._retry_after()
        if status == 429:
            failure["headers"] |= {
                "RateLimit-Policy": {"description": self._say(_POLICY), "schema": {"type": "string"}},
                "RateLimit": {"description": self._say(_LIMIT), "schema": {"type": "string"}},
            }
        return failure

    def _retry_after(self) -> Json:
        seconds = {"type": "integer", "minimum": 0}
        return {"Retry-After": {"description": self._say("Seconds to wait."), "schema": seconds}}

    def _openai_error(self) -> str:
        """The name of the schema of errors in OpenAI's form."""
        own = self._schemas["Error"]["properties"]
        texts = {
            "type": (["string"], "The kind of error, as OpenAI's API names it."),
            "code": (["string"], "The reason, as OpenAI's API names it."),
            "param": (["string", "null"], "The field of the request that it is about."),
        }
        values: Json = {
            name: {"type": types if len(types) > 1 else types[0], "description": self._say(text)}
            for name, (types, text) in texts.items()
        }
        values |= {"message": own["error"], "reason": own["code"]}
        about = self._say("The error, with our own name of it as `reason`.")
        error: Json = {
            "type": "object",
            "description": about,
            "required": sorted(values),
            "properties": values,
        }
        self._schemas["OpenAIError"] = {
            "type": "object",
            "description": self._say("The format of every error at `/v1`: that of OpenAI's API."),
            "required": ["error"],
            "properties": {"error": error},
        }
        return "OpenAIError"

    def _error(self) -> Json:
        facts = self._object(errors_pb2.ErrorFacts.DESCRIPTOR, False)
        own = {
            "error": {
                "type": "string",
                "description": self._say("What went wrong, as a sentence for people."),
            },
            "code": {
                "type": "string",
                _OPEN_ENUM: list(CODES),
                "description": f"{self._say('The stable reason.')} {self._say(_NEW_VALUES)}",
            },
        }
        return {
            "type": "object",
            "description": self._say("The format of every error. Only the facts that apply are present."),
            "required": list(own),
            "properties": own | facts["properties"],
        }

    def _reference(self, named: Descriptor | EnumDescriptor, in_request: bool) -> Json:
        """Returns a reference to the schema of a message or enum, and adds the schema if it is new.

        What occurs in requests and in responses has two schemas: a request may only have what is known, but a
        client must accept a response with a field or a value that is newer than the client.
        """
        name = named.full_name.removeprefix("dcp.v1.")
        if in_request and named.full_name in self._answered:
            name += "Input"
        if name not in self._schemas:
            self._schemas[name] = {}  # reserved before its fields, because they can refer to it
            describe = self._enum if isinstance(named, EnumDescriptor) else self._object
            self._schemas[name].update(describe(named, in_request))  # type: ignore[arg-type]
        return {"$ref": f"#/components/schemas/{name}"}

    def _enum(self, enum: EnumDescriptor, in_request: bool) -> Json:
        readable = enum_numbers(enum)
        values = [(v, enum_names(enum)[v.number]) for v in enum.values]
        known = [(v, name) for v, name in values if name in readable]
        lines = [f"* `{name}`: {self._comment(f'{enum.full_name}.{v.name}')}" for v, name in known]
        aliases = sorted(readable.keys() - {name for _, name in known})
        if not in_request:
            lines.append(f"\n{self._say(_NEW_VALUES)}")
        elif aliases:
            # An alias is not a value of the schema: generators make the same name of it.
            lines.append(f"\n{self._say('Also accepted:')} {', '.join(f'`{alias}`' for alias in aliases)}")
        return {
            "type": "string",
            "enum" if in_request else _OPEN_ENUM: [name for _, name in known],
            "description": "\n".join([self._comment(enum.full_name), "", *lines]),
        }

    def _object(self, message: Descriptor, in_request: bool, without: Collection[str] = ()) -> Json:
        fields = [field for field in message.fields if field.name not in without and not is_cookie(field)]
        schema: Json = {
            "type": "object",
            "description": self._comment(message.full_name),
            "properties": {field.name: self._field(field, in_request) for field in fields},
        }
        if in_request:
            required = [field.name for field in fields if field_rule(field).required]
            schema |= {"required": required} if required else {}
            for name in schema["properties"].keys() - set(required):
                schema["properties"][name] = _or_null(schema["properties"][name])
            schema |= body_conditions(message)
            tolerant = message.GetOptions().Extensions[options_pb2.message].ignore_unknown_fields
            schema |= {} if tolerant else {"additionalProperties": False}
        return schema

    def _field(self, field: FieldDescriptor, in_request: bool) -> Json:
        rule = field_rule(field)
        item = field
        if is_map := field.message_type is not None and field.message_type.GetOptions().map_entry:
            item = field.message_type.fields_by_name["value"]
        schema = self._item(item, in_request) | _limits(item, rule, in_request)
        if is_map:
            schema = {"type": "object", "additionalProperties": schema}
            schema |= {"maxProperties": rule.max_items} if rule.HasField("max_items") else {}
            named = {"maxLength": rule.max_length} if rule.HasField("max_length") else {}
            named |= _FORMATS.get(rule.key_format, {})
            schema |= {"propertyNames": named} if named else {}
        elif field.is_repeated:
            schema = {"type": "array", "items": schema}
            schema |= {"minItems": 1} if rule.required else {}
            schema |= {"maxItems": rule.max_items} if rule.HasField("max_items") else {}
        unit = f" {self._say(f'Unit: {rule.unit}.')}" if rule.unit else ""
        optional = {_OPTIONAL: True} if field.has_presence and not in_request else {}
        return schema | optional | {"description": self._comment(field.full_name) + unit}

    def _item(self, field: FieldDescriptor, in_request: bool) -> Json:
        """The schema of a single value of the field, without its limits."""
        if field.message_type is not None:
            simple = _WELL_KNOWN.get(field.message_type.full_name)
            return dict(simple) if simple else self._reference(field.message_type, in_request)
        if field.enum_type is not None:
            return self._reference(field.enum_type, in_request)
        if integer_limits(field) is not None:
            return {"type": "integer"} | _integer_format(field)
        if field.type in FLOAT_TYPES:
            return {"type": "number", "format": "double"}
        return dict(_PLAIN[field.type])

    def _comment(self, full_name: str) -> str:
        """The comment as Markdown in the document's language. Line ends inside a paragraph become spaces."""
        paragraphs = re.split(r"\n\s*\n", self._comments.get(full_name, ""))
        return "\n\n".join(self._say(" ".join(paragraph.split())) for paragraph in paragraphs)


_WELL_KNOWN = {
    TIMESTAMP: {"type": "string", "format": "date-time"},
    DURATION: {"type": "number", "format": "double"},
}
_PLAIN = {
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
}


def _integer_format(field: FieldDescriptor) -> Json:
    if field.type in INT32_TYPES:
        return {"format": "int32"}
    return {"format": "int64"} if field.type in INT64_TYPES else {"minimum": 0}


# By rules that JSON Schema cannot express: see the introduction of the document.
_SHOWN: Mapping[int, Json] = {
    options_pb2.SHOWN_LINE: {"format": "shown-line"},
    options_pb2.SHOWN_LINES: {"format": "shown-lines"},
}
_TIME = "([01][0-9]|2[0-3]):[0-5][0-9]"
_FORMATS: Mapping[int, Json] = {
    options_pb2.FORMAT_EMAIL: {"format": "email"},
    options_pb2.FORMAT_PHONE: {"format": "phone"},
    options_pb2.FORMAT_IBAN: {"format": "iban"},
    options_pb2.FORMAT_URI: {"format": "uri"},
    options_pb2.FORMAT_IMAGE: {"pattern": "^([A-Za-z0-9][A-Za-z0-9._/:@-]*)?$"},
    options_pb2.FORMAT_FILE_NAME: {"pattern": "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$"},
    options_pb2.FORMAT_VARIABLE_NAME: {
        "pattern": "^(?![Ll][Dd]_|[Dd][Cc][Pp]_|[Nn][Vv][Ii][Dd][Ii][Aa]_)[A-Za-z_][A-Za-z0-9_]*$"
    },
    options_pb2.FORMAT_TIMEZONE: {"format": "timezone"},
    options_pb2.FORMAT_DATE: {"format": "date"},
    options_pb2.FORMAT_SAR: {"pattern": r"^([0-9]{1,7}(\.[0-9]{1,8})?)?$"},
    options_pb2.FORMAT_TIME_OF_DAY: {"pattern": f"^{_TIME}$"},
    options_pb2.FORMAT_END_OF_HOURS: {"pattern": f"^({_TIME}|24:00)$"},
}


def _limits(field: FieldDescriptor, rule: options_pb2.FieldRule, in_request: bool) -> Json:
    """The limits of a single value in terms of JSON Schema."""
    is_text = field.type == FieldDescriptor.TYPE_STRING
    limits: Json = {}
    if is_text and (rule.HasField("min_length") or rule.required):
        limits["minLength"] = max(rule.min_length, 1 if rule.required else 0)
    if is_text and rule.required:
        limits |= NOT_BLANK
    if is_text and rule.HasField("max_length"):
        limits["maxLength"] = rule.max_length
    for name in ("minimum", "maximum", "default"):
        if rule.HasField(name):
            value = getattr(rule, name)
            limits[name] = int(value) if value.is_integer() else value
    limits |= _FORMATS.get(rule.format, {}) | _SHOWN.get(rule.shown, {})
    return {"enum" if in_request else _OPEN_ENUM: list(rule.values)} if rule.values else limits


def _or_null(schema: Json) -> Json:
    """The schema of a field that may also be null, which means the same as leaving it out."""
    if "$ref" in schema:
        reference = {"$ref": schema["$ref"]}
        return {key: value for key, value in schema.items() if key != "$ref"} | {
            "anyOf": [reference, {"type": "null"}]
        }
    with_null = [*schema["enum"], None] if "enum" in schema else None
    return schema | {"type": [schema["type"], "null"]} | ({"enum": with_null} if with_null else {})


def _nested(*messages: Descriptor) -> frozenset[str]:
    """The full names of the messages, and of all messages and enums in their fields."""
    found: set[str] = set()
    waiting = list(messages)
    while waiting:
        message = waiting.pop()
        if message.full_name not in found:
            found.add(message.full_name)
            waiting += [field.message_type for field in message.fields if field.message_type is not None]
            found |= {field.enum_type.full_name for field in message.fields if field.enum_type is not None}
    return frozenset(found)


def _reasons(binding: Binding) -> list[str]:
    own = [errors_pb2.ErrorReason.Name(r).removeprefix("ERROR_REASON_") for r in binding.rule.reasons]
    return [
        *_ALWAYS,
        *(_WITH_BODY if binding.has_body else ()),
        *(() if binding.is_public else _WITH_CREDENTIAL),
        *(_WITH_ADMIN if options_pb2.ROLE_ADMIN in binding.rule.roles else ()),
        *(_of_sub_keys(binding.rule) if options_pb2.ROLE_RENTER in binding.rule.roles else ()),
        *own,
    ]


def _of_sub_keys(rule: options_pb2.MethodRule) -> tuple[str, ...]:
    return ("MISSING_SCOPE",) if rule.scopes else ("MAIN_KEY_NEEDED",)


def _json_content(schema: Json, example: str = "") -> Json:
    content: Json = {"schema": schema}
    if example:
        content["example"] = orjson.loads(example)
    return {"application/json": content}


def _tag(service: Any) -> str:
    title: str = service.GetOptions().Extensions[options_pb2.service].title.en
    return title or service.name


def _text(text: options_pb2.Text, language: Language) -> str:
    """A text from the options, which carry both languages."""
    return text.ar if language is ARABIC else text.en


def _security(roles: Iterable[int]) -> list[Json]:
    """The alternative security requirements; an empty one means that no credential is needed."""
    schemes = [_ROLE_SCHEMES[role][0] for role in roles if role in _ROLE_SCHEMES]
    keys: list[Json] = [{name: []} for name in schemes]
    if keys:
        keys += [{"bearer": []}, {"queryKey": []}]
    return keys + ([{}] if options_pb2.ROLE_PUBLIC in roles else [])


def _security_schemes() -> Json:
    schemes: Json = {
        name: {"type": "apiKey", "in": "header", "name": header} for name, header in _ROLE_SCHEMES.values()
    }
    schemes["bearer"] = {"type": "http", "scheme": "bearer"}
    schemes["queryKey"] = {"type": "apiKey", "in": "query", "name": credentials.QUERY_NAME}
    return schemes
