"""The documentation is right: the README's commands and the Python examples work."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kes_core.config.sections import FileSettings
from kes_core.identity import APIKey
from tests.helpers.documents import ROOT, blocks
from tests.helpers.programs import free_port
from tests.helpers.server import Server
from tests.helpers.vectors import vectors


class Quickstart:
    """The server that the README's first command starts."""

    def __init__(self, directory: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.directory = directory
        self.environment = {name: value for name, value in os.environ.items() if "KES_" not in name}
        self.environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def start(self) -> str:
        """Start the server, and return the commands that it prints."""
        places = {"KES_DEMO": str(self.directory / "kes-demo"), "KES_DEMO_ADDRESS": self.address}
        options = places | {"KES_RUNTIME": "hypercorn"}  # kes-native would have to be built
        # The environment exists already: CI creates it first.
        code = (
            "import sys, pathlib; sys.path.insert(0, 'scripts'); import quickstart; "
            f"quickstart.prepare = lambda dev: pathlib.Path({str(Path(sys.executable).parent)!r}); quickstart.main()"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=self.environment | options,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        pasted = ""
        for line in self.process.stdout:
            pasted += line
            if line.startswith("The commands need -k"):
                break
        assert "listening on" in self.process.stderr.readline()
        return pasted

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(timeout=120) == 0
        self.process.communicate()

    def paste(self, commands: str) -> str:
        """Run lines as the user does in a second terminal."""
        script = f"set -e\nexport KES_SERVER=https://{self.address}\n{commands}"
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        assert done.stderr == ""
        return done.stdout


@pytest.fixture
def quickstart(tmp_path: Path) -> Iterator[Quickstart]:
    started = Quickstart(tmp_path)
    yield started
    if started.process.poll() is None:
        started.process.kill()
        started.process.communicate()


def test_tour_of_the_readme(quickstart: Quickstart) -> None:
    """The commands work in the README's order, and their outputs have the shape that it shows."""
    printed = quickstart.start()
    exports = "export KES_API_KEY=$(cat kes-demo/admin.api-key)\n"
    assert "kes key create my-key -k" in printed
    assert f"kill -HUP {quickstart.process.pid}\n" in printed
    assert f"https://{quickstart.address}" in printed
    commands, outputs = blocks("README.md", "sh"), blocks("README.md", "json")
    tour = [command for command in commands if command.startswith(("kes key", "kes identity --json\n"))]
    assert len(tour) == 4
    assert exports in commands[2]
    assert quickstart.paste(exports + tour[0]) == ""
    for command, output in zip(tour[1:], outputs, strict=True):
        shown, expected = json.loads(quickstart.paste(exports + command)), json.loads(output)
        assert shown.keys() == expected.keys()
        assert {name: len(value) for name, value in shown.items()} == {n: len(v) for n, v in expected.items()}
    sealed = json.loads(quickstart.paste(exports + tour[1]))
    quickstart.stop()
    quickstart.start()  # the key survived the restart
    opened = json.loads(quickstart.paste(f"{exports}kes key decrypt my-key {sealed['ciphertext']} -k"))
    assert opened == {"plaintext": sealed["plaintext"]}
    quickstart.stop()
    secret = quickstart.directory / "kes-demo" / "admin.api-key"
    assert secret.stat().st_mode & 0o777 == 0o600


def test_a_server_as_the_readme_sets_one_up(quickstart: Quickstart) -> None:
    """The README's steps are complete, from the certificate to the running server."""
    begin, end = [text for text in blocks("README.md", "sh") if "kes identity new" in text or "--config" in text]
    install, *rest = begin.splitlines()
    assert install.startswith("pip install")
    made = json.loads(quickstart.paste("\n".join(rest)).splitlines()[-1])
    (shown,) = [text for text in blocks("README.md", "sh") if "keystore" in text]
    text = re.sub(r"[0-9a-f]{64}", made["identity"], shown).replace("127.0.0.1:7373", quickstart.address)
    assert quickstart.paste(text) == ""
    doctor, server = end.splitlines()
    assert " 0 errors, 0 warnings" in quickstart.paste(doctor)
    quickstart.process = subprocess.Popen(
        server.split(),
        cwd=quickstart.directory,
        env=quickstart.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert quickstart.process.stderr is not None
    line = json.loads(quickstart.process.stderr.readline())
    assert "listening on" in line["message"]  # no warning is before it
    quickstart.paste(f"export KES_API_KEY={made['api_key']}\nkes key create my-key -k")
    assert (quickstart.directory / "keys" / "my-key").exists()
    quickstart.stop()


def test_python_example_of_the_api_page(server: Server) -> None:
    (code,) = blocks("docs/api.md", "python")
    code = code.replace("https://127.0.0.1:7373", server.url).replace("kes:v1:...", str(server.admin.api_key))
    for _ in range(2):  # the key is there the second time
        exec(compile(code, "api.md", "exec"), {})  # the example, unchanged


def test_plugin_of_the_plugin_page(tmp_path: Path) -> None:
    """The page's plugin, installed as a package, serves as a server's key store."""
    (entry,) = blocks("docs/plugins.md", "toml")
    section = "\n".join(blocks("docs/plugins.md", "yaml"))
    (tmp_path / "my_package.py").write_text("\n".join(blocks("docs/plugins.md", "python")))
    metadata = tmp_path / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    points = re.sub(r"\[project.entry-points.(\w+)\]", r"[\1]", entry).replace('"', "")
    (metadata / "entry_points.txt").write_text(points)
    check = (
        "import asyncio\n"
        "from pathlib import Path\n"
        "from kes_core import PluginContext\n"
        "from kes_core.testing import FrontendHost\n"
        "from kes_core.config import parse_config\n"
        "from kes_core.plugins import load_plugins\n"
        "text = 'admin: {identity: x}\\ntls: {key: k, cert: c}\\n' + " + repr(section) + "\n"
        "config = parse_config(text, filename='config.yml', plugins=load_plugins(), environ={'LOG_TOKEN': 'x'})\n"
        "async def main():\n"
        "    store = await config.keystore.backend.connect(config.keystore.config, PluginContext())\n"
        "    await store.create('a', b'value')\n"
        "    assert await store.get('a') == b'value'\n"
        "    assert (await store.list()).names == ['a']\n"
        "    await store.delete('a')\n"
        "    (choice,) = config.audit_sinks\n"
        "    sink = await choice.type.connect(choice.config, PluginContext())\n"
        "    await sink.close()\n"
        "    (choice,) = config.frontends\n"
        "    async with FrontendHost(Path()) as host:\n"
        "        await host.create_key('lines')\n"
        "        settings = choice.type.config(socket='lines.sock', identity=host.identity)\n"
        "        frontend = await choice.type.connect(settings, host.context)\n"
        "        await frontend.start()\n"
        "        reader, writer = await asyncio.open_unix_connection('lines.sock')\n"
        "        writer.write(b'hello\\n')\n"
        "        sealed = bytes.fromhex((await reader.read()).decode())\n"
        "        writer.close()\n"
        "        await frontend.stop()\n"
        "        assert await host.keys.decrypt(host.identity, 'lines', sealed) == b'hello\\n'\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", check],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("", "")


LINKS = sorted(
    {"README.md", "CONTRIBUTING.md", "SECURITY.md", *(f"docs/{f.name}" for f in (ROOT / "docs").glob("*.md"))}
)


@pytest.mark.parametrize("file", LINKS)
def test_links_lead_somewhere(file: str) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / file).read_text()):
        if not target.startswith("http"):
            assert ((ROOT / file).parent / target).exists(), target


def test_configuration_page_names_every_field() -> None:
    page = (ROOT / "docs/configuration.md").read_text()
    for name in FileSettings.model_fields:
        assert re.search(rf"`{name}[.`\[]", page), name


def test_every_dependency_is_explained() -> None:
    project: Any = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    page = (ROOT / "docs/dependencies.md").read_text()
    for requirement in project["dependencies"]:
        name = re.match(r"[a-z-]+", requirement)
        assert name is not None
        assert f"| {name.group()} |" in page


def test_commands_beside_the_go_server(quickstart: Quickstart) -> None:
    """The page's commands use a key that the Go server stored, and don't change it."""
    _install, begin, rest = blocks("docs/from-the-go-server.md", "sh")
    folder = quickstart.directory
    admin = APIKey.generate()
    quickstart.paste("kes identity new --key server.key --cert server.crt --ip 127.0.0.1 localhost")
    (folder / "keys").mkdir(mode=0o700)
    stored = next(case["raw"] for case in vectors("key_encoding")["cases"] if case.get("format") == "protobuf")
    (folder / "keys" / "my-key").write_text(stored)
    (folder / "keys" / "my-key").chmod(0o600)
    settings = {
        "admin": {"identity": admin.identity},
        "tls": {"key": "server.key", "cert": "server.crt"},
        "keystore": {"fs": {"path": "keys"}},
    }
    (folder / "config.yml").write_text(json.dumps(settings))
    local = {"/opt/kes/bin/": "", "127.0.0.1:7380": quickstart.address}

    def here(text: str) -> str:
        return re.sub("|".join(local), lambda found: local[found.group()], text)

    doctor, server = here(begin).splitlines()
    quickstart.paste(doctor)
    quickstart.process = subprocess.Popen(
        server.split(),
        cwd=folder,
        env=quickstart.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert quickstart.process.stderr is not None
    log = iter(quickstart.process.stderr.readline, "")
    assert any("listening on" in line for line in log)
    credentials = f"export KES_API_KEY={admin} SSL_CERT_FILE=server.crt\n"
    *_others, key = quickstart.paste(credentials + here(rest)).splitlines()
    ciphertext = json.loads(key)["ciphertext"]
    opened = quickstart.paste(f"{credentials}kes key decrypt my-key {ciphertext}")
    assert json.loads(opened)["plaintext"] == json.loads(key)["plaintext"]
    assert (folder / "keys" / "my-key").read_text() == stored
    quickstart.stop()
