"""deploy/compose.yaml: its settings, files, networks and names agree with the programs and one another."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import ssl
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from daemon.protocol.session import DRAIN_SECONDS as DAEMON_DRAIN_SECONDS
from daemon.protocol.session import FAREWELL_SECONDS
from gateway.inference import MAX_BODY_BYTES
from gateway.limits import DRAIN_SECONDS, KEEP_ALIVE_SECONDS, READY_SECONDS
from server.app import STOP_GRACE_SECONDS
from tests.support import deployments
from tests.support.deployments import DEPLOY

DOMAIN = "market.example"
VALUES = {"MARKET_DOMAIN": DOMAIN, "MARKET_EMAIL": f"ops@{DOMAIN}", "MARKET_VERSION": "1.2.3"}
CADDYFILE = (DEPLOY / "compose/Caddyfile").read_text(encoding="utf-8")


def filled(text: str) -> str:
    """The text with the variables that compose reads from deploy/.env."""
    return re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: VALUES[found[1]], text)


FILE: dict[str, Any] = yaml.safe_load(filled((DEPLOY / "compose.yaml").read_text(encoding="utf-8")))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
PROGRAMS = {
    name: found[1]
    for name, service in SERVICES.items()
    if (found := re.fullmatch(r"dcp-(\w+):1\.2\.3", service["image"]))
}
OURS = list(PROGRAMS)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that `prepare` has filled."""
    folder = tmp_path_factory.mktemp("deploy")
    prepare(folder)
    return folder


def prepare(folder: Path, *options: str) -> None:
    command: list[str | Path] = [
        DEPLOY / "compose/prepare",
        DOMAIN,
        f"ops@{DOMAIN}",
        "203.0.113.7",
        "--folder",
        folder,
        *options,
    ]
    subprocess.run(command, check=True, capture_output=True)


def secrets_of(name: str) -> set[str]:
    """The paths of a service's secrets, inside its container."""
    given = SERVICES[name].get("secrets", ())
    return {
        f"/run/secrets/{secret}" if isinstance(secret, str) else str(secret["target"]) for secret in given
    }


def test_there_are_two_servers_two_gateways_a_migration_and_a_daemon() -> None:
    assert sorted(PROGRAMS.values()) == ["daemon", "gateway", "gateway", "server", "server", "server"]


@pytest.mark.parametrize("name", OURS)
def test_settings_are_accepted_by_the_program(name: str, tmp_path: Path) -> None:
    deployments.check(PROGRAMS[name], SERVICES[name]["environment"], tmp_path)


@pytest.mark.parametrize("name", OURS)
def test_files_of_settings_are_the_services_secrets(name: str) -> None:
    named = deployments.paths(SERVICES[name]["environment"])
    assert named == secrets_of(name)


def test_secrets_are_files_that_prepare_writes(prepared: Path) -> None:
    used = {
        secret if isinstance(secret, str) else secret["source"]
        for service in SERVICES.values()
        for secret in service.get("secrets", ())
    }
    assert used == set(FILE["secrets"])
    for secret in FILE["secrets"].values():
        assert (prepared / secret["file"]).read_text(encoding="utf-8").strip()


@pytest.mark.parametrize("name", OURS)
def test_programs_have_no_rights_that_they_do_not_need(name: str) -> None:
    service = SERVICES[name]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"privileged", "user", "cap_add", "devices", "pid", "network_mode"}


@pytest.mark.parametrize("name", OURS)
def test_drain_is_not_killed(name: str) -> None:
    drains = {
        "server": 2 * STOP_GRACE_SECONDS,
        "gateway": DRAIN_SECONDS,
        "daemon": DAEMON_DRAIN_SECONDS + FAREWELL_SECONDS,
    }
    assert seconds(SERVICES[name]["stop_grace_period"]) > drains[PROGRAMS[name]]


def seconds(text: str) -> float:
    return float(text.removesuffix("s")) * (1 if text.endswith("s") else 60)


def test_server_is_reached_under_names_of_its_certificate(prepared: Path) -> None:
    servers = [name for name, program in PROGRAMS.items() if program == "server" and name != "migrate"]
    port, for_gateways = (
        SERVICES[servers[0]]["environment"][f"DCP_{which}_LISTEN"].rpartition(":")[2]
        for which in ("GRPC", "GATEWAY")
    )
    # Daemons try one after the other; for gateways one name has the addresses of all.
    expected = {"daemon": [f"{name}:{port}" for name in servers], "gateway": [f"servers:{for_gateways}"]}
    for name, program in PROGRAMS.items():
        if program != "server":
            assert SERVICES[name]["environment"]["DCP_SERVER"].split(",") == expected[program]
    assert all(SERVICES[name]["networks"]["inside"]["aliases"] == ["servers"] for name in servers)
    assert {*servers, "servers", DOMAIN, "203.0.113.7", "localhost", "127.0.0.1"} == certificate_names(
        prepared
    )
    published = [SERVICES[name]["ports"] for name in servers]
    assert published == [["50051:50051"], ["50052:50051"]]
    assert SERVICES["gateway-1"]["environment"]["DCP_PUBLIC_SERVER"] == f"{DOMAIN}:50051"


