"""Who acts for the marketplace in a call, as the audit log names it."""

from __future__ import annotations

from server.rpc.context import Context
from server.rpc.interceptors import caller, request_id
from server.services.operators.audit import Operator


def operator(context: Context) -> Operator:
    """The operator behind the present call. Only inside a method that admits operators."""
    return Operator(caller().role, request_id(context))
