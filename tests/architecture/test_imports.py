"""Which module may use which library, or room of the daemon: one table, applied to every file.

A module that is not in the table may use only the standard library and its own program, or its own room of
the daemon, so a new module starts without permissions. The server's layers and the independence of the
programs are in pyproject.toml.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.tools import PRODUCT, module_name, sources

# A library, or a part of it -> the modules and packages that may use it. The longest matching name counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    # The protocols
    "dcp": (
        "server.rpc",
        "gateway",
        "daemon.app",
        "daemon.cli",
        "daemon.engines",
        "daemon.journal",
        "daemon.link",
        "daemon.machine",
        "daemon.protocol",
        "daemon.runners",
        "daemon.telemetry",
        "daemon.work",
        "common.json_form",
        "common.limits",
    ),
    "dcp.settings": ("server.config", "gateway.config", "daemon.config.config"),
    "google.api": ("gateway.routes",),
    "google.protobuf": (
        "server.app",
        "server.rpc",
        "gateway",
        "daemon.link",
        "daemon.journal",
        "daemon.protocol",
        "common.json_form",
        "common.limits",
    ),
    "google.rpc": ("server.rpc.errors", "gateway.errors", "daemon.link"),
    "common.json_form": ("server.rpc.events", "gateway"),
    "grpc": (
        "server.app",
        "server.commands.health",
        "server.rpc",
        "gateway",
        "market.channel",
        "market.context",
        "daemon.link",
    ),
    "grpc_health": ("server.app", "server.commands.health", "server.rpc.health", "gateway.readiness"),
    "grpc_reflection": ("server.app",),
    "grpc_status": ("server.rpc.errors", "gateway.errors"),
    # Without I/O, so the domain may use it; otherwise the domain uses only the standard library.
    "idna": ("server.domain.texts",),
    "packaging": ("server.domain.versions", "server.config", "daemon.service.version"),
    "prometheus_client": ("common.telemetry",),
    "opentelemetry": ("common.tracing",),
    "requests": ("common.tracing",),
    # The server
    "aiosmtplib": ("server.mail",),
    "certifi": ("server.mail", "server.outbound"),
    "email_validator": ("server.rpc.validate",),
    "httpcore": ("server.outbound",),
    "nats": ("server.bus.nats",),
    "obstore": ("server.blobs.s3",),
    "peewee": ("server.store",),
    "psycopg": ("server.store.postgres",),
    "phonenumbers": ("server.rpc.validate",),
    "playhouse": ("server.store.database", "server.store.postgres"),
    "stdnum": ("server.rpc.validate",),
    "webauthn": ("server.passkeys",),
    # The gateway
    "fastapi": ("gateway.app",),
    "jinja2": ("gateway.web.site",),
    "markdown_it": ("gateway.web.guides", "gateway.web.reference"),
    "markupsafe": ("gateway.web.code", "gateway.web.guides", "gateway.web.reference"),
    "pygments": ("gateway.web.code",),
    "orjson": ("gateway",),
    "starlette": ("gateway",),
    "h11": ("gateway.connections",),
    "uvicorn": ("gateway.connections", "gateway.serving"),
    "uvloop": ("server.__main__", "gateway.__main__", "market.__main__"),
    # The daemon
    "aiodocker": ("daemon.runners.containers.docker",),
    "aiohttp": ("daemon.runners.containers.docker",),
    "cryptography": ("daemon.service.release", "server.bus.credentials"),
    # The daemon: answers of other programs are bounded, and refused if they are compressed, in one place.
    "httpx": (
        "daemon.foreign.http",
        "gateway.client.dcp_client.aio",
        "gateway.client.dcp_client.generated",
    ),
    "psutil": (
        "daemon.config.engine_settings",
        "daemon.engines.warm",
        "daemon.machine.gpus.none",
        "daemon.machine.gpus.processes",
    ),
    "numpy": ("daemon.machine.gpus.prover_child",),
    "pynvml": ("daemon.machine.gpus.nvml", "daemon.machine.gpus.prover_child"),
    "pyopencl": ("daemon.machine.gpus.prover_child",),
    "rich": ("daemon.cli.status", "gateway.client.dcp_client.cli"),
    "xllamacpp": ("daemon.engines.llamacpp_child",),
    # The client, which is installed without the programs. Without its command it needs only httpx.
    "dcp_client": ("gateway.client",),
    "keyring": ("gateway.client.dcp_client.cli.keeping",),
    "typer": ("gateway.client.dcp_client.cli",),
    # The daemon's rooms -> who else may use them. A row for a part of a room names the room itself if it may.
    # The rest of the daemon works without a connection: it imports the link neither directly nor indirectly.
    "daemon.link": (
        "daemon.__main__",
        "daemon.app",
        "daemon.cli.account",
        "daemon.cli.doctor",
        "daemon.cli.registration",
        "daemon.cli.setup",
        "daemon.cli.status",
    ),
    "daemon.app": ("daemon.__main__",),
    "daemon.telemetry": ("daemon.__main__", "daemon.app"),
    "daemon.protocol": ("daemon.app", "daemon.cli.snapshot"),
    "daemon.protocol.effects": ("daemon.__main__", "daemon.app", "daemon.journal", "daemon.protocol"),
    "daemon.protocol.events": (
        "daemon.app",
        "daemon.link",
        "daemon.protocol",
        "daemon.runners",
        "daemon.work",
    ),
    "daemon.protocol.records": ("daemon.journal", "daemon.protocol", "daemon.work.attempts"),
    "daemon.journal": ("daemon.__main__", "daemon.app", "daemon.cli.doctor"),
    "daemon.work": ("daemon.app",),
    "daemon.work.artifacts": ("daemon.app", "daemon.link", "daemon.runners", "daemon.work"),
    "daemon.work.inputs": ("daemon.app", "daemon.link", "daemon.work"),
    "daemon.work.gpu_proof": ("daemon.app", "daemon.link", "daemon.work"),
    "daemon.work.verdicts": ("daemon.__main__", "daemon.app", "daemon.work"),
    "daemon.machine": ("daemon.__main__", "daemon.app", "daemon.cli", "daemon.work"),
    "daemon.machine.clock": ("daemon.engines", "daemon.link", "daemon.machine", "daemon.work"),
    "daemon.machine.durable": (
        "daemon.config.identity",
        "daemon.config.text",
        "daemon.machine.kept",
        "daemon.journal.disk",
        "daemon.runners.containers.brought",
        "daemon.service.download",
        "daemon.service.installation",
        "daemon.work.verdicts",
    ),
    "daemon.machine.pipes": ("daemon.engines", "daemon.machine", "daemon.runners"),
    "daemon.machine.policy": (
        "daemon.app",
        "daemon.cli.gpu_checks",
        "daemon.config.config",
        "daemon.service.reload",
        "daemon.work",
    ),
    # `daemon.runners` is the port; who works with it must not know how any runner works.
    "daemon.runners": (
        "daemon.__main__",
        "daemon.app",
        "daemon.engines",
        "daemon.service.reload",
        "daemon.work",
    ),
    "daemon.runners.choose": ("daemon.__main__", "daemon.cli.container_checks", "daemon.engines"),
    "daemon.runners.containers": (
        "daemon.cli.container_checks",
        "daemon.config",
        "daemon.engines",
        "daemon.runners",
    ),
    "daemon.runners.input_files": ("daemon.app", "daemon.config", "daemon.runners", "daemon.work"),
    "daemon.runners.process": ("daemon.__main__", "daemon.runners.choose"),
    "daemon.engines": (
        "daemon.__main__",
        "daemon.cli.doctor",
        "daemon.cli.model_download",
        "daemon.cli.setup",
    ),
    "daemon.engines.attached": ("daemon.cli.doctor", "daemon.cli.model_servers", "daemon.engines.build"),
    "daemon.engines.container_spec": ("daemon.config", "daemon.engines"),
    "daemon.foreign": ("daemon.cli.model_servers", "daemon.engines", "daemon.service"),
    "daemon.cli": ("daemon.__main__",),
    "daemon.cli.control": ("daemon.__main__", "daemon.cli", "daemon.service"),
    "daemon.cli.doctor": ("daemon.__main__",),
    "daemon.cli.registration": ("daemon.__main__",),
    "daemon.cli.setup": ("daemon.__main__",),
    "daemon.cli.snapshot": ("daemon.app",),
    "daemon.cli.account": ("daemon.__main__",),
    "daemon.cli.status": (
        "daemon.__main__",
        "daemon.cli.account",
        "daemon.cli.doctor",
        "daemon.cli.setup",
    ),
    "daemon.service": ("daemon.__main__", "daemon.cli"),
    "daemon.service.version": (
        "daemon.__main__",
        "daemon.app",
        "daemon.cli",
        "daemon.machine.gpus.none",
        "daemon.service",
    ),
    "daemon.config": (
        "daemon.__main__",
        "daemon.cli",
        "daemon.engines.build",
        "daemon.link",
        "daemon.service",
    ),
    # JSON of other programs ends no program: it is read in one place, and elsewhere only our own.
    "json.load": (),
    "json.loads": ("common.documents", "server.store", "gateway.client.dcp_client.reading"),
    "json.JSONDecoder": ("gateway.bodies",),
    # The environment: settings are read once, at the start, and passed down.
    "os.environ": (
        *("server.__main__", "gateway.__main__", "market.__main__", "daemon.__main__"),
        "gateway.client.dcp_client.settings",
    ),
    "os.environb": (),
    "os.getenv": (),
    "os.getenvb": (),
}


# Names that are allowed everywhere.
FREE = {*sys.stdlib_module_names, *PRODUCT}


def is_within(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}.")


def names_used(source: str) -> Iterator[str]:
    """The names of all imports anywhere in the source, and of attributes of imported modules."""
    nodes = list(ast.walk(ast.parse(source)))
    bound = {"__import__": "importlib.import_module"}
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
            for alias in node.names:
                first = alias.name.partition(".")[0]
                bound |= {alias.asname: alias.name} if alias.asname else {first: first}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            yield from names.values()
            bound |= names
    for node in nodes:
        if isinstance(node, ast.Attribute) and (name := dotted_name(node, bound)):
            yield name
        elif isinstance(node, ast.Call) and dotted_name(node.func, bound) == "importlib.import_module":
            yield dynamic_import(node)


def dotted_name(node: ast.expr, bound: dict[str, str]) -> str | None:
    """The full name of `a.b.c` where `a` was imported; None for any other expression."""
    if isinstance(node, ast.Attribute):
        owner = dotted_name(node.value, bound)
        return owner and f"{owner}.{node.attr}"
    return bound.get(node.id) if isinstance(node, ast.Name) else None


def dynamic_import(call: ast.Call) -> str:
    """The module that is imported by name at run time; the first part if the name is composed."""
    argument = [*call.args, *(keyword.value for keyword in call.keywords)][0]
    beginning = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return str(beginning.value).rstrip(".") if isinstance(beginning, ast.Constant) else "(computed name)"


def violations(module: str, source: str) -> set[str]:
    found = set()
    for name in names_used(source):
        row = max((row for row in ALLOWED if is_within(name, row)), key=len, default=None)
        if row is not None and not any(is_within(module, place) for place in (row, *ALLOWED[row])):
            found.add(f"{module} may not use {row}")
        if row is None and name.partition(".")[0] not in FREE:
            found.add(f"{module} uses {name}: add a row to ALLOWED that says which modules may")
    return found


def test_libraries_are_used_only_where_the_table_allows() -> None:
    found = [violations(module_name(path), path.read_text()) for path in sources(*PRODUCT)]
    assert sorted(set().union(*found)) == []


def test_every_room_of_the_daemon_has_a_row() -> None:
    rooms = {".".join(module_name(path).split(".")[:2]) for path in sources("daemon")}
    assert sorted(rooms - ALLOWED.keys() - {"daemon", "daemon.__main__"}) == []


def strangers(module: str, source: str) -> set[str]:
    """What the client imports that is not installed with it."""
    command = ("typer", "rich", "keyring") if is_within(module, "gateway.client.dcp_client.cli") else ()
    own = {"dcp_client", "httpx", *command, *sys.stdlib_module_names}
    return {name for name in names_used(source) if name.partition(".")[0] not in own}


def test_client_needs_nothing_of_the_programs() -> None:
    found = [strangers(module_name(path), path.read_text()) for path in sources("gateway/client")]
    assert sorted(set().union(*found)) == []


@pytest.mark.parametrize("name", ["gateway.config", "common.limits", "dcp.v1", "google.protobuf", "typer"])
def test_stranger_in_the_client_is_found(name: str) -> None:
    assert strangers("gateway.client.dcp_client.calls", f"import {name}") == {name}


def test_every_permission_is_used() -> None:
    used = {path: set(names_used(path.read_text())) for path in sources(*PRODUCT)}
    unused = [
        f"{row}: {place}"
        for row, places in ALLOWED.items()
        for place in places
        if not any(
            is_within(module_name(path), place) and any(is_within(name, row) for name in names)
            for path, names in used.items()
        )
    ]
    assert unused == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("daemon.machine.health", "import grpc"),
        ("daemon.protocol.session", "import pynvml"),
        ("server.loops", "import peewee"),
        ("daemon.runners.limit", "import aiodocker"),
        ("daemon.protocol.session", "from daemon import link"),
        ("daemon.protocol.session", "from daemon.machine.clock import Clock"),
        ("daemon.machine.health", "from daemon.work import attempts"),
        ("daemon.work.attempts", "from daemon.runners.containers.docker import Docker"),
        ("daemon.engines.served", "from daemon.protocol.session import DaemonSession"),
        ("daemon.service.update", "from daemon.cli import doctor"),
        ("market.__main__", "import grpc"),
        ("market.channel", "import peewee"),
        ("server.born_today", "from grpc import aio"),
        ("server.services.jobs", "def f():\n    from dcp.v1 import jobs_pb2"),
        ("server.domain.jobs", "if TYPE_CHECKING:\n    import google.protobuf.message"),
        ("gateway.app", "from importlib import import_module as load\nload('peewee')"),
        ("gateway.app", "import importlib\nimportlib.import_module(f'peewee.{name}')"),
        ("gateway.app", "import importlib\nimportlib.import_module(name)"),
        ("gateway.app", "__import__('peewee')"),
        ("server.app", "import new_library"),
        ("server.app", "import google"),
        ("server.config", "import os as system\nx = system.environ['A']"),
        ("daemon.config.config", "import os\nos.getenv('A')"),
        ("daemon.service.release", "import json\njson.loads('1')"),
        ("daemon.engines.attached", "import httpx"),
        ("gateway.config", "from os import environb"),
    ],
)
def test_forbidden_use_of_a_library_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("daemon.link", "import grpc.aio"),
        ("daemon.machine.health", "from daemon.machine import machine"),
        ("daemon.work.attempts", "from daemon.runners import Runner"),
        ("server.store.born_today", "from peewee import fn"),
        ("server.__main__", "import os\nos.environ.get('A')"),
        ("server.loops", "import os\npeewee = os.path\npeewee.join('a')"),
        ("gateway.app", "from gateway import config\nfrom . import routes"),
    ],
)
def test_allowed_use_of_a_library_passes(module: str, source: str) -> None:
    assert violations(module, source) == set()
