"""Who acts for the marketplace in a call, as the audit log names it."""

from __future__ import annotations

from typing import Any

from server.rpc.interceptors import caller, request_id
from server.services.operators.audit import Operator


def operator(context: Any) -> Operator:
    """The operator behind the present call. Only inside a method that admits operators."""
    return Operator(caller().role, request_id(context))