@pytest.mark.parametrize(("name", "is_known"), [("gateway", True), ("server", False), ("", False)])
def test_servers_know_gateways_by_their_certificate_and_nobody_else(
    prepared: Path, name: str, is_known: bool
) -> None:
    """With the files that the services have: a server's own certificate is not a gateway's."""
    secrets = prepared / "compose/secrets"
    asking = ssl.create_default_context(cafile=str(secrets / "authority.pem"))
    if name:
        asking.load_cert_chain(secrets / f"{name}.pem", secrets / f"{name}.key")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(secrets / "server.pem", secrets / "server.key")
    serving.load_verify_locations(secrets / "authority.pem")
    serving.verify_mode = ssl.CERT_REQUIRED
    refused = contextlib.nullcontext() if is_known else pytest.raises(ssl.SSLError)
    with refused:
        shaken(asking, serving, "servers")


def test_only_gateways_have_their_key() -> None:
    having = {name for name in OURS if "/run/secrets/gateway-key" in secrets_of(name)}
    assert having == {name for name, program in PROGRAMS.items() if program == "gateway"}
    assert not any("/run/secrets/server-key" in secrets_of(name) for name in having)


def test_prepare_without_the_authoritys_key_says_so_and_changes_nothing(tmp_path: Path) -> None:
    prepare(tmp_path)
    secrets = tmp_path / "compose/secrets"
    (secrets / "authority.key").rename(tmp_path / "elsewhere")
    prepare(tmp_path)
    (secrets / "gateway.pem").unlink()
    with pytest.raises(subprocess.CalledProcessError) as caught:
        prepare(tmp_path)
    assert "authority.key is needed for gateway.pem" in caught.value.stderr.decode()
    assert not (secrets / "gateway.pem").exists()


def certificate_names(folder: Path) -> set[str]:
    """The names in the servers' certificate, once its authority has verified it."""
    secrets = folder / "compose/secrets"
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(secrets / "server.pem", secrets / "server.key")
    asking = ssl.create_default_context(cafile=str(secrets / "authority.pem"))
    certificate = shaken(asking, serving, DOMAIN)
    return {str(name) for _, name in certificate["subjectAltName"]}


def shaken(asking: ssl.SSLContext, serving: ssl.SSLContext, name: str) -> dict[str, Any]:
    """The server's certificate after a handshake without a network. Raises SSLError if a side refuses."""
    here, there = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = serving.wrap_bio(here, there, server_side=True)
    client = asking.wrap_bio(there, here, server_hostname=name)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return dict(client.getpeercert() or {})


def test_only_proxies_and_gateways_are_in_networks_whose_forwarded_addresses_are_believed() -> None:
    members = {
        network: {name for name, service in SERVICES.items() if network in service["networks"]}
        for network in FILE["networks"]
    }
    gateways = {name for name, program in PROGRAMS.items() if program == "gateway"}
    servers = {name for name, program in PROGRAMS.items() if program == "server"} - {"migrate"}
    for network, trusted, trusting in (("web", {"proxy"}, gateways), ("inside", gateways, servers)):
        (subnet,) = FILE["networks"][network]["ipam"]["config"]
        assert members[network] == trusted | trusting
        assert FILE["networks"][network]["internal"] is True
        for name in trusting:
            assert SERVICES[name]["environment"]["DCP_TRUSTED_PROXIES"] == subnet["subnet"]
    # What is published is reached by callers from outside, who must not come from a trusted network.
    for service in SERVICES.values():
        if "ports" in service:
            assert any(not FILE["networks"][network].get("internal") for network in service["networks"])
    assert members["data"] == {"postgres", "nats", "migrate"} | servers


def test_database_and_bus_are_named_as_the_secrets_say(prepared: Path) -> None:
    secrets = prepared / "compose/secrets"
    read = {path.name: path.read_text(encoding="utf-8").strip() for path in secrets.iterdir()}
    postgres = SERVICES["postgres"]["environment"]
    assert read["database-url"] == (
        f"postgresql://{postgres['POSTGRES_USER']}:{read['postgres-password']}@postgres/{postgres['POSTGRES_DB']}"
    )
    user, password = re.fullmatch(r"nats://(\w+):(\w+)@nats:4222", read["bus-url"]).groups()  # type: ignore[union-attr]
    assert read["bus-authorization"] == f'authorization {{ user: {user}, password: "{password}" }}'
    assert len(read["admin-token"]) == 48


def test_prepare_keeps_what_exists_and_renews_only_the_certificate(tmp_path: Path) -> None:
    def state() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / "compose/secrets").iterdir()}

    prepare(tmp_path)
    first = state()
    prepare(tmp_path)
    assert state() == first
    prepare(tmp_path, "--renew")
    assert {name for name, content in state().items() if first.get(name) != content} == {
        *("server.pem", "server.key"),
        *("gateway.pem", "gateway.key"),
    }
    assert DOMAIN in certificate_names(tmp_path)


