"""The manifests for Kubernetes are valid, pass a security linter, and agree with the configuration in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # ships no types
import pytest
import yaml

from kes_core.server.process import GRACE
from tests.helpers.certificates import make_server_certificate
from tests.helpers.command import run_kes

ROOT = Path(__file__).parents[2]
MANIFESTS = ROOT / "examples" / "kubernetes" / "kes.yaml"
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all(MANIFESTS.read_text()))
KINDS = ["Namespace", "ServiceAccount", "ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "NetworkPolicy"]
GO = shutil.which("go")
LINTER = "1.20.0"
EXCEPTIONS = {
    "pod-probes-identical": "both ask /live: an unreachable store must not take a server out of the service",
    "container-image-pull-policy": "the image is of one version, and a pod that moves does not wait for the registry",
}


def document(kind: str) -> dict[str, Any]:
    (found,) = [document for document in DOCUMENTS if document["kind"] == kind]
    return found


def pod() -> dict[str, Any]:
    spec: dict[str, Any] = document("Deployment")["spec"]["template"]["spec"]
    return spec


def container() -> dict[str, Any]:
    (found,) = pod()["containers"]
    return dict(found)


def config() -> dict[str, Any]:
    return dict(yaml.safe_load(document("ConfigMap")["data"]["config.yml"]))


# Each manifest is valid


@pytest.mark.parametrize("version", ["1.25", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("kind", KINDS)
def test_manifest_is_valid(kind: str, version: str) -> None:
    """Validation is strict: a field that Kubernetes does not know is an error."""
    kubernetes_validate.validate(document(kind), version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document(kind) | {"spek": {}}, version, strict=True)


def test_manifests_come_in_an_order_in_which_they_can_be_made() -> None:
    assert [found["kind"] for found in DOCUMENTS] == KINDS
    namespace = document("Namespace")["metadata"]["name"]
    assert {found["metadata"].get("namespace", namespace) for found in DOCUMENTS} == {namespace}


def linter() -> str:
    """Return the path of kube-score; get it through Go's module proxy and build it if needed."""
    assert GO is not None
    folder = Path(sys.prefix) / f"kube-score-{LINTER}"
    if not (folder / "kube-score").exists():
        package = f"github.com/zegl/kube-score/cmd/kube-score@v{LINTER}"
        environment = os.environ | {"GOBIN": str(folder)}
        subprocess.run([GO, "install", package], cwd="/", env=environment, check=True, timeout=900)
    return str(folder / "kube-score")


@pytest.mark.slow
@pytest.mark.timeout(1000)  # it may have to build the linter
@pytest.mark.skipif(GO is None, reason="Go is not installed: the manifests are not linted")
def test_linter_finds_nothing_but_what_is_meant() -> None:
    command = [linter(), "score", "--output-format=json", "--kubernetes-version=v1.32", "--ignore-container-cpu-limit"]
    command.append("--enable-optional-test=container-seccomp-profile")
    command.append("--enable-optional-test=container-ports-check")
    done = subprocess.run([*command, str(MANIFESTS)], capture_output=True, text=True, timeout=60, check=False)
    checks = [check for found in json.loads(done.stdout) for check in found["checks"] if not check["skipped"]]
    assert len(checks) > 20
    # Ten is the best grade, and worse than seven is at least a warning.
    found = {check["check"]["id"]: check["comments"] for check in checks if check["grade"] < 10}
    assert found.keys() == EXCEPTIONS.keys(), found


# The manifests agree with one another and with the configuration


def test_configuration_can_be_used(tmp_path: Path) -> None:
    """The configuration in the manifest loads, with paths of the test for the mounted files."""
    text = document("ConfigMap")["data"]["config.yml"]
    key, cert = make_server_certificate(tmp_path)
    (tmp_path / "token").write_text("a token")
    files = {"tls.key": key, "tls.cert": cert, "keystore.vault.kubernetes.jwt": tmp_path / "token"}
    files["keystore.vault.tls.ca"] = cert
    for field, file in files.items():
        value: Any = config()
        for name in field.split("."):
            value = value[name]
        text = text.replace(value, str(file))
    (tmp_path / "config.yml").write_text(text)
    done = run_kes("config", "check", tmp_path / "config.yml")
    assert (done.returncode, done.stderr) == (0, "")


