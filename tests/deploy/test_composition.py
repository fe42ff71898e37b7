"""deploy/compose.yaml started for real: all its services on a private Docker Engine, in its networks.

What is pulled elsewhere (PostgreSQL, NATS, Caddy) is built here from this machine's own programs under the
same names, with the interface of the original that the file uses. Ports are published on the loopback.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support import debian_image
from tests.support.deployments import DEPLOY
from tests.support.patient_renter import eventually
from tests.support.private_engine import PrivateEngine, add_image

pytestmark = [pytest.mark.e2e, pytest.mark.engine, pytest.mark.slow]

# A name for which Caddy makes a certificate by itself.
DOMAIN = "localhost"
BIN = Path(sys.executable).parent
WAIT_SECONDS = 240.0
# What the file needs of the image postgres: the database, user and password of the environment.
ENTRYPOINT = """\
#!/bin/sh
set -eu
grep -q ^postgres: /etc/passwd || echo postgres:x:999:999::/var/lib/postgresql:/bin/sh >> /etc/passwd
grep -q ^postgres: /etc/group || echo postgres:x:999: >> /etc/group
data=/var/lib/postgresql/data sockets=/var/run/postgresql
bin=$(ls -d /usr/lib/postgresql/*/bin)
mkdir -p $sockets && chown postgres:postgres $data $sockets
as() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
if [ ! -s $data/PG_VERSION ]; then
  cp "$POSTGRES_PASSWORD_FILE" /tmp/password && chown postgres /tmp/password
  # As the original does, whose locale is of UTF-8.
  as $bin/initdb -D $data --encoding=UTF8 --locale=C -U "$POSTGRES_USER" --pwfile=/tmp/password \\
    --auth-host=scram-sha-256 --auth-local=trust $POSTGRES_INITDB_ARGS
  echo "host all all samenet scram-sha-256" >> $data/pg_hba.conf
  echo "CREATE DATABASE $POSTGRES_DB" | as $bin/postgres --single -D $data postgres
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups $bin/postgres -D $data \\
  -c listen_addresses='*' -c unix_socket_directories=$sockets
"""


def compose_command() -> list[str]:
    """Docker's compose, as a plugin or as the program of Debian; empty if there is none."""
    found = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    if found.returncode == 0:
        return ["docker", "compose"]
    program = shutil.which("docker-compose")
    return [program] if program else []


@dataclass
class Composition:
    """The running services."""

    engine: PrivateEngine
    folder: Path
    command: list[str]
    ports: dict[str, int]

    def compose(self, *arguments: str, timeout: float = 600) -> str:
        """The output of a command of compose, which must succeed."""
        done = subprocess.run(
            [*self.command, "--project-name", "dcp", *arguments],
            cwd=self.folder,
            env=os.environ | {"DOCKER_HOST": f"unix://{self.engine.socket}"},
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def state(self, service: str) -> dict[str, Any]:
        """The state of a service's container."""
        (found,) = json.loads(self.engine.docker("inspect", self.compose("ps", "-q", service).strip()))
        return dict(found["State"])

    def until_healthy(self, service: str) -> None:
        """Waits until the engine's health check of a service passes."""
        eventually(service, lambda: self.state(service)["Health"]["Status"] == "healthy", WAIT_SECONDS)

    def get(self, path: str, **headers: str) -> httpx.Response:
        return self.ask("GET", path, None, **headers)

    def ask(self, method: str, path: str, body: object, **headers: str) -> httpx.Response:
        """A request through the proxy."""
        url = f"https://{DOMAIN}:{self.ports['proxy']}{path}"
        with httpx.Client(verify=_TRUSTING, trust_env=False, timeout=30) as client:
            return client.request(method, url, json=body, headers=headers)


_TRUSTING = ssl.create_default_context()
_TRUSTING.check_hostname, _TRUSTING.verify_mode = False, ssl.CERT_NONE


def prepared(folder: Path) -> dict[str, int]:
    """Fills a folder as an operator does; the ports by service, which are free ones of the loopback."""
    command: list[str | Path] = [DEPLOY / "compose/prepare", DOMAIN, f"ops@{DOMAIN}.example"]
    subprocess.run([*command, "--folder", folder], check=True, capture_output=True)
    for name in ("Caddyfile", "nats.conf"):
        shutil.copy(DEPLOY / "compose" / name, folder / "compose")
    file = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
    del file["name"]  # Debian's compose does not know it
    ports: dict[str, int] = {}
    for name, service in file["services"].items():
        inner = [port.split(":")[1] for port in service.get("ports", ()) if "/udp" not in port]
        if inner:
            ports[name] = free_port()
            service["ports"] = [f"127.0.0.1:{ports[name]}:{inner[-1]}"]
    (folder / "compose.yaml").write_text(yaml.safe_dump(file), encoding="utf-8")
    return ports


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def composition(
    docker_engine: PrivateEngine, version: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Composition]:
    command = compose_command()
    if not command:
        pytest.skip("docker compose missing: apt-get install --no-install-recommends docker-compose")
    if why := debian_image.missing((*debian_image.PACKAGES, *_POSTGRES)):
        pytest.skip(why)
    programs = {"opt/nats-server": "nats-server", "opt/caddy": "caddy"}
    files = {path: (BIN / name).resolve().read_bytes() for path, name in programs.items()}
    add_image(docker_engine, "nats:2-alpine", 'ENTRYPOINT ["/opt/nats-server"]', files=files)
    serve = '["/opt/caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]'
    add_image(
        docker_engine,
        "caddy:2",
        f"CMD {serve}",
        "ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config",
        files=files,
    )
    debian_image.add_debian_image(
        docker_engine,
        "postgres:17",
        (*debian_image.PACKAGES, *_POSTGRES),
        changes=('ENTRYPOINT ["/bin/sh", "/entrypoint"]',),
        files={"entrypoint": ENTRYPOINT.encode()},
    )
    folder = tmp_path_factory.mktemp("composition")
    for each in (folder, *folder.parents[:2]):
        each.chmod(0o755)
    site = Composition(docker_engine, folder, command, prepared(folder))
    try:
        site.compose("up", "--detach")
        yield site
    finally:
        site.compose("down", "--volumes", "--timeout", "20")


_POSTGRES = ("postgresql", "util-linux")


def test_market_of_the_composition_serves_through_its_proxy_while_a_server_is_gone(
    composition: Composition,
) -> None:
    eventually("the proxy", lambda: composition.get("/api/prices").status_code == 200, WAIT_SECONDS)
    for service in ("postgres", "nats", "server-1", "server-2", "gateway-1", "gateway-2"):
        composition.until_healthy(service)
    token = (composition.folder / "compose/secrets/admin-token").read_text(encoding="utf-8").strip()
    body = {"name": "Me", "email": "r@example.com"}
    registered = composition.ask("POST", "/api/renters/register", body)
    assert registered.status_code == 201, registered.text
    path = f"/api/admin/renters/{registered.json()['renter_id']}/credit"
    key = {"x-renter-key": registered.json()["api_key"]}
    for number, server in enumerate(("server-1", "server-2"), start=1):
        composition.compose("kill", server)
        credited = composition.ask("POST", path, {"amount_halala": 100}, **{"x-admin-token": token})
        assert credited.status_code == 200, credited.text
        assert composition.get("/api/renters/me", **key).json()["renter"]["balance_halala"] == 100 * number
        composition.compose("start", server)
        composition.until_healthy(server)
    assert composition.get("/readyz").status_code == 404, "probes are for the inside"
