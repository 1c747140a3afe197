"""The unit for systemd: systemd's own checks, the commands in it, and the service under a real systemd."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes_core.identity import APIKey
from tests.helpers.certificates import make_server_certificate
from tests.helpers.command import run_kes
from tests.helpers.docker import kes_image, run
from tests.helpers.documents import blocks
from tests.helpers.programs import program

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "systemd"
UNIT = EXAMPLES / "kes.service"
PROGRAM = Path(sys.executable).parent / "kes"


def settings() -> dict[str, list[str]]:
    """Return the unit's settings of the service, by name."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in UNIT.read_text().splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found[name].append(value)
    return found


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit, with the `kes` of this environment."""
    path = tmp_path / UNIT.name
    path.write_text(UNIT.read_text().replace("/opt/kes/bin/kes", str(PROGRAM)))
    return path


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """Receives the notifications of a service."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(60)
        yield listening


def wait_for(systemd: socket.socket, message: bytes) -> None:
    while not systemd.recv(4096).startswith(message):
        pass


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [program("systemd-analyze", "systemd"), "--no-pager", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# systemd's own checks


def test_systemd_finds_nothing_wrong(installed: Path) -> None:
    program("kill", "procps")  # the unit calls it
    done = analyze("verify", installed)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    installed.write_text(installed.read_text().replace("ProtectClock=", "ProtectClocks="))
    assert "ProtectClocks" in analyze("verify", installed).stderr


def test_exposure_is_small(installed: Path) -> None:
    """systemd rates the exposure at no more than 1.5 of 10, and the service has no capability."""
    done = analyze("security", "--offline=yes", "--threshold=15", installed)
    assert done.returncode == 0, done.stdout
    rows = json.loads(analyze("security", "--offline=yes", "--json=short", installed).stdout)
    assert [row["name"] for row in rows if "CAP_" in row["name"] and row["exposure"]] == []
    (page,) = [line for line in (ROOT / "docs/deployment.md").read_text().splitlines() if "rates the exposure" in line]
    assert page.split(" of 10")[0].split()[-1] in done.stdout.splitlines()[-1]


# The commands in it


def test_commands_of_the_unit(tmp_path: Path, systemd: socket.socket) -> None:
    """The commands start, reload and stop the server with the example's configuration, run as systemd runs them."""
    admin = APIKey.generate()
    (tmp_path / "tls").mkdir()
    make_server_certificate(tmp_path / "tls")
    places = {"/etc/kes": tmp_path, "/var/lib/kes": tmp_path / "lib", "/var/log/kes": tmp_path}
    config = (EXAMPLES / "config.yml").read_text().replace("0.0.0.0:7373", "127.0.0.1:0").replace(":7374", ":0")
    for place, folder in places.items():
        config = config.replace(place, str(folder))
    (tmp_path / "config.yml").write_text(config)
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "KES_ADMIN_IDENTITY": admin.identity}
    environment["WATCHDOG_USEC"] = "400000"

    def command(line: str, pid: int = 0) -> list[str]:
        line = line.replace("/opt/kes/bin/kes", str(PROGRAM)).replace("$MAINPID", str(pid))
        return shlex.split(line.replace("/etc/kes", str(tmp_path)))

    (start,) = settings()["ExecStart"]
    check, reload = settings()["ExecReload"]
    assert settings()["Type"] == ["notify"]
    process = subprocess.Popen(
        command(start), env=os.environ | environment, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        wait_for(systemd, b"READY=1\nSTATUS=serving")
        for _ in range(3):
            wait_for(systemd, b"WATCHDOG=1")
        for line in (check, reload):
            subprocess.run(command(line, process.pid), env=os.environ | environment, timeout=120, check=True)
        wait_for(systemd, b"RELOADING=1")
        wait_for(systemd, b"READY=1\nSTATUS=serving")
        (tmp_path / "config.yml").write_text("broken")
        assert subprocess.run(command(check), capture_output=True, timeout=120, check=False).returncode == 1
        process.terminate()
        wait_for(systemd, b"STOPPING=1")
        _output, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / "audit.log").exists()
    assert (tmp_path / "lib" / "keys").is_dir()


def test_time_to_stop_is_more_than_the_server_takes() -> None:
    from kes_core.server.workers.handle import KILL_AFTER

    assert float(settings()["TimeoutStopSec"][0]) > KILL_AFTER


def test_systemd_is_more_patient_than_the_watchdog() -> None:
    from kes_core.server.watchdog import LIMIT

    assert float(settings()["WatchdogSec"][0]) >= 2 * LIMIT
    assert settings()["WatchdogSignal"] == ["SIGKILL"]  # no core dump, which would hold keys


# Under a real systemd, in a container, because not every test machine runs systemd


SYSTEMD = """
mount --make-rshared /
umount --recursive /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec /lib/systemd/systemd
"""
"""Sets up what systemd needs and a container lacks."""
NEEDED = ["SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE", "SYSLOG", "DAC_READ_SEARCH"]


