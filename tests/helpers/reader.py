"""Someone who follows a page of the documentation: its commands and its files, in their order."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.helpers.programs import free_port

__all__ = ["Reader"]

PATIENCE = 120


class Reader:
    """Someone who follows the page: in one shell, which keeps its variables, and a terminal for each server."""

    def __init__(self, directory: Path, ports: Sequence[str], programs: Sequence[Path] = ()) -> None:
        """Begin in `directory`. Other ports replace those of the page. `programs` are further folders with programs."""
        self._directory = directory
        self._ports = {port: str(free_port()) for port in ports}
        folders = [Path(sys.executable).parent, *programs]
        # Commands such as `bao login` write into the home directory.
        self._variables = {"PATH": ":".join([*map(str, folders), os.environ["PATH"]]), "HOME": str(directory)}
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
