"""The tutorial on a remote store: its code keeps the whole contract on a real Redis server, and serves keys."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.testing import RunningServer
from tests.helpers.command import kes
from tests.helpers.documents import ROOT, blocks
from tests.helpers.packages import install, run_tests
from tests.helpers.programs import free_port, program

pytestmark = pytest.mark.slow
PAGE = (ROOT / "docs" / "remote-tutorial.md").read_text()
PASSWORD = "the-first-password"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package of the tutorial. The client library is beside it, because no other test needs it."""
    directory = tmp_path_factory.mktemp("tutorial")
    plugin, store, contract = blocks("docs/remote-tutorial.md", "python")
    assert blocks("docs/remote-tutorial.md", "sh") == ["kes plugin new kes-redis --kind keystore\n"]
    kes("plugin", "new", "kes-redis", "--kind", "keystore", cwd=directory)
    folder = directory / "kes-redis"
    install(folder)
    (folder / "kes_redis" / "__init__.py").write_text(plugin)
    (folder / "kes_redis" / "store.py").write_text(store)
    (folder / "tests" / "test_contract.py").write_text(contract)
    (requirement,) = re.findall(r'`"(redis>=\S+)"`', PAGE)
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--target"]
    subprocess.run([*command, str(directory / "library"), requirement], check=True, timeout=200)
    return folder


class Redis:
    """A Redis server on a port of its own, which writes nothing to the disk."""

    def __init__(self, directory: Path) -> None:
        self._client = program("redis-cli", "redis-tools")
        self.port = free_port()
        settings = f'bind 127.0.0.1\nport {self.port}\nrequirepass {PASSWORD}\ndir {directory}\nsave ""\n'
        (directory / "redis.conf").write_text(settings)
        command = [program("redis-server", "redis-server"), str(directory / "redis.conf")]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        assert any(b"Ready to accept connections" in line for line in self.process.stdout)

    def send(self, *words: str) -> None:
        """Send a command, as the user that the server was started with."""
        environment = os.environ | {"REDISCLI_AUTH": PASSWORD}
        command = [self._client, "-p", str(self.port), *words]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, timeout=30, text=True)
        assert "ERR" not in done.stdout, done.stdout


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    server = Redis(tmp_path)
    yield server
    server.process.kill()
    server.process.communicate()


def test_store_keeps_every_clause(package: Path) -> None:
    program("redis-server", "redis-server")
    failed, output = run_tests(package, libraries=str(package.parent / "library"))
    assert failed == set(), output
    (line,) = re.findall("^kes contract .*", output, re.MULTILINE)
    kept = re.fullmatch(r"kes contract 1: (\d+) of (\d+) clauses kept by \S+TestRedisKeyStore", line)
    assert kept, line
    assert kept[1] == kept[2]


def test_types_and_style(package: Path) -> None:
    (setting,) = re.findall(r"`(untyped_calls_exclude = \S+)`", PAGE)
    project = package / "pyproject.toml"
    project.write_text(project.read_text().replace("strict = true\n", f"strict = true\n{setting}\n"))
    path = os.pathsep.join([str(package), str(package.parent / "library")])
    # Silent about the library itself, which is not where mypy expects installed packages.
    for command in ("ruff check .", "ruff format --check .", "mypy --follow-imports=silent"):
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=package,
            env=os.environ | {"MYPYPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_server_changes_its_password(package: Path, redis: Redis, kes_server: Callable[..., RunningServer]) -> None:
    (section,) = blocks("docs/remote-tutorial.md", "yaml")

    def sections(password: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load(section)
        found["keystore"]["redis"] |= {"port": redis.port, "password": password}
        return found

    environment = {"PYTHONPATH": os.pathsep.join([str(package), str(package.parent / "library")])}
    server = kes_server(sections(PASSWORD), environment)
    with server.client() as client:
        client.create_key("my-key")
        redis.send("ACL", "SETUSER", "default", ">the-second-password")
        server.configure(sections("a-wrong-password"))
        with pytest.raises(RuntimeError, match="rejects user 'default'"):
            server.reload()
        client.create_key("other")
        server.configure(sections("the-second-password"))
        server.reload()
        redis.send("ACL", "SETUSER", "default", f"<{PASSWORD}")
        client.create_key("third")
        assert sorted(client.list_keys()) == ["my-key", "other", "third"]
    for password in (PASSWORD, "the-second-password", "a-wrong-password"):
        assert password not in "\n".join(server.log)
    shown = subprocess.run(
        [sys.executable, "-m", "kes_core.cli", "doctor", str(server.directory / "config.yml")],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    ).stdout
    assert "a crash of Redis loses new keys" in shown
    assert "Redis may delete keys" not in shown