def test_secrets_are_closed_to_other_users_and_readable_in_containers(prepared: Path) -> None:
    folder = prepared / "compose/secrets"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for secret in FILE["secrets"].values():
        assert stat.S_IMODE((prepared / secret["file"]).stat().st_mode) == 0o444
    assert stat.S_IMODE((folder / "authority.key").stat().st_mode) == 0o600


def test_prepare_refuses_what_is_not_a_domain(tmp_path: Path) -> None:
    command: list[str | Path] = [DEPLOY / "compose/prepare", "market example", "me@x", "--folder", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "prepare: 'market example' is not a domain\n")
    assert list(tmp_path.iterdir()) == []


def test_variables_of_compose_are_those_that_prepare_writes(prepared: Path) -> None:
    written = dict(line.split("=", 1) for line in (prepared / ".env").read_text().splitlines())
    assert written.keys() == VALUES.keys()
    assert written["MARKET_DOMAIN"] == DOMAIN


def test_what_is_waited_for_has_a_health_check_or_ends() -> None:
    for name, service in SERVICES.items():
        for needed, how in service.get("depends_on", {}).items():
            other = SERVICES[needed]
            if how["condition"] == "service_completed_successfully":
                assert (other["restart"], other["command"]) == ("no", ["migrate"])
            else:
                assert how["condition"] == "service_healthy", name
                # Our images bring theirs.
                assert "healthcheck" in other or needed in PROGRAMS, needed


def test_volumes_and_networks_are_declared_and_used() -> None:
    mounted = [volume.split(":") for service in SERVICES.values() for volume in service.get("volumes", ())]
    assert {source for source, *_ in mounted if not source.startswith(".")} == set(FILE["volumes"])
    for source, *_ in mounted:
        if source.startswith("."):
            assert (DEPLOY / source).is_file()
    assert {network for service in SERVICES.values() for network in service["networks"]} == set(
        FILE["networks"]
    )
    for name in OURS:
        (folder,) = [volume.split(":")[1] for volume in SERVICES[name].get("volumes", ())] or ["/var/lib/dcp"]
        assert folder == "/var/lib/dcp"


def test_proxy_has_the_gateways_and_limits_that_fit_theirs() -> None:
    gateways = [name for name, program in PROGRAMS.items() if program == "gateway"]
    port = SERVICES[gateways[0]]["environment"]["DCP_HTTP_LISTEN"].rpartition(":")[2]
    expected = " ".join(f"{name}:{port}" for name in gateways)
    assert re.findall(r"reverse_proxy \{\$MARKET_GATEWAYS:(.*)\}", CADDYFILE) == [f"{expected}"]
    assert int(limit("max_size").removesuffix("MiB")) << 20 > MAX_BODY_BYTES
    assert seconds(limit("keepalive")) < KEEP_ALIVE_SECONDS
    assert seconds(limit("health_timeout")) > READY_SECONDS
    assert limit("flush_interval") == "-1"
    assert seconds(limit("grace_period")) < seconds(SERVICES["proxy"]["stop_grace_period"])
    # A chat without a stream is silent for as long as it lasts.
    assert not re.search(r"(response_header|read|write)_timeout", CADDYFILE)
    assert set(re.findall(r"\{\$(\w+)[:}]", CADDYFILE)) - {"MARKET_GATEWAYS"} == set(
        SERVICES["proxy"]["environment"]
    )


def limit(name: str) -> str:
    (value,) = re.findall(rf"^\s*{name} (\S+)$", CADDYFILE, re.MULTILINE)
    return str(value)


def test_image_of_the_server_can_dump_the_database_of_the_composition() -> None:
    """pg_dump refuses a server that is newer than itself."""
    images = (DEPLOY / "images/Dockerfile").read_text(encoding="utf-8")
    (debian,) = re.findall(r"^ARG BASE=python:\S+-slim-(\w+)$", images, re.MULTILINE)
    assert re.findall(r"^ARG SERVER_PACKAGES=(.*)$", images, re.MULTILINE) == ["postgresql-client"]
    client = {"bookworm": 15, "trixie": 17}[debian]
    assert int(SERVICES["postgres"]["image"].removeprefix("postgres:")) <= client


def test_compose_itself_reads_the_file(prepared: Path) -> None:
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if shutil.which("docker") is None or found.returncode:
        pytest.skip("docker compose is not installed")
    shutil.copy(DEPLOY / "compose.yaml", prepared)
    command = ["docker", "compose", "--profile", "daemon", "config", "--format", "json"]
    done = subprocess.run(command, cwd=prepared, capture_output=True, text=True, check=True)
    assert set(json.loads(done.stdout)["services"]) == set(SERVICES)
