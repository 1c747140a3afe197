"""The two-command trial of examples/compose: its scripts and its configuration, as processes without containers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from kes_core.client import Client, NotAllowedError
from tests.helpers.command import run_kes
from tests.helpers.openbao import bao_program
from tests.helpers.programs import free_port

EXAMPLE = Path(__file__).parents[2] / "examples" / "compose"
SERVICES: dict[str, Any] = yaml.safe_load((EXAMPLE / "compose.yml").read_text())["services"]
PATIENCE = 120.0


def wait_for(what: Callable[[], bool]) -> None:
    """Wait until a health check succeeds."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.1)


class Trial:
    """OpenBao and the server, started as the services of compose.yml start them."""

    def __init__(self, directory: Path, started: ExitStack) -> None:
        self.shared = directory / "shared"
        self.shared.mkdir()
        self._directory, self._started = directory, started
        vault, self.port, self.probe = free_port(), free_port(), free_port()
        self._replacements = {
            "/shared": str(self.shared),
            "/trial": str(EXAMPLE),
            "http://openbao:8200": f"http://127.0.0.1:{vault}",
            "http://127.0.0.1:8200": f"http://127.0.0.1:{vault}",
            "0.0.0.0:8200": f"127.0.0.1:{vault}",
            "0.0.0.0:7373": f"127.0.0.1:{self.port}",
            "0.0.0.0:7374": f"127.0.0.1:{self.probe}",
            "https://kes.internal:7373": f"https://localhost:{self.port}",
            "65532:65532": f"{os.getuid()}:{os.getgid()}",
        }
        self.config = directory / "config.yml"
        self.config.write_text(self.here((EXAMPLE / "config.yml").read_text()))
        self._start("openbao", [bao_program(), *map(self.here, SERVICES["openbao"]["command"])])
        health = [bao_program(), *SERVICES["openbao"]["healthcheck"]["test"][2:]]
        environment = self.environment("openbao")
        wait_for(lambda: subprocess.run(health, env=environment, capture_output=True, check=False).returncode == 0)
        for _ in range(2):  # `docker compose up` runs it again
            command = [self.here(part) for part in SERVICES["vault-setup"]["entrypoint"]]
            subprocess.run(
                command, env=self.environment("vault-setup"), check=True, capture_output=True, timeout=PATIENCE
            )
        command = [self.here(part) for part in SERVICES["kes"]["entrypoint"]]
        server = self._start("kes", command, CONFIG=str(self.config))

        def is_ready() -> bool:
            assert server.poll() is None, (self._directory / "kes.log").read_text()
            try:
                return httpx.get(f"http://127.0.0.1:{self.probe}/ready", trust_env=False).status_code == 200
            except httpx.TransportError:
                return False

        wait_for(is_ready)

    def here(self, text: str) -> str:
        """Return `text` with the addresses and the paths of the test."""
        for old, new in self._replacements.items():
            text = text.replace(old, new)
        return text

    def environment(self, service: str) -> dict[str, str]:
        given = {name: self.here(value) for name, value in SERVICES[service].get("environment", {}).items()}
        path = f"{Path(sys.executable).parent}:{Path(bao_program()).parent}:{os.environ['PATH']}"
        return {"PATH": path, "HOME": str(self._directory)} | given

    def _start(self, service: str, command: list[str], **more: str) -> subprocess.Popen[bytes]:
        with (self._directory / f"{service}.log").open("wb") as log:
            process = subprocess.Popen(command, env=self.environment(service) | more, stdout=log, stderr=log)
        self._started.callback(process.wait)
        self._started.callback(process.send_signal, signal.SIGTERM)
        return process


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    with ExitStack() as started:
        yield Trial(tmp_path_factory.mktemp("containers"), started)


@pytest.mark.slow
def test_object_store_can_do_its_work(trial: Trial) -> None:
    """With the variables of the object store: what it does when it starts, and for each object."""
    store = trial.environment("store")
    key = store["MINIO_KMS_KES_KEY_NAME"]
    with Client(
        store["MINIO_KMS_KES_ENDPOINT"],
        key_file=store["MINIO_KMS_KES_KEY_FILE"],
        cert_file=store["MINIO_KMS_KES_CERT_FILE"],
        ca=store["MINIO_KMS_KES_CAPATH"],
    ) as kes:
        assert kes.status().keystore == "vault"
        kes.create_key(key)
        made = kes.generate_data_key(key, b"trial/object")
        assert kes.decrypt(key, made.ciphertext, b"trial/object") == made.plaintext
        assert list(kes.list_keys("minio-*")) == [key]
        with pytest.raises(NotAllowedError):
            kes.create_key("another")


@pytest.mark.slow
def test_doctor_has_nothing_to_object(trial: Trial) -> None:
    done = run_kes("identity", "of", trial.shared / "tls" / "client.crt")
    assert done.returncode == 0, done.stderr
    identity = done.stdout.strip()
    done = run_kes("doctor", "--login", "--strict", "--config", trial.config, STORE_IDENTITY=identity)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_policy_in_openbao_is_the_least(trial: Trial) -> None:
    script = (EXAMPLE / "vault-setup.sh").read_text()
    printed = run_kes("doctor", "store-policy", "--config", trial.config, STORE_IDENTITY="1" * 64).stdout
    rules = [line for line in printed.splitlines() if not line.startswith("#") and line]
    assert "\n".join(rules) in script


def test_services_fit_together() -> None:
    """Each service waits for services that exist, has the health check that is waited for, and runs a script here."""
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_completed_successfully" or "healthcheck" in SERVICES[other], name
        for part in (*service.get("entrypoint", ()), *service.get("command", ())):
            if part.startswith("/trial/"):
                script = EXAMPLE / part.removeprefix("/trial/")
                subprocess.run(["sh", "-n", script], check=True)
                assert ".:/trial:ro" in service["volumes"]
    alias = SERVICES["kes"]["networks"]["default"]["aliases"][0]
    assert f"//{alias}:" in SERVICES["store"]["environment"]["MINIO_KMS_KES_ENDPOINT"]
    assert alias in (EXAMPLE / "start.sh").read_text()
