"""deploy/kubernetes, as kubectl renders it: its schema, its settings, and that its parts find one another."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from gateway.inference import MAX_BODY_BYTES
from gateway.limits import DRAIN_SECONDS, READY_SECONDS
from server.app import STOP_GRACE_SECONDS
from tests.support import deployments
from tests.support.deployments import DEPLOY

FOLDER = DEPLOY / "kubernetes"
# The oldest that the manifests are for, and the newest that is known here.
VERSIONS = ("1.31", "1.37")
pytestmark = pytest.mark.skipif(
    shutil.which("kubectl") is None, reason="kubectl, which renders the overlay, is not installed"
)
Manifest = dict[str, Any]


@cache
def rendered(folder: Path = FOLDER / "overlays/production") -> tuple[Manifest, ...]:
    done = subprocess.run(["kubectl", "kustomize", folder], check=True, capture_output=True, text=True)
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(kind: str) -> Iterator[Manifest]:
    return (manifest for manifest in rendered() if manifest["kind"] == kind)


def named(kind: str, name: str) -> Manifest:
    (found,) = [each for each in of_kind(kind) if each["metadata"]["name"] == name]
    return found


def template(name: str) -> Manifest:
    spec: Manifest = named("Deployment", name)["spec"]["template"]
    return spec


def containers(name: str) -> list[Manifest]:
    spec = template(name)["spec"]
    return [*spec.get("initContainers", ()), *spec["containers"]]


def environment(container: Manifest) -> dict[str, str]:
    given: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            given |= named("ConfigMap", source["configMapRef"]["name"])["data"]
    return given


NAMES = ("dcp-server", "dcp-gateway")


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", ["base", "overlays/production"])
def test_manifests_are_what_kubernetes_takes(folder: str, version: str) -> None:
    for manifest in rendered(FOLDER / folder):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_misspelt_field_is_found() -> None:
    manifest = named("Deployment", "dcp-server")
    broken = manifest | {"spec": manifest["spec"] | {"replica": 3}}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSIONS[0], strict=True)


@pytest.mark.parametrize("name", NAMES)
def test_settings_are_accepted_by_the_program(name: str, tmp_path: Path) -> None:
    for container in containers(name):
        deployments.check(name.removeprefix("dcp-"), environment(container), tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_files_of_settings_are_mounted_from_secrets(name: str) -> None:
    volumes = {volume["name"]: volume for volume in template(name)["spec"]["volumes"]}
    for container in containers(name):
        mounted = set()
        for mount in container["volumeMounts"]:
            for item in volumes[mount["name"]].get("secret", {}).get("items", ()):
                assert mount["readOnly"] is True
                mounted.add(f"{mount['mountPath']}/{item['path']}")
        assert mounted == deployments.paths(environment(container))


def test_servers_and_gateways_have_no_key_of_one_another() -> None:
    read = {name: set(secrets_of(name)) for name in NAMES}
    assert {("dcp-server-tls", "ca.crt")} == read["dcp-server"] & read["dcp-gateway"]
    assert {secret for secret, key in read["dcp-gateway"] if key == "tls.key"} == {"dcp-gateway-tls"}
    assert {secret for secret, key in read["dcp-server"] if key == "tls.key"} == {"dcp-server-tls"}


def secrets_of(name: str) -> Iterator[tuple[str, str]]:
    """What a deployment's pods read: the name of a secret, and a key of it."""
    for volume in template(name)["spec"]["volumes"]:
        for item in volume.get("secret", {}).get("items", ()):
            yield volume["secret"]["secretName"], item["key"]


