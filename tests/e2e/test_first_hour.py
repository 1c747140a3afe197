"""The first hour on a bare Debian, as an ordinary user: the README's first command, and each way to install."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.docker import pip_settings
from tests.helpers.documents import ROOT, blocks
from tests.helpers.programs import free_port, program

pytestmark = [
    pytest.mark.container,
    pytest.mark.timeout(3600),  # downloads a Debian, and the packages for each environment
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the root directory"),
]
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "kes-demo", "dist", "site")


class Debian:
    """A root directory with Debian, git, and python3 without the module venv."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = f"127.0.0.1:{free_port()}"

    def command(self, *command: str, user: str = "user", folder: str = "~/kes-core") -> list[str]:
        """Return the command that runs `command` in the root directory as `user`, without our environment variables."""
        environment = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", f"KES_DEMO_ADDRESS={self.address}"]
        home = "/root" if user == "root" else f"/home/{user}"
        shell = ["sh", "-c", f'cd {folder} && exec "$@"', "sh"]
        chroot = program("chroot", "coreutils")
        return [chroot, f"--userspec={user}:{user}", str(self.root), *environment, f"HOME={home}", *shell, *command]

    def run(self, *command: str, user: str = "user", folder: str = "~/kes-core") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command, user=user, folder=folder), capture_output=True, text=True, timeout=1200, check=False
        )

    def succeed(self, script: str, *, user: str = "user", folder: str = "~/kes-core") -> str:
        """Run shell commands, which must succeed; return their output."""
        done = self.run("sh", "-ec", script, user=user, folder=folder)
        assert done.returncode == 0, f"{script}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    @contextmanager
    def quickstart(self) -> Iterator[subprocess.Popen[str]]:
        """Start the README's first command."""
        (first, *_others) = blocks("README.md", "sh")
        command = self.command(*first.split())
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            yield process
        finally:
            process.kill()
            process.communicate()


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Debian]:
    root = tmp_path_factory.mktemp(request.param) / "root"
    packages = "--include=python3,git,ca-certificates"
    command = [program("mmdebstrap", "mmdebstrap"), "--quiet", "--variant=minbase", packages, request.param, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    for name in ("hosts", "resolv.conf"):
        shutil.copy(f"/etc/{name}", root / "etc" / name)
    settings = pip_settings()
    if cert := settings.pop("cert", ""):
        shutil.copy(cert, root / "etc/ssl/certs/pip.crt")
        settings["cert"] = "/etc/ssl/certs/pip.crt"
    lines = (f"{name} = {value}\n" for name, value in settings.items())
    (root / "etc/pip.conf").write_text("[global]\n" + "".join(lines))
    debian = Debian(root)
    debian.succeed("useradd --create-home user", user="root", folder="/")
    shutil.copytree(ROOT, root / "home/user/source", ignore=NOT_COPIED, symlinks=True)
    debian.succeed("chown -R user: /home/user/source", user="root", folder="/")
    commit = "git -c user.name=test -c user.email=test@localhost commit --quiet --message=source"
    debian.succeed(f"git init --quiet && git add --all && {commit} && git tag v0.1.0", folder="~/source")
    debian.succeed("git clone --quiet ~/source ~/kes-core", folder="~")
    yield debian
    shutil.rmtree(root)  # several hundred megabytes, which pytest would keep


def read_until(process: subprocess.Popen[str], text: str) -> list[str]:
    """Return the lines of a process's stderr, up to the first that contains `text`."""
    lines = []
    for line in process.stderr or ():
        lines.append(line)
        if text in line:
            return lines
    raise AssertionError(f"the process ended before it wrote {text!r}:\n{''.join(lines)}")


def test_first_command_of_the_readme(debian: Debian) -> None:
    """The command names what is missing, recovers from a failure and an interruption, shows its steps, and serves."""
    home = debian.root / "home/user/kes-core"
    with debian.quickstart() as refused:
        _out, error = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert error.count("\n") == 1
    assert error.endswith("apt install python3-venv\n")
    assert not (home / ".venv").exists()
    assert not (home / "kes-demo").exists()

    install = "apt-get -qq update && apt-get -qq install --no-install-recommends "
    debian.succeed(install + error.split()[-1], user="root", folder="/")
    with debian.quickstart() as interrupted:
        read_until(interrupted, "   3 ")  # the third package
        interrupted.send_signal(signal.SIGINT)
        _out, error = interrupted.communicate(timeout=60)
    assert interrupted.returncode == 1
    assert error.endswith("Interrupted. Run the same command again to continue.\n")
    assert "Traceback" not in error

    with debian.quickstart() as server:
        steps = read_until(server, "listening on")
        count = sum(re.fullmatch(r" +\d+ \S.*\n", step) is not None for step in steps)
        assert count > 40, steps  # each package is named when its download starts
        printed = ""
        for line in server.stdout or ():
            printed += line
            if line.startswith("The commands need -k"):
                break
        assert f"kill -HUP {server.pid}\n" in printed  # the process ID of this server
        exports = [line for line in printed.splitlines() if line.startswith("  export")]
        commands = [line for line in printed.splitlines() if line.startswith("  kes ")]
        assert '"ciphertext"' in debian.succeed("\n".join([*exports, *commands]))
        debian.succeed(f"kill -HUP {server.pid}")
        read_until(server, "reload")
        server.send_signal(signal.SIGINT)
        assert server.wait(timeout=30) == 0

    with debian.quickstart() as again:
        steps = read_until(again, "listening on")
        assert [step.partition(":")[0] for step in steps[:-1]] == ["Hypercorn serves"]  # there is nothing to install
        again.send_signal(signal.SIGINT)
        assert again.wait(timeout=30) == 0


def test_each_way_to_install(debian: Debian) -> None:
    """The ways of the deployment page work: from a clone, from a Git server, and from wheels."""
    clone, git, build, wheels = blocks("docs/deployment.md", "sh")[:4]
    git = git.replace("REPOSITORY", "file:///home/user/source")
    debian.succeed("apt-get -qq update && apt-get -qq install python3-venv", user="root", folder="/")
    for number, way in enumerate([clone, git, build + wheels]):
        environment = f"python3 -m venv ~/{number} && . ~/{number}/bin/activate"
        shown = debian.succeed(f"{environment} && {way.replace('pip ', 'pip --quiet ')} kes --version && kes plugins")
        assert "kes-core" in shown
        assert {"vault", "fs"} <= set(re.findall(r"\w+", shown))
    assert debian.succeed("git status --porcelain") == ""  # no new files in the clone, except those that Git ignores