def test_ports_are_those_of_the_configuration() -> None:
    ports = {port["name"]: port["containerPort"] for port in container()["ports"]}
    listens = {"api": config()["address"], "probe": config()["probe"]["address"]}
    assert {name: f"0.0.0.0:{port}" for name, port in ports.items()} == listens
    (service,) = document("Service")["spec"]["ports"]
    assert (service["port"], service["targetPort"]) == (ports["api"], "api")
    rules = document("NetworkPolicy")["spec"]["ingress"]
    assert [rule["ports"] for rule in rules] == [[{"port": ports["api"]}], [{"port": ports["probe"]}]]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container()[probe]["httpGet"] == {"path": "/live", "port": "probe"}


def test_files_of_the_configuration_are_mounted() -> None:
    volumes = {volume["name"]: volume for volume in pod()["volumes"]}
    mounts = {mount["mountPath"]: volumes.pop(mount["name"]) for mount in container()["volumeMounts"]}
    assert not volumes
    assert all(mount["readOnly"] for mount in container()["volumeMounts"])

    def volume_of(file: str) -> tuple[dict[str, Any], str]:
        folder, _, name = file.rpartition("/")
        return mounts[folder], name

    server, option, file = container()["args"]
    assert (server, option) == ("server", "--config")
    volume, name = volume_of(file)
    assert volume["configMap"]["name"] == document("ConfigMap")["metadata"]["name"]
    assert list(document("ConfigMap")["data"]) == [name]
    for field in ("key", "cert"):  # the names in a secret of the type kubernetes.io/tls
        volume, name = volume_of(config()["tls"][field])
        assert (volume["secret"]["secretName"], name) == ("kes-tls", {"key": "tls.key", "cert": "tls.crt"}[field])
    vault = config()["keystore"]["vault"]
    volume, name = volume_of(vault["tls"]["ca"])
    assert (volume["configMap"]["name"], name) == ("vault-ca", "ca.crt")
    volume, name = volume_of(vault["kubernetes"]["jwt"])
    (source,) = volume["projected"]["sources"]
    assert source["serviceAccountToken"]["path"] == name
    # The documentation creates the same objects in Kubernetes and in Vault.
    page = (ROOT / "docs/deployment.md").read_text()
    for text in (
        "create secret tls kes-tls",
        "create configmap vault-ca --from-file ca.crt",
        f"audience={source['serviceAccountToken']['audience']} ",
        f"auth/kubernetes/role/{vault['kubernetes']['role']} ",
        f"bound_service_account_names={pod()['serviceAccountName']} ",
        f"bound_service_account_namespaces={document('Namespace')['metadata']['name']} ",
    ):
        assert text in page


def test_selectors_find_the_pods() -> None:
    labels = document("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        document("Deployment")["spec"]["selector"]["matchLabels"],
        document("Service")["spec"]["selector"],
        document("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        document("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4
    assert document("ServiceAccount")["metadata"]["name"] == pod()["serviceAccountName"]


def test_pod_is_the_image_of_the_dockerfile() -> None:
    """The pod has the image's user and entry point, and this version of the image."""
    dockerfile = (ROOT / "examples/docker/Dockerfile").read_text()
    security = pod()["securityContext"]
    assert f"\nUSER {security['runAsUser']}:{security['runAsGroup']}\n" in dockerfile
    assert "command" not in container()
    (version,) = re.findall(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert container()["image"].endswith(f"/kes:{version}")


def test_time_to_stop_is_enough() -> None:
    pause = int(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod()["terminationGracePeriodSeconds"] > pause + GRACE + 5  # 5: then it kills workers that hang
    start = container()["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] > 30  # the default of keystore.vault.start_timeout
