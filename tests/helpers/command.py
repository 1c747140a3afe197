"""The command `kes`, run to its end as by a script or by a person at a terminal."""

from __future__ import annotations

import contextlib
import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

from kes_core.cli.main import _run

KES = [sys.executable, "-m", "kes_core.cli"]
PATIENCE = 120
"""Seconds until a command counts as hanging. It takes less than one, but many times that on a busy machine."""


def kes(
    *arguments: str,
    cwd: Path,
    code: int = 0,
    stdin: str = "",
    environment: Mapping[str, str] | None = None,
    noise: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `kes`, and check its exit code and that errors go to standard error alone, where a plugin prints `noise`."""
    clean = {name: value for name, value in os.environ.items() if "KES" not in name}
    done = subprocess.run(
        [*KES, *arguments],
        cwd=cwd,
        env=clean | dict(environment or {}),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return checked(done, code, noise)


def kes_here(
    *arguments: str, cwd: Path, code: int = 0, stdin: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `kes` as `run_here` does, and check it as the function `kes` does."""
    return checked(run_here(*arguments, cwd=cwd, stdin=stdin, environment=environment), code)


def run_here(
    *arguments: str, cwd: Path, stdin: str = "", environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `kes` in this process: for tests with many commands, as a process of its own takes a hundred times as long.

    It is not for a command that changes the process, as `kes server` does once it has read its configuration.
    """
    clean = {name: value for name, value in os.environ.items() if "KES" not in name}
    output, errors = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.TextIOWrapper(io.BytesIO(), "utf-8")
    with (
        contextlib.chdir(cwd),
        mock.patch.dict(os.environ, clean | dict(environment or {}), clear=True),
        mock.patch.object(sys, "argv", ["kes", *arguments]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8")),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        code = _run()
    for stream in (output, errors):
        stream.seek(0)
    return subprocess.CompletedProcess(["kes", *arguments], code, output.read(), errors.read())


def checked(done: subprocess.CompletedProcess[str], code: int, noise: str = "") -> subprocess.CompletedProcess[str]:
    """Check the exit code of a command, and that errors go to standard error alone."""
    assert done.returncode == code, done.stderr
    if code:
        assert done.stdout == ""
        assert "Traceback" not in done.stderr
    else:
        assert done.stderr.strip() == noise
    return done


def on_a_terminal(*arguments: str, cwd: Path, environment: Mapping[str, str] | None = None, code: int = 0) -> str:
    """Run `kes` as a person would, and return what the terminal shows."""
    parent, child = pty.openpty()
    clean = {name: value for name, value in os.environ.items() if "KES" not in name}
    with subprocess.Popen(
        [*KES, *arguments], cwd=cwd, env=clean | dict(environment or {}), stdin=child, stdout=child, stderr=child
    ) as process:
        os.close(child)
        shown = b""
        while True:
            try:
                chunk = os.read(parent, 65536)
            except OSError:  # the program has closed its side
                break
            if not chunk:
                break
            shown += chunk
        os.close(parent)
        assert process.wait(timeout=PATIENCE) == code, shown
    return shown.decode().replace("\r\n", "\n")


def seconds_for(code: str) -> float:
    """Return the shortest time in which a new Python process runs a piece of code."""
    best = 60.0
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
        best = min(best, time.perf_counter() - start)
    return best


def run_kes(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command `kes` to its end, as a script would."""
    return subprocess.run(
        [sys.executable, "-m", "kes_core.cli", *map(str, arguments)],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **environment},
    )