@pytest.mark.parametrize("name", NAMES)
def test_pods_are_restricted(name: str) -> None:
    """What the level `restricted` of Kubernetes' pod security demands, and a read-only root."""
    spec = template(name)["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    for container in containers(name):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "privileged": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert all("value" not in entry for entry in container.get("env", ()))
    user = re.findall(r"^USER (\d+):(\d+)$", (DEPLOY / "images/Dockerfile").read_text(), re.MULTILINE)
    context = spec["securityContext"]
    assert set(user) == {(str(context["runAsUser"]), str(context["runAsGroup"]))}
    labels = named("Namespace", "dcp")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("name", NAMES)
def test_rolling_update_never_has_fewer_pods_and_kills_no_drain(name: str) -> None:
    deployment = named("Deployment", name)["spec"]
    assert deployment["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    assert deployment["replicas"] >= 2
    (container,) = deployment["template"]["spec"]["containers"]
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = 2 * STOP_GRACE_SECONDS if name == "dcp-server" else DRAIN_SECONDS
    assert deployment["template"]["spec"]["terminationGracePeriodSeconds"] > waits + drain


@pytest.mark.parametrize("name", NAMES)
def test_ports_probes_and_settings_agree(name: str) -> None:
    (container,) = template(name)["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    given = environment(container)
    setting = {"dcp-server": ("grpc", "DCP_GRPC_LISTEN"), "dcp-gateway": ("http", "DCP_HTTP_LISTEN")}[name]
    assert given[setting[1]] == f"0.0.0.0:{ports[setting[0]]}"
    if name == "dcp-server":
        assert given["DCP_GATEWAY_LISTEN"] == f"0.0.0.0:{ports['gateways']}"
    assert given["DCP_METRICS_LISTEN"] == f"0.0.0.0:{ports['metrics']}"
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        how = container[probe]
        asked = how.get("httpGet") or how.get("tcpSocket")
        if asked is None:
            assert how["exec"]["command"][:2] == ["dcp-server", "health"]
        else:
            assert asked["port"] in ports
            assert asked.get("path") in (None, "/readyz", "/healthz")
    # An outage of the database is no reason to restart: it would only add load.
    assert container["livenessProbe"].get("httpGet", {}).get("path") != "/readyz"
    assert "exec" not in container["livenessProbe"]
    assert container["readinessProbe"]["timeoutSeconds"] > READY_SECONDS


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def pods(selector: Manifest) -> set[str]:
    """The names of the deployments whose pods a selector finds."""
    return {name for name in NAMES if selects(selector, template(name)["metadata"]["labels"])}


def test_services_budgets_and_policies_find_their_pods() -> None:
    for name in NAMES:
        spec = named("Deployment", name)["spec"]
        assert pods(spec["selector"]) == {name}
        for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
            assert pods(constraint["labelSelector"]) == {name}
        assert pods(named("PodDisruptionBudget", name)["spec"]["selector"]) == {name}
        assert pods(named("NetworkPolicy", name)["spec"]["podSelector"]) == {name}
    for service in of_kind("Service"):
        (name,) = pods({"matchLabels": service["spec"]["selector"]})
        (container,) = template(name)["spec"]["containers"]
        ports = {port["name"] for port in container["ports"]}
        assert all(port["targetPort"] in ports for port in service["spec"]["ports"])
    (ingress,) = of_kind("Ingress")
    (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
    backend = path["backend"]["service"]
    service = named("Service", backend["name"])
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


def test_gateways_find_every_server_by_name() -> None:
    (container,) = template("dcp-gateway")["spec"]["containers"]
    host, _, port = environment(container)["DCP_SERVER"].partition(":")
    service = named("Service", host)
    assert service["spec"]["clusterIP"] == "None"
    assert {str(each["port"]): each["targetPort"] for each in service["spec"]["ports"]}[port] == "gateways"
    outside = named("Service", "dcp-server-daemons")["spec"]
    assert (outside["type"], outside["externalTrafficPolicy"]) == ("LoadBalancer", "Local")
    assert [each["targetPort"] for each in outside["ports"]] == ["grpc"], "gateways are inside"


def test_nothing_may_talk_but_what_must() -> None:
    denied = named("NetworkPolicy", "deny-all")["spec"]
    assert (denied["podSelector"], sorted(denied["policyTypes"])) == ({}, ["Egress", "Ingress"])
    assert not denied.keys() & {"ingress", "egress"}
    gateway = named("NetworkPolicy", "dcp-gateway")["spec"]
    assert [rule["ports"][0]["port"] for rule in gateway["egress"]] == ["gateways"]
    assert [pods(to["podSelector"]) for rule in gateway["egress"] for to in rule["to"]] == [{"dcp-server"}]
    assert all(rule["from"] for rule in gateway["ingress"])
    server = named("NetworkPolicy", "dcp-server")["spec"]
    everywhere = [rule for rule in server["ingress"] if not rule.get("from")]
    assert [rule["ports"] for rule in everywhere] == [[{"protocol": "TCP", "port": "grpc"}]]
    (inner,) = (rule for rule in server["ingress"] if rule["ports"][0]["port"] == "gateways")
    assert [pods(each["podSelector"]) for each in inner["from"]] == [{"dcp-gateway"}]
    for rule in server["egress"]:
        for to in rule["to"]:
            if to.get("ipBlock", {}).get("cidr") == "0.0.0.0/0":
                # The metadata of a cloud, and the networks of nodes and pods.
                assert {"169.254.0.0/16", "10.0.0.0/8"} <= set(to["ipBlock"]["except"])


def test_migration_runs_before_the_server_with_its_settings() -> None:
    migrate, server = containers("dcp-server")
    assert (migrate["args"], migrate["image"]) == (["migrate"], server["image"])
    assert migrate["envFrom"] == server["envFrom"]


def test_images_are_those_that_are_built() -> None:
    built = set(re.findall(r"^FROM run AS (\w+)$", (DEPLOY / "images/Dockerfile").read_text(), re.MULTILINE))
    for name in NAMES:
        for container in containers(name):
            image, _, tag = container["image"].rpartition("/")[2].partition(":")
            assert image.removeprefix("dcp-") in built
            assert tag not in ("", "latest")


def test_ingress_lets_chats_and_streams_through() -> None:
    (ingress,) = of_kind("Ingress")
    prefix = "nginx.ingress.kubernetes.io/"
    notes = {key.removeprefix(prefix): value for key, value in ingress["metadata"]["annotations"].items()}
    assert int(notes["proxy-body-size"].removesuffix("m")) << 20 > MAX_BODY_BYTES
    assert notes["proxy-buffering"] == "off"
    # The longest job: 1,440 minutes.
    assert int(notes["proxy-read-timeout"]) >= 1440 * 60
