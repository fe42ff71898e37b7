"""The Python client of a DCP marketplace.

`Client` and `AsyncClient` are the same, without and with `async`. Each error of the market has a class in
`dcp_client.reasons`; all are `DCPError`. The objects of answers are in `dcp_client.objects`, the bodies of
requests in `dcp_client.bodies`.
"""

from dcp_client.aio.client import AsyncClient
from dcp_client.batching import BatchResult
from dcp_client.calls import Retries
from dcp_client.errors import (
    APIError,
    ConnectionFailedError,
    DCPError,
    DigestError,
    ResponseError,
    SettingError,
    UnsafeNameError,
    WaitTimeoutError,
)
from dcp_client.events import JobEvent
from dcp_client.generated import bodies, reasons
from dcp_client.generated import models as objects
from dcp_client.generated.sync_client import Client
from dcp_client.webhooks import SignatureError
from dcp_client.webhooks import verify as verify_webhook

__all__ = [
    "APIError",
    "AsyncClient",
    "BatchResult",
    "Client",
    "ConnectionFailedError",
    "DCPError",
    "DigestError",
    "JobEvent",
    "ResponseError",
    "Retries",
    "SettingError",
    "SignatureError",
    "UnsafeNameError",
    "WaitTimeoutError",
    "bodies",
    "objects",
    "reasons",
    "verify_webhook",
]
