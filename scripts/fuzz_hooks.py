"""Hooks for schemathesis, loaded by `scripts.fuzz`: what our document requires beyond JSON Schema.

It provides values for formats that JSON Schema does not define, and drops requests that the document
cannot describe as invalid.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any
from zoneinfo import available_timezones

import phonenumbers
import schemathesis
from hypothesis import strategies as st
from stdnum.iso7064 import mod_97_10

from server.domain.terms import is_timezone
from server.domain.texts import unseemly
from server.domain.usage import MAX_DAYS

_LABEL = st.from_regex(r"[a-z]([a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
_NUMBERS = [
    phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    if (number := phonenumbers.example_number(region)) is not None
]


def _iban(account: str) -> str:
    """Returns the Saudi IBAN of an account, with its check digits (ISO 7064, modulo 97)."""
    return f"SA{mod_97_10.calc_check_digits(account + 'SA')}{account}"


_IBANS = st.from_regex(r"[0-9]{20}", fullmatch=True).map(_iban)
schemathesis.openapi.format("iban", _IBANS | _IBANS.map(str.lower))
schemathesis.openapi.format("phone", st.sampled_from(_NUMBERS))
schemathesis.openapi.format("email", st.builds("{}@{}.example.com".format, _LABEL, _LABEL))
schemathesis.openapi.format("timezone", st.sampled_from(sorted(filter(is_timezone, available_timezones()))))
schemathesis.openapi.format("uri", st.builds("https://{}.example.com/{}".format, _LABEL, _LABEL))

_SEEMLY = st.text(st.characters(categories=("L", "N", "P", "S", "Zs"))).filter(
    lambda text: unseemly(text) is None
)
schemathesis.openapi.format("shown-line", _SEEMLY)
schemathesis.openapi.format("shown-lines", _SEEMLY)


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Removes ``api_key`` from bodies: the gateway would refuse a random second credential before
    anything else is checked."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"].get("properties", {}).pop("api_key", None)  # bytes have none
                content.get("example", {}).pop("api_key", None)


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Drops a query that lacks a parameter required by ``x-needs`` or ``x-needs-by-value``, or whose dates
    are in the wrong order or too far apart: OpenAPI itself cannot express that."""
    query: Mapping[str, Any] = case.query or {}
    if _has_bad_period(query):
        return False
    parameters = case.operation.definition.raw["parameters"]
    needs = {parameter["name"]: parameter["x-needs"] for parameter in parameters if "x-needs" in parameter}
    by_value = {each["name"]: each["x-needs-by-value"] for each in parameters if "x-needs-by-value" in each}
    needs |= {name: needed.get(query.get(name), []) for name, needed in by_value.items()}
    return all(query.get(other) for name in needs if query.get(name) for other in needs[name])


def _has_bad_period(query: Mapping[str, Any]) -> bool:
    """Whether ``from`` and ``to`` are dates that are no period that can be asked for."""
    last = query.get("to") or datetime.now(UTC).date().isoformat()
    try:
        days = (date.fromisoformat(last) - date.fromisoformat(query.get("from") or last)).days
    except (TypeError, ValueError):
        return False
    return not 0 <= days < MAX_DAYS
