"""The type of a call's context, as servicers, interceptors and their helpers take it."""

from __future__ import annotations

from typing import Any, TypeAlias

import grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
