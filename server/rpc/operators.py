"""Who acts for the marketplace in a call, as the audit log names it."""

from __future__ import annotations

import secrets
from typing import Any

from server.rpc.interceptors import caller
from server.services.audit import Operator


def operator(context: Any) -> Operator:
    """The operator behind the present call. Only inside a method that admits operators."""
    return Operator(caller().role, request_id(context))


def request_id(context: Any) -> str:
    """The id that the caller gave the request, as the gateway does; a new one without."""
    for key, value in context.invocation_metadata() or ():
        if key == "x-request-id":
            return str(value)[:64]
    return secrets.token_hex(8)
