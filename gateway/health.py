"""``dcp-gateway health``: asks the gateway of these settings on this machine for `/readyz`."""

from __future__ import annotations

import http.client
from functools import partial

from common.health import own_address, report
from gateway.config import Address
from gateway.limits import READY_SECONDS

_MOST_BYTES = 1000


def run(listen: Address, wait_seconds: float) -> int:
    """Prints how the gateway is; exit status 0 if it is ready within ``wait_seconds``, else 1."""
    return report(partial(_fault, listen), wait_seconds)


def _fault(listen: Address) -> str:
    connection = http.client.HTTPConnection(own_address(listen.host), listen.port, timeout=READY_SECONDS + 1)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        text = answer.read(_MOST_BYTES).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return f"{listen} does not answer: {error}"
    finally:
        connection.close()
    return "" if answer.status == http.client.OK else text
