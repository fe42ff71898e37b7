"""The operator behind a call, as the audit log names it."""

from __future__ import annotations

from server.rpc.context import Context
from server.rpc.interceptors import caller, request_id
from server.services.operators.audit import Operator


def operator(context: Context) -> Operator:
    """The operator behind the current call. Use it only in methods that admit operators."""
    return Operator(caller().role, request_id(context))
