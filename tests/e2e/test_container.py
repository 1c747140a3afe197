"""The container image: its content, and that it serves with the fewest possible rights. Needs a Docker engine."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.identity import APIKey
from tests.helpers.certificates import make_server_certificate
from tests.helpers.command import run_kes
from tests.helpers.docker import BASE, IMAGE, Log, build, engine, kes_image, run
from tests.helpers.documents import ROOT, blocks
from tests.helpers.native_wheel import copy_with_wheel
from tests.helpers.programs import free_port

pytestmark = [pytest.mark.container, pytest.mark.timeout(1800)]  # it builds the image

UID = 65532
HARDENING = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
NATIVE = any((ROOT / "dist").glob("kes_native-*.whl"))
"""Whether the image contains kes-native."""
WRITABLE = """
import os
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if os.path.join(folder, name) not in ("/dev", "/proc", "/sys")]
    for path in (folder, *(os.path.join(folder, name) for name in files)):
        if not os.path.islink(path) and os.access(path, os.W_OK):
            print(path)
"""


@pytest.fixture(scope="module")
def image() -> Any:
    return kes_image()


@pytest.fixture
def owned(tmp_path: Path, image: Any) -> Iterator[Path]:
    """A folder that the image's user owns until the end of the test."""
    mounted = {str(tmp_path): {"bind": "/mnt", "mode": "rw"}}

    def chown(uid: int, gid: int) -> None:
        command = ["-R", f"{uid}:{gid}", "/mnt"]
        engine().containers.run(image.id, command, entrypoint=["chown"], user="0", volumes=mounted, remove=True)

    for name in ("etc", "keys"):
        (tmp_path / name).mkdir(mode=0o700)
    before = tmp_path.stat()
    chown(UID, UID)
    yield tmp_path
    chown(before.st_uid, before.st_gid)


def inside(image: Any, *command: str, **options: Any) -> str:
    """Run a program in a container of the image; return what it prints."""
    output = engine().containers.run(image.id, command[1:], entrypoint=[command[0]], remove=True, **options)
    return str(output.decode())


def test_image_says_how_it_is_run(image: Any) -> None:
    config = image.attrs["Config"]
    assert config["User"] == f"{UID}:{UID}"
    assert config["Entrypoint"] == ["kes"]
    assert config["Cmd"] == ["server", "--config", "/etc/kes/config.yml"]
    assert config["ExposedPorts"] == {"7373/tcp": {}}
    assert config["StopSignal"] == "SIGTERM"
    assert not config["Volumes"]
    assert config["Labels"]["org.opencontainers.image.title"] == "kes-core"


def test_image_has_the_packages_and_nothing_to_build_with(image: Any) -> None:
    plugins = json.loads(inside(image, "kes", "plugins", "--json"))
    ours = {"kes-core", "kes-aws", "kes-cedar", "kes-fs", "kes-kubernetes", "kes-vault"}
    assert {plugin["distribution"] for plugin in plugins} == ours
    found = inside(image, "/opt/kes/bin/python3", "-c", "import importlib.util as u; print(u.find_spec('kes_native'))")
    assert (found != "None\n") == NATIVE
    assert not [plugin for plugin in plugins if plugin["error"]]
    find = ["import importlib.util, shutil", "print(importlib.util.find_spec('pip'), shutil.which('pip'))"]
    find.append("print(shutil.which('gcc'), shutil.which('git'))")
    assert inside(image, "/opt/kes/bin/python3", "-c", "\n".join(find)) == "None None\nNone None\n"
    # What the image adds to its base.
    assert image.attrs["Size"] - engine().images.get(BASE).attrs["Size"] < 145_000_000


def test_image_serves_with_a_wheel_of_the_native_runtime(tmp_path: Path) -> None:
    native, said = build(copy_with_wheel(tmp_path), f"{IMAGE}-native")
    assert "The image serves with kes-native, from dist/." in said
    command = ["server", "--dev", "--addr", f"127.0.0.1:{free_port()}"]
    with run(native, command=command) as container, closing(Log(container)) as log:
        log.wait_for("the native runtime is listening on")


