"""The tutorial for Vault: its commands and its files, in their order, up to the first key."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT
from tests.helpers.openbao import bao_program
from tests.helpers.programs import free_port

PAGE = ROOT / "docs" / "vault" / "tutorial.md"
PATIENCE = 120
SERVERS = {"bao server": "server started!", "kes server": "listening on https://"}
"""Commands that stay, and what they print when they are ready."""


class Reader:
    """Someone who follows the page: in one shell, which keeps its variables, and a terminal for each server."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ports = {port: str(free_port()) for port in ("8200", "8201", "7373")}
        path = f"{Path(sys.executable).parent}:{Path(bao_program()).parent}:{os.environ['PATH']}"
        # `bao` writes the token of a login there.
        self._variables = {"PATH": path, "HOME": str(directory)}
        self._servers: list[tuple[subprocess.Popen[str], threading.Thread]] = []

    def with_ports(self, text: str) -> str:
        for port, ours in self._ports.items():
            text = text.replace(f":{port}", f":{ours}")
        return text

    def save(self, name: str, text: str) -> None:
        (self._directory / name).write_text(self.with_ports(text))

    def run(self, commands: str) -> str:
        """Run commands in the shell, and return what they print."""
        keep = f"\n{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))' > variables"
        done = subprocess.run(
            ["sh", "-euc", self.with_ports(commands) + keep],
            cwd=self._directory,
            env=self._variables,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{commands}\n{done.stdout}{done.stderr}"
        self._variables = json.loads((self._directory / "variables").read_text())
        return done.stdout

    def start(self, command: str, ready: str) -> None:
        process = subprocess.Popen(
            ["sh", "-euc", f"exec {command}"],
            cwd=self._directory,
            env=self._variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        said = ""
        for line in process.stdout:
            said += line
            if ready.lower() in line.lower():
                break
        else:
            raise AssertionError(said)
        reading = threading.Thread(target=process.stdout.read)  # or it would stall
        reading.start()
        self._servers.append((process, reading))

    def stop(self) -> None:
        for process, reading in reversed(self._servers):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=60)
            reading.join()
            assert process.stdout is not None
            process.stdout.close()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.stop()


@pytest.mark.slow
def test_tutorial(reader: Reader) -> None:
    """The page is complete: nothing is added but ports that are free."""
    text = PAGE.read_text()
    names = {"hcl": "vault.hcl", "yaml": "config.yml"}
    printed = []
    for language, block in re.findall(r"^```(sh|hcl|yaml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language in names:
            assert f"Save this as `{names[language]}`" in text
            reader.save(names[language], block)
            continue
        *before, last = block.splitlines()
        ready = next((said for server, said in SERVERS.items() if last.startswith(server)), None)
        if ready is None:
            printed.append(reader.run(block))
        else:
            reader.run("\n".join([*before, ":"]))
            reader.start(last, ready)
    whole = "".join(printed)
    assert " 0 errors, 2 warnings, " in whole  # of the doctor: relative paths
    dek = json.loads(next(line for line in whole.splitlines() if line.startswith('{"plaintext"')))
    assert dek["ciphertext"]
    assert "my-key" in whole[whole.index("ciphertext") :]  # OpenBao has it
    with pytest.raises(AssertionError, match="not authorized"):
        reader.run("kes key rm my-key")
