"""`kes backup` on real key stores: files and OpenBao."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import yaml

from kes_backup.cli import command
from kes_backup.secrets import make_identity
from kes_core.cli.main import CLIError
from kes_core.keys.stored import KeyVersion
from tests.helpers.backups import NAMES, RECORDED, RECORDED_PASSPHRASE, entries, filled
from tests.helpers.command import KES
from tests.helpers.documents import blocks
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.programs import program
from tests.helpers.server import write_config

STORED = "CiQKI"
"""How each stored key begins."""
PASSPHRASE = "correct horse battery staple"
CLEAN = {name: value for name, value in os.environ.items() if "KES" not in name}


def config(path: Path, keystore: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump({"keystore": keystore}))
    return path


def in_files(directory: Path, name: str, values: dict[str, bytes] | None = None) -> Path:
    """A key store in files: its configuration."""
    folder = directory / name
    folder.mkdir(mode=0o700)
    for entry, value in (values or {}).items():
        (folder / entry).write_bytes(value)
        (folder / entry).chmod(0o600)
    return config(directory / f"{name}.yml", {"fs": {"path": str(folder)}})


def stored(directory: Path, name: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (directory / name).iterdir()}


def kes(name: str, *arguments: str | Path, code: int = 0, **environment: str) -> tuple[dict[str, Any], str]:
    """Run `kes backup NAME` in this process, as without a terminal; return what it prints with --json, and errors."""
    output, errors, done = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch("sys.stdin", io.StringIO()),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        try:
            done = command.commands[name].main([*map(str, arguments)], prog_name=name, standalone_mode=False) or 0
        except click.UsageError as error:
            error.show()
            done = 2
        except (CLIError, OSError) as error:
            click.echo(f"Error: {error}", err=True)
            done = 1
    assert done == code, output.getvalue() + errors.getvalue()
    assert "AGE-SECRET" not in output.getvalue() + errors.getvalue()
    assert STORED not in output.getvalue() + errors.getvalue()
    return json.loads(output.getvalue()) if output.getvalue().startswith("{") else {}, errors.getvalue()


@pytest.fixture(scope="module")
def identity(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An identity in a file, and its recipient."""
    path = tmp_path_factory.mktemp("identity") / "offline.key"
    return path, make_identity(path)


@pytest.fixture(scope="module")
def source() -> dict[str, bytes]:
    """The entries of a key store with keys of all kinds."""
    return entries(filled())


def test_for_recipients_from_files_to_files(
    tmp_path: Path, source: dict[str, bytes], identity: tuple[Path, str]
) -> None:
    path, recipient = identity
    made, target, file = in_files(tmp_path, "source", source), in_files(tmp_path, "target"), tmp_path / "keys.backup"
    summary, _ = kes("create", "--config", made, "--recipient", recipient, "--json", file)
    assert (summary["keys"], summary["entries"], summary["failures"]) == (6, len(source), {})
    assert summary["bytes"] == file.stat().st_size
    assert file.stat().st_mode & 0o777 == 0o600
    summary, _ = kes("verify", "--identity", path, "--json", file)
    assert (summary["store"], summary["keys"], summary["versions"]) == ("fs", 6, 11)
    assert (summary["disabled"], summary["scheduled_for_deletion"]) == (1, 1)
    (tmp_path / "target" / "a1").write_bytes(KeyVersion.generate("me").encode())
    (tmp_path / "target" / "a1").chmod(0o600)
    before = stored(tmp_path, "target")
    restore = ("restore", "--config", target, "--identity", path, "--json")
    summary, errors = kes(*restore, "--dry-run", file, code=1)
    assert (summary["dry_run"], summary["copied"], summary["failed"]) == (True, 5, 1)
    assert stored(tmp_path, "target") == before
    summary, errors = kes(*restore, file, code=1)
    assert (summary["copied"], summary["failures"]) == (5, {"a1": "the target has another key of that name"})
    assert "Warning: 1 keys were scheduled for deletion at a time that is over" in errors
    assert stored(tmp_path, "target") == source | before
    (tmp_path / "target" / "a1").unlink()
    summary, _ = kes(*restore, file)
    assert (summary["identical"], summary["copied"], summary["failed"]) == (5, 1, 0)
    assert stored(tmp_path, "target") == source
    _, errors = kes("create", "--config", made, "--recipient", recipient, file, code=1)
    assert errors == f"Error: {file} exists: a backup never overwrites a file\n"


