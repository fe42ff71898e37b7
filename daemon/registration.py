"""`dcp-daemon register`: makes this machine a provider and keeps its key.

It must not know the wire beyond one request; the key is stored, never printed.
"""

from __future__ import annotations

import argparse
import asyncio
import sys

from dcp.v1 import providers_pb2

from daemon import link
from daemon.config import Config
from daemon.gpus.detect import detect
from daemon.gpus.machine import os_info
from daemon.identity import Identity, IdentityError, identity_path, save


def run(arguments: argparse.Namespace, config: Config) -> str:
    """Registers and stores the identity; returns what to tell the person."""
    path = identity_path(config.state_dir)
    if path.exists() and not arguments.force:
        raise IdentityError(f"{path} exists: this machine is registered; --force registers a new provider")
    request = providers_pb2.RegisterProviderRequest(
        name=_wanted(arguments.name, "Name that renters see", "--name"),
        email=_wanted(arguments.email, "E-mail address", "--email"),
        phone=arguments.phone or _asked("Telephone, such as +966500000000 (may be empty)"),
        gpu_model=arguments.gpu_model or _gpu_model(),
        os=os_info()[:100],
    )
    response = asyncio.run(link.register(link.Server(config.server, config.tls_ca), request))
    identity = Identity(response.provider_id, response.api_key, config.server)
    stored = save(config.state_dir, identity)
    return f"registered provider {identity.provider_id} with {config.server}; its key is stored in {stored}"


def _wanted(given: str | None, question: str, flag: str) -> str:
    answer = given or _asked(question)
    if not answer:
        raise IdentityError(f"{flag} is missing: give it, or run this command in a terminal to be asked")
    return answer


def _asked(question: str) -> str:
    return input(f"{question}: ").strip() if sys.stdin.isatty() else ""


def _gpu_model() -> str:
    gpus = detect()
    try:
        return gpus.read().gpu_name
    finally:
        gpus.close()
