"""A third party's wheel works with our wheels, in an empty environment."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import venv
from pathlib import Path

import pytest

from tests.helpers.certificates import make_credentials
from tests.helpers.programs import free_port
from tests.helpers.server import write_config

pytestmark = pytest.mark.slow  # it builds wheels, and installs them into an environment of their own

ROOT = Path(__file__).parents[2]


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment with our wheels and then a third party's."""
    directory = tmp_path_factory.mktemp("wheels")
    dist = directory / "dist"
    sources = [str(ROOT / part) for part in ("", "plugins/vault", "examples/kes-sql")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    run([*pip, "wheel", "--no-deps", "--wheel-dir", str(dist), *sources], directory)
    venv.create(directory / "venv", with_pip=True)
    programs = directory / "venv" / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    for packages in (["kes-core==0.1.0", "kes-vault==0.1.0"], ["kes-sql==0.1.0"]):
        run([*pip, "install", "--find-links", str(dist), *packages], directory)
    return programs


class Server:
    """`kes server` from that environment, on the third party's key store."""

    def __init__(self, programs: Path, directory: Path) -> None:
        self.process = subprocess.Popen(
            [str(programs / "kes"), "server", "--config", "config.yml"],
            cwd=directory,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        )
        lines: queue.Queue[str] = queue.Queue()
        self._thread = threading.Thread(target=self._collect, args=(lines,), daemon=True)
        self._thread.start()
        line = lines.get(timeout=60)
        assert "listening on" in line, line

    def _collect(self, lines: queue.Queue[str]) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stream:
            for line in stream:
                lines.put(line)

    def stop(self) -> None:
        self.process.terminate()
        assert self.process.wait(timeout=120) == 0
        self._thread.join(120)


def test_server_on_a_third_partys_key_store(programs: Path, tmp_path: Path) -> None:
    plugins = json.loads(run([str(programs / "kes"), "plugins", "--json"], tmp_path))
    assert {name for plugin in plugins for name in plugin["backends"]} == {"memory", "sql", "vault"}
    assert [plugin["error"] for plugin in plugins] == [None] * len(plugins)
    admin, port = make_credentials(tmp_path, "admin"), free_port()
    overrides = {"address": f"127.0.0.1:{port}", "keystore": {"sql": {"url": f"sqlite:///{tmp_path}/keys.db"}}}
    write_config(tmp_path, admin.identity, overrides)
    assert run([str(programs / "kes"), "config", "check", "config.yml"], tmp_path) == "config.yml: ok\n"
    client = {name: value for name, value in os.environ.items() if "KES_" not in name}
    client |= {"KES_SERVER": f"https://127.0.0.1:{port}", "KES_API_KEY": str(admin.api_key)}

    def kes(*arguments: str) -> str:
        return run([str(programs / "kes"), *arguments, "-k"], tmp_path, client)

    server = Server(programs, tmp_path)
    kes("key", "create", "my-key")
    data_key = json.loads(kes("key", "dek", "my-key"))
    server.stop()
    server = Server(programs, tmp_path)
    opened = json.loads(kes("key", "decrypt", "my-key", data_key["ciphertext"]))
    assert opened == {"plaintext": data_key["plaintext"]}
    server.stop()