@pytest.mark.slow
def test_for_a_passphrase_and_what_is_wrong(
    tmp_path: Path, source: dict[str, bytes], identity: tuple[Path, str]
) -> None:
    made, file, path = in_files(tmp_path, "source", source), tmp_path / "keys.backup", tmp_path / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    kes("create", "--config", made, "--passphrase-file", path, file, "a*")
    for arguments, environment, message in (
        ([], {}, "no passphrase: name a file with --passphrase-file, set KES_BACKUP_PASSPHRASE, or run the command on"),
        ([], {"KES_BACKUP_PASSPHRASE": "another one here"}, "the passphrase is wrong, or the beginning of the backup"),
        (["--identity", identity[0]], {}, f"{file} is encrypted to a passphrase: leave out --identity"),
    ):
        _, errors = kes("verify", *arguments, file, code=1, **environment)
        assert errors.startswith(f"Error: {message}")
        assert errors.count("\n") == 1
    target = in_files(tmp_path, "target")
    data = file.read_bytes()
    file.write_bytes(data[:-10])
    _, errors = kes("restore", "--config", target, "--passphrase-file", path, file, code=1)
    assert errors == "Error: the file is damaged or incomplete: its encryption does not verify\n"
    assert stored(tmp_path, "target") == {}
    file.write_bytes(data)
    kes("restore", "--config", target, file, KES_BACKUP_PASSPHRASE=PASSPHRASE)
    assert stored(tmp_path, "target") == {name: value for name, value in source.items() if name.startswith("a")}


def test_usage(tmp_path: Path, source: dict[str, bytes], identity: tuple[Path, str]) -> None:
    path, recipient = identity
    empty, made, file = in_files(tmp_path, "empty"), in_files(tmp_path, "source", source), tmp_path / "keys.backup"
    to = ("--recipient", recipient)
    _, errors = kes("create", "--config", empty, *to, file, code=1)
    assert errors.startswith("Error: the key store has no key that matches '*' and can be read: nothing was written")
    _, errors = kes("create", "--config", made, *to, "--passphrase-file", path, file, code=2)
    assert "A backup is encrypted to recipients or to a passphrase, not to both." in errors
    _, errors = kes("create", "--config", made, *to, file, "../*", code=2)
    assert "is neither a name nor the beginning of names and a *." in errors
    assert not file.exists()
    (tmp_path / "source" / "broken").write_bytes(b"no key")
    (tmp_path / "source" / "broken").chmod(0o600)
    _, errors = kes("create", "--config", made, *to, file, code=1)
    assert errors.startswith("1 keys are not in it:\n  broken: the source's entry is not a key: ")
    _, errors = kes("verify", file, code=1)
    assert errors == f"Error: {file} is encrypted to recipients: name the file of an identity with --identity\n"
    memory = config(tmp_path / "memory.yml", {"memory": {}})
    _, errors = kes("restore", "--config", memory, "--identity", path, file, code=1)
    assert "keys in the key store 'memory' would be gone at the end" in errors
    _, errors = kes("restore", "--config", made, "--identity", path, file, "b*", code=1)
    assert errors == "Error: the backup has no key that matches 'b*'\n"
    _, errors = kes("verify", "--identity", path, tmp_path / "none", code=1)
    assert "No such file or directory" in errors


def test_what_a_person_sees(tmp_path: Path, source: dict[str, bytes]) -> None:
    """The passphrase is typed twice, and not shown."""
    made, file = in_files(tmp_path, "source", source), tmp_path / "keys.backup"
    shown = typed([*KES, "backup", "create", "--config", str(made), str(file)], PASSPHRASE, PASSPHRASE, cwd=tmp_path)
    assert PASSPHRASE not in shown
    assert f"{file}: 6 keys, {len(source)} entries, {file.stat().st_size} bytes (" in shown


