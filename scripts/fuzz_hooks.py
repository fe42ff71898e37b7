"""What schemathesis must know of our document beyond JSON Schema; `scripts.fuzz` has it loaded.

It gives the formats that JSON Schema has no rules for, and drops what the caller's own doing spoils.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from zoneinfo import available_timezones

import phonenumbers
import schemathesis
from hypothesis import strategies as st
from stdnum.iso7064 import mod_97_10

from server.domain.terms import is_timezone

_LABEL = st.from_regex(r"[a-z]([a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
_NUMBERS = [
    phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    if (number := phonenumbers.example_number(region)) is not None
]


def _iban(account: str) -> str:
    """The Saudi IBAN of an account: its check digits make the rest, moved to the front, 1 modulo 97."""
    return f"SA{mod_97_10.calc_check_digits(account + 'SA')}{account}"


_IBANS = st.from_regex(r"[0-9]{20}", fullmatch=True).map(_iban)
schemathesis.openapi.format("iban", _IBANS | _IBANS.map(str.lower))
schemathesis.openapi.format("phone", st.sampled_from(_NUMBERS))
schemathesis.openapi.format("email", st.builds("{}@{}.example.com".format, _LABEL, _LABEL))
schemathesis.openapi.format("timezone", st.sampled_from(sorted(filter(is_timezone, available_timezones()))))
schemathesis.openapi.format("uri", st.builds("https://{}.example.com/{}".format, _LABEL, _LABEL))


@schemathesis.hook
def before_load_schema(context: Any, raw_schema: dict[str, Any]) -> None:
    """Leaves ``api_key`` out of bodies: a second credential, drawn at random, would be refused before
    anything else is looked at."""
    for path in raw_schema["paths"].values():
        for operation in path.values():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                content["schema"]["properties"].pop("api_key", None)
                content.get("example", {}).pop("api_key", None)


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Drops a query without what ``x-needs`` asks for: OpenAPI has no word for it between parameters."""
    query: Mapping[str, Any] = case.query or {}
    parameters = case.operation.definition.raw["parameters"]
    needs = {one["name"]: one["x-needs"] for one in parameters if "x-needs" in one}
    return all(query.get(other) for name in needs if query.get(name) for other in needs[name])