def test_nothing_of_the_checkout_but_the_packages_goes_in(image: Any) -> None:
    """Other files enter neither the image nor the build context, which the engine would keep."""
    command = "find / -xdev ( -name .git -o -name .venv -o -name kes-demo -o -name src -path /src )"
    assert inside(image, *command.split(), user="0") == ""
    history = json.dumps(image.history())
    assert "PRIVATE KEY" not in history
    assert "PIP_" not in history


def test_nothing_can_be_written(image: Any) -> None:
    assert inside(image, "python3", "-c", WRITABLE, **HARDENING) == ""
    # Even with a writable root, the user can write only to /tmp and the like.
    assert set(inside(image, "python3", "-c", WRITABLE).split()) <= {"/tmp", "/var/tmp", "/run/lock"}


@pytest.mark.parametrize("workers", [1, 2])
def test_container_serves(owned: Path, workers: int) -> None:
    admin = APIKey.generate()
    key, cert = make_server_certificate(owned / "etc")
    probe = f"127.0.0.1:{free_port()}"
    config = {
        "address": "127.0.0.1:0",
        "workers": workers,
        "admin": {"identity": admin.identity},
        "tls": {"key": f"/etc/kes/{key.name}", "cert": f"/etc/kes/{cert.name}"},
        "probe": {"address": probe},
        "keystore": {"fs": {"path": "/var/lib/kes/keys"}},
    }
    (owned / "etc" / "config.yml").write_text(yaml.safe_dump(config))
    for file in (owned / "etc").iterdir():
        file.chmod(0o644)
    volumes = {
        str(owned / "etc"): {"bind": "/etc/kes", "mode": "ro"},
        str(owned / "keys"): {"bind": "/var/lib/kes/keys", "mode": "rw"},
    }
    with run(volumes=volumes, **HARDENING) as container, closing(Log(container)) as log:
        line = log.wait_for("listening on https://")
        assert ("the native runtime is listening on" in line) == NATIVE
        server = "https://" + json.loads(line)["message"].rpartition("https://")[2]
        environment = {"KES_SERVER": server, "KES_API_KEY": str(admin)}

        def cli(*arguments: str) -> str:
            done = run_kes(*arguments, "-k", **environment)
            assert done.returncode == 0, done.stderr
            return done.stdout

        cli("key", "create", "my-key")
        dek = json.loads(cli("key", "dek", "my-key"))
        container.kill(signal="HUP")
        log.wait_for("the configuration is reloaded")
        assert json.loads(cli("key", "decrypt", "my-key", dek["ciphertext"])) == {"plaintext": dek["plaintext"]}
        status = container.exec_run(["cat", "/proc/1/status"]).output.decode()
        assert re.search(rf"^Uid:\t{UID}\t{UID}\t{UID}\t{UID}$", status, re.MULTILINE)
        assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
        # The health check in the documentation.
        (check,) = [block for block in blocks("docs/deployment.md", "sh") if "--health-cmd" in block]
        (command,) = re.findall(r"--health-cmd '(.*?)'", check)
        health = container.exec_run(["sh", "-c", command.replace("127.0.0.1:7374", probe)])
        assert health.exit_code == 0, health.output
        assert container.exec_run(["sh", "-c", command.replace("127.0.0.1:7374", "127.0.0.1:1")]).exit_code != 0
        container.reload()
        shown = json.dumps(container.attrs)
        for secret in (str(admin), dek["plaintext"], "PRIVATE KEY"):
            assert secret not in shown
        container.stop(timeout=30)
        assert container.wait()["StatusCode"] == 0
    assert [path.name for path in (owned / "keys").iterdir()] == ["my-key"]
    assert (owned / "keys" / "my-key").stat().st_uid == UID
