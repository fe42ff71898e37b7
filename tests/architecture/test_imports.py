"""Which module may use which library: one table, applied to every file of the three programs.

A module that the table does not name may use nothing but the standard library and its own program, so a
new one is born with no permissions. Layers and independence of our own modules are in pyproject.toml.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator

import pytest

from tests.architecture.tools import PACKAGES, module_name, sources

# Library, or part of one -> the modules and packages that may use it. The longest name counts.
ALLOWED: dict[str, tuple[str, ...]] = {
    # The wire
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
        "daemon.work",
        "wire",
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
        "wire",
    ),
    "google.rpc": ("server.rpc.errors", "gateway.errors", "daemon.link"),
    "wire": ("server.rpc.events", "gateway"),
    "grpc": ("server.app", "server.rpc", "gateway", "daemon.link"),
    "grpc_health": ("server.app", "server.rpc.health"),
    "grpc_reflection": ("server.app",),
    "grpc_status": ("server.rpc.errors", "gateway.errors"),
    # Pure, so that the domain may use them; the domain is standard library otherwise.
    "idna": ("server.domain.texts",),
    "packaging": ("server.domain.versions", "server.config", "daemon.service.version"),
    # The server
    "certifi": ("server.outbound",),
    "email_validator": ("server.rpc.validate",),
    "httpcore": ("server.outbound",),
    "obstore": ("server.blobs.s3",),
    "peewee": ("server.store",),
    "phonenumbers": ("server.rpc.validate",),
    "playhouse": ("server.store.database",),
    "psycopg": ("server.store.database",),
    "stdnum": ("server.rpc.validate",),
    # The gateway
    "fastapi": ("gateway.app",),
    "jinja2": ("gateway.web.pages",),
    "markdown_it": ("gateway.web.reference",),
    "markupsafe": ("gateway.web.reference",),
    "orjson": ("gateway",),
    "starlette": ("gateway",),
    "uvicorn": ("gateway.__main__",),
    "uvloop": ("server.__main__", "gateway.__main__"),
    # The daemon
    "aiodocker": ("daemon.runners.containers.docker",),
    "aiohttp": ("daemon.runners.containers.docker",),
    "cryptography": ("daemon.service.release",),
    "httpx": ("daemon.engines", "daemon.service.fetch"),
    "psutil": ("daemon.config.engine_settings", "daemon.engines.warm", "daemon.machine.gpus.processes"),
    "pynvml": ("daemon.machine.gpus.nvml",),
    "rich": ("daemon.cli.status",),
    "xllamacpp": ("daemon.engines.llamacpp_child",),
    # All else in the daemon works without a connection, so it reaches the link neither itself nor by others.
    "daemon.link": (
        "daemon.__main__",
        "daemon.app",
        "daemon.cli.doctor",
        "daemon.cli.registration",
        "daemon.cli.status",
    ),
    "daemon.app": ("daemon.__main__",),
    "daemon.cli.doctor": ("daemon.__main__",),
    "daemon.cli.registration": ("daemon.__main__",),
    "daemon.cli.status": ("daemon.__main__",),
    # The environment: settings are read once, at the start, and handed down.
    "os.environ": ("server.__main__", "gateway.__main__", "daemon.__main__"),
    "os.environb": (),
    "os.getenv": (),
    "os.getenvb": (),
}


# Names that need no row.
FREE = {*sys.stdlib_module_names, *PACKAGES}


def is_within(name: str, whole: str) -> bool:
    return name == whole or name.startswith(f"{whole}.")


def names_used(source: str) -> Iterator[str]:
    """Everything that is imported, wherever in the source, and what is read from imported modules."""
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
    """What is imported by name at run time; of a text that is put together, its beginning."""
    argument = [*call.args, *(keyword.value for keyword in call.keywords)][0]
    beginning = argument.values[0] if isinstance(argument, ast.JoinedStr) else argument
    return str(beginning.value).rstrip(".") if isinstance(beginning, ast.Constant) else "(computed name)"


def violations(module: str, source: str) -> set[str]:
    found = set()
    for name in names_used(source):
        row = max((row for row in ALLOWED if is_within(name, row)), key=len, default=None)
        if row is not None and not any(is_within(module, place) for place in ALLOWED[row]):
            found.add(f"{module} may not use {row}")
        if row is None and name.partition(".")[0] not in FREE:
            found.add(f"{module} uses {name}: add a row to ALLOWED that says which modules may")
    return found


def test_libraries_are_used_only_where_the_table_allows() -> None:
    found = [violations(module_name(path), path.read_text()) for path in sources(*PACKAGES)]
    assert sorted(set().union(*found)) == []


def test_every_permission_is_used() -> None:
    used = {path: set(names_used(path.read_text())) for path in sources(*PACKAGES)}
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
        ("gateway.config", "from os import environb"),
    ],
)
def test_a_violation_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("daemon.link", "import grpc.aio"),
        ("server.store.born_today", "from peewee import fn"),
        ("server.__main__", "import os\nos.environ.get('A')"),
        ("server.loops", "import os\npeewee = os.path\npeewee.join('a')"),
        ("gateway.app", "from gateway import config\nfrom . import routes"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert violations(module, source) == set()
