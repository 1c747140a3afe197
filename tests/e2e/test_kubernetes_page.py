"""Kubernetes in ten minutes: the page's commands and files, in their order, and the examples that it names."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped] # ships no types
import pytest
import yaml

from tests.helpers.documents import ROOT, blocks
from tests.helpers.reader import Reader

PAGE = "docs/kubernetes.md"
EXAMPLES = ROOT / "examples" / "kubernetes"
SOCKET = "/run/kes/kms.sock"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, ports=("7373",))
    yield reader
    reader.stop()


def test_page(reader: Reader) -> None:
    """The page is complete: nothing is added but a port that is free, and what it shows is what it prints."""
    text = (ROOT / PAGE).read_text()
    assert "Save this as `config.yml`" in text
    configuration = blocks(PAGE, "yaml")[0]
    reader.save("config.yml", configuration)
    identity, server, check, rotation = blocks(PAGE, "sh")
    reader.run(identity)
    reader.start(server, "listening on https://")
    (shown,) = [block for block in blocks(PAGE, "text") if block.startswith("health")]
    assert generalized(reader.run(check)) == generalized(shown)
    rotated = reader.run(rotation)
    assert generalized(rotated[rotated.index("health") :]) == generalized(shown.replace("/v1/", "/v2/"))


def generalized(printed: str) -> str:
    """Return what a command printed without times."""
    return re.sub(r"\d{4}-\d\d-\d\dT[0-9:.]+Z|\d+ ms", "TIME", printed)


def pods() -> dict[str, dict[str, Any]]:
    """Return the specifications of the pods of both manifests."""
    pod = yaml.safe_load((EXAMPLES / "kms-static-pod.yaml").read_text())
    daemons = yaml.safe_load((EXAMPLES / "kms-daemonset.yaml").read_text())
    return {"Pod": pod["spec"], "DaemonSet": daemons["spec"]["template"]["spec"]}


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", ["kms-static-pod.yaml", "kms-daemonset.yaml"])
def test_manifest_is_valid(name: str, version: str) -> None:
    document = yaml.safe_load((EXAMPLES / name).read_text())
    kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document | {"spek": {}}, version, strict=True)


def test_daemons_run_what_the_static_pod_runs() -> None:
    found = pods()
    where = {"nodeSelector", "tolerations"}
    assert {name: value for name, value in found["DaemonSet"].items() if name not in where} == found["Pod"]


def test_pod_needs_no_api_server_and_no_rights() -> None:
    pod = pods()["Pod"]
    assert all("hostPath" in volume for volume in pod["volumes"]), "a secret or a token would need the API server"
    assert pod["automountServiceAccountToken"] is False
    assert pod["hostNetwork"] is True
    (container,) = pod["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    writable = [mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == [str(Path(SOCKET).parent)]


def test_all_mean_the_same_socket() -> None:
    """The API server's configuration, its mounts, the manifests, the systemd unit and the README."""
    encryption, api_server = (yaml.safe_load(block) for block in blocks(PAGE, "yaml")[1:])
    kms = encryption["resources"][0]["providers"][0]["kms"]
    assert kms["endpoint"] == f"unix://{SOCKET}"
    (container,) = api_server["spec"]["containers"]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    volumes = {volume["name"]: volume["hostPath"]["path"] for volume in api_server["spec"]["volumes"]}
    assert mounts == volumes
    assert mounts["kes"] == str(Path(SOCKET).parent)
    assert f"--encryption-provider-config={mounts['encryption']}" in container["command"]
    for name in ("kms-static-pod.yaml", "kms-daemonset.yaml"):
        assert f"path: {Path(SOCKET).parent}," in (EXAMPLES / name).read_text()
    unit = configparser.ConfigParser()
    unit.read(ROOT / "examples" / "systemd" / "kubernetes.conf")
    assert f"/run/{unit['Service']['RuntimeDirectory']}" == str(Path(SOCKET).parent)
    assert SOCKET in (ROOT / "plugins" / "kubernetes" / "README.md").read_text()