def test_what_verify_says(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KES_BACKUP_PASSPHRASE", RECORDED_PASSPHRASE)
    command.commands["verify"].main([str(RECORDED)], prog_name="verify", standalone_mode=False)
    first, *others = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{RECORDED}: made by kes-backup 0.1.0 at 2026-")
    assert first.endswith("Z from the key store 'memory'")
    assert others == [
        "6 keys, 13 entries, 11 versions, 1 disabled, 1 scheduled for deletion",
        "The backup is complete, and each key can be used.",
    ]


def typed(command: Sequence[str], *lines: str, cwd: Path) -> str:
    """Run a command in a session of its own, type a line at each question, and return what its terminal shows."""
    parent, child = pty.openpty()
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=CLEAN | {"COLUMNS": "200"},
        stdin=child,
        stdout=child,
        stderr=child,
        start_new_session=True,
    ) as process:
        os.close(child)
        shown, waiting = b"", list(lines)
        while True:
            try:
                data = os.read(parent, 65536)
            except OSError:  # the program has closed its side
                break
            shown += data
            if waiting and shown.rstrip(b" ").endswith(b":"):
                os.write(parent, waiting.pop(0).encode() + b"\n")
        os.close(parent)
        assert process.wait(timeout=120) == 0, shown
    return shown.decode().replace("\r\n", "\n")


def many(directory: Path, count: int) -> tuple[Path, dict[str, bytes]]:
    key = KeyVersion.generate("me").encode()
    values = {f"key-{number:05}": key for number in range(count)}
    return in_files(directory, "source", values), values


PAUSING = """
import asyncio
import sys

from kes_core.cli import main
from kes_fs.store import FileKeyStore

method, calls = sys.argv.pop(1), int(sys.argv.pop(1))
original = getattr(FileKeyStore, method)

async def call(*arguments):
    global calls
    if calls == 0:
        print("paused", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    calls -= 1
    return await original(*arguments)

setattr(FileKeyStore, method, call)
main()
"""
"""`kes`, whose key store in files waits for a line after some calls of a method: a test can end it in the middle."""


