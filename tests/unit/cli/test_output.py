"""The output of `kes`: a standard output that fails or is closed, and completion in the shell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.command import KES


def run(arguments: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    # Buffered, as by default: data left in the buffer must not cause a second error at the end.
    clean = {name: value for name, value in os.environ.items() if "KES" not in name and name != "PYTHONUNBUFFERED"}
    return subprocess.run(
        [*KES, *arguments], env=clean, stderr=subprocess.PIPE, text=True, timeout=120, check=False, **options
    )


@pytest.mark.parametrize("arguments", [["identity"], ["--help"], ["--version"]])
def test_output_that_can_not_be_written_is_an_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = run(arguments, stdout=full)
    assert (done.returncode, done.stderr) == (1, "Error: [Errno 28] No space left on device\n")


def test_a_reader_that_has_read_enough_is_no_error_message() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(["identity"], stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


def test_without_standard_output_nothing_breaks() -> None:
    command = f'exec "{sys.executable}" -m kes_core.cli identity >&-'
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def complete(words: str, position: int) -> list[str]:
    code = "import sys; sys.argv = ['kes']; from kes_core.cli import main; main()"
    environment = {"_KES_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_the_shell_completes_commands() -> None:
    assert complete("kes s", 1) == ["server", "status"]
    assert complete("kes key dec", 2) == ["decrypt"]
    assert "--insecure" in complete("kes key dek --", 3)


def test_json_does_without_what_only_people_need() -> None:
    """For a program, a command must not import `rich`, which takes longer than the whole command may."""
    code = (
        "import sys\nfrom kes_core.cli._common import connected\n"
        "from kes_core.identity import APIKey\n"
        "with connected('127.0.0.1:1', str(APIKey.generate()), 'list keys', insecure=False):\n    pass\n"
        "found = {'rich', 'pygments', 'tenacity', 'asyncio'} & set(sys.modules)\nassert not found, found\n"
        "import httpx._main\n"  # the command line of httpx can be imported again
    )
    subprocess.run([sys.executable, "-c", code], check=True)