@pytest.fixture
def machine(tmp_path: Path, systemd: socket.socket) -> Iterator[Any]:
    """A container of this project's image, with the examples, in which systemd has started everything."""
    kes_image()
    with run(
        entrypoint=["sh", "-ec", SYSTEMD],
        user="0",
        cgroupns="private",
        cap_add=NEEDED,
        security_opt=["seccomp=unconfined", "apparmor=unconfined"],
        tmpfs={"/run": "exec", "/run/lock": "", "/tmp": ""},
        environment={"container": "docker", "NOTIFY_SOCKET": "/host/notify"},
        volumes=[f"{tmp_path}:/host", f"{ROOT / 'examples'}:/root/examples:ro"],
    ) as container:
        wait_for(systemd, b"READY=1")
        yield container


def shell(machine: Any, script: str, *, code: int = 0) -> str:
    done = machine.exec_run(["sh", "-ec", script], workdir="/root")
    output: str = done.output.decode()
    assert done.exit_code == code, output + machine.exec_run(["journalctl", "--no-pager", "-u", "kes"]).output.decode()
    return output


@pytest.mark.container
@pytest.mark.timeout(1800)  # it builds the image
def test_service_under_systemd(machine: Any) -> None:
    """Installed with the documentation's commands, the service runs without the rights that the unit takes away."""
    install, start = [
        text for text in blocks("docs/deployment.md", "sh") if "systemd-sysusers" in text or "kes.env" in text
    ]
    admin = APIKey.generate()
    shell(machine, install)
    shell(machine, "sed -i s/0.0.0.0:7373/127.0.0.1:0/\\;s/:7374/:0/ /etc/kes/config.yml")
    shell(machine, start.replace("the identity", admin.identity))

    def show(name: str) -> str:
        return shell(machine, f"systemctl show --property {name} --value kes").strip()

    assert (show("ActiveState"), show("StatusText")) == ("active", "serving")
    status = shell(machine, f"cat /proc/{show('MainPID')}/status")
    facts = {name: value.split() for name, _, value in (line.partition(":") for line in status.splitlines())}
    assert (facts["NoNewPrivs"], facts["Seccomp"], facts["CapBnd"]) == (["1"], ["2"], ["0" * 16])
    assert facts["Uid"] == shell(machine, "id -u kes").split() * 4

    def address() -> str:
        (*_, line) = shell(machine, "journalctl --no-pager --output cat -u kes -g 'listening on'").splitlines()
        return "https://" + str(json.loads(line)["message"]).rpartition("https://")[2]

    def cli(*arguments: str) -> str:
        done = run_kes(*arguments, "-k", KES_SERVER=address(), KES_API_KEY=str(admin))
        assert done.returncode == 0, done.stderr
        return done.stdout

    cli("key", "create", "my-key")
    files = shell(machine, "stat --format '%a %U' /var/lib/kes/keys/my-key /var/log/kes/audit.log")
    assert files.splitlines() == ["600 kes", "600 kes"]
    shell(machine, "systemctl reload kes")
    assert show("StatusText") == "serving"
    # The reload fails for a broken configuration, and the old one stays in use.
    shell(machine, "cp /etc/kes/config.yml good.yml; echo broken >>/etc/kes/config.yml")
    shell(machine, "systemctl reload kes 2>/dev/null", code=1)
    assert "plaintext" in cli("key", "dek", "my-key")
    # With workers, which are processes of their own, and with a private key that systemd passes.
    shell(machine, "{ cat good.yml; echo 'workers: 2'; } >/etc/kes/config.yml; mv /etc/kes/tls/server.key .")
    shell(machine, "sed -i s,/etc/kes/tls/server.key,/run/credentials/kes.service/key, /etc/kes/config.yml")
    (drop_in,) = blocks("docs/deployment.md", "ini")
    drop_in = drop_in.replace("approle-secret:/etc/kes/approle-secret", "key:/root/server.key")
    shell(machine, "chmod 600 server.key; chgrp root server.key; mkdir -p /run/systemd/system/kes.service.d")
    shell(machine, f"cat >/run/systemd/system/kes.service.d/key.conf <<'END'\n{drop_in}END\nsystemctl daemon-reload")
    shell(machine, "systemctl restart kes")
    assert "plaintext" in cli("key", "dek", "my-key")
    shell(machine, "systemctl reload kes")
    # systemd restarts a server that was killed.
    before = show("MainPID")
    restarted = "until [ $(systemctl show --property NRestarts --value kes) = 1 ] && systemctl --quiet is-active kes"
    shell(machine, f"kill -KILL {before}; timeout 60 sh -c '{restarted}; do sleep 0.1; done'")
    assert show("MainPID") != before
    shell(machine, "systemctl stop kes")
    assert (show("ActiveState"), show("Result")) == ("inactive", "success")