@contextlib.contextmanager
def paused(method: str, calls: int, *arguments: str | Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", PAUSING, method, str(calls), "backup", *map(str, arguments)]
    with subprocess.Popen(
        command, env=CLEAN, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"paused\n"
            yield process
        finally:
            process.kill()


def test_killed_while_it_writes(tmp_path: Path, identity: tuple[Path, str]) -> None:
    """No file has the name of the backup, and what is left is not one."""
    made, _ = many(tmp_path, 1200)
    file = tmp_path / "keys.backup"
    with paused("get", 1150, "create", "--config", made, "--recipient", identity[1], file) as process:
        limits = Path(f"/proc/{process.pid}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)  # a core dump would hold keys
    assert not file.exists()
    (partial,) = tmp_path.glob(".*.partial")
    assert partial.stat().st_mode & 0o777 == 0o600
    assert partial.stat().st_size > 50_000
    _, text = kes("verify", "--identity", identity[0], partial, code=1)
    assert text == "Error: the file is damaged or incomplete: its encryption does not verify\n"


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_restoration_killed_in_the_middle_and_started_again(
    tmp_path: Path, identity: tuple[Path, str], number: signal.Signals
) -> None:
    made, values = many(tmp_path, 100)
    target, file = in_files(tmp_path, "target"), tmp_path / "keys.backup"
    kes("create", "--config", made, "--recipient", identity[1], file)
    restore = ("restore", "--config", target, "--identity", identity[0], "--json", file)
    with paused("create", 50, *restore) as process:
        process.send_signal(number)
        _, errors = process.communicate(b"\n", timeout=60)
    if number is signal.SIGTERM:
        assert errors.endswith(b"Error: interrupted; run the same command again to go on from here\n")
    done = len(list((tmp_path / "target").glob("key-*")))
    assert 0 < done < 100
    summary, _ = kes(*restore)
    assert (summary["identical"], summary["copied"], summary["failed"]) == (done, 100 - done, 0)
    assert stored(tmp_path, "target") == values


def test_rest_of_a_damaged_file_is_restored_on_request(tmp_path: Path, identity: tuple[Path, str]) -> None:
    made, values = many(tmp_path, 600)
    target, file = in_files(tmp_path, "target"), tmp_path / "keys.backup"
    kes("create", "--config", made, "--recipient", identity[1], file)
    file.write_bytes(file.read_bytes()[:100_000])
    restore = ("restore", "--config", target, "--identity", identity[0], "--json")
    problem = "Error: the file is damaged or incomplete: its encryption does not verify"
    summary, errors = kes(*restore, file, code=1)
    assert (summary, errors) == ({}, f"{problem}\n")
    summary, errors = kes(*restore, "--damaged", file, code=1)
    assert errors == f"{problem}; only the keys before the damage were read\n"
    assert summary["keys"] == summary["copied"] == len(stored(tmp_path, "target")) > 300
    assert stored(tmp_path, "target").items() <= values.items()
    file.write_bytes(file.read_bytes()[:400])
    summary, errors = kes(*restore, "--damaged", file, code=1)
    assert (summary, errors) == ({}, f"{problem}\n")


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao.running(tmp_path_factory.mktemp("openbao")) as server:
        yield server


@pytest.mark.parametrize("version", [pytest.param("v1", marks=pytest.mark.slow), "v2"])
def test_to_vault_and_back(
    tmp_path: Path, source: dict[str, bytes], identity: tuple[Path, str], bao: OpenBao, version: str
) -> None:
    """With the policy of the guide, and the entries of versions."""
    policy = 'path "{engine}/*" {{ capabilities = ["create", "read", "update", "delete", "list"] }}'
    vault = config(tmp_path / "vault.yml", {"vault": Tenant(bao, version, policy).section()})
    made, target = in_files(tmp_path, "source", source), in_files(tmp_path, "target")
    first, second = tmp_path / "first.backup", tmp_path / "second.backup"
    kes("create", "--config", made, "--recipient", identity[1], first)
    summary, _ = kes("restore", "--config", vault, "--identity", identity[0], "--json", first)
    assert (summary["copied"], summary["failures"]) == (6, {})
    summary, _ = kes("create", "--config", vault, "--recipient", identity[1], "--json", second)
    assert (summary["keys"], summary["entries"]) == (6, len(source))
    kes("restore", "--config", target, "--identity", identity[0], second)
    assert stored(tmp_path, "target") == source


def test_disaster_recovery_of_the_page(tmp_path: Path) -> None:
    """The five commands, as they are on the page."""
    before, after = blocks("docs/backup.md", "sh")[:2]
    assert len((before + after).splitlines()) == 5
    write_config(tmp_path, "disabled", {"keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    (tmp_path / "config.yml").rename(tmp_path / "server.yml")
    text = (tmp_path / "server.yml").read_text()
    (tmp_path / "new-server.yml").write_text(text.replace(str(tmp_path / "keys"), str(tmp_path / "new-keys")))
    old = in_files(tmp_path, "keys", values := {f"key-{n}": KeyVersion.generate("me").encode() for n in range(3)})
    old.unlink()
    shell = f'set -e\nkes() {{ {" ".join(KES)} "$@"; }}\n'
    for commands in (before, "mv keys burnt\n", after):
        done = subprocess.run(
            ["sh", "-c", shell + commands], cwd=tmp_path, env=CLEAN, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert stored(tmp_path, "new-keys") == values


@pytest.mark.slow
def test_age_opens_both_kinds_as_the_page_says(
    tmp_path: Path, source: dict[str, bytes], identity: tuple[Path, str]
) -> None:
    """With Debian's age, which knows nothing of this project."""
    program("age", "age")
    (tmp_path / "offline.key").write_bytes(identity[0].read_bytes())
    made, file = in_files(tmp_path, "source", source), tmp_path / "keys.backup"
    for_recipients, for_passphrase = blocks("docs/backup.md", "sh")[2:4]
    kes("create", "--config", made, "--recipient", identity[1], file)
    done = subprocess.run(["sh", "-ec", for_recipients], cwd=tmp_path, capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["name"] for line in lines[1:-1] if not line["name"].endswith("-")] == NAMES
    file.unlink()
    kes("create", "--config", made, file, KES_BACKUP_PASSPHRASE=PASSPHRASE)
    output = typed(["sh", "-ec", for_passphrase], PASSPHRASE, cwd=tmp_path)
    assert output.count('{"name":') == len(source)
