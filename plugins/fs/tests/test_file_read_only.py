"""A key directory that the server may only read: a secret that Kubernetes mounts, or a directory of another user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.programs import program

IS_ROOT = os.geteuid() == 0
PROGRAM = """
import asyncio, json, logging, os, subprocess, sys
from pathlib import Path
from kes_core import KeyStoreError
from kes_fs.doctor import diagnose
from kes_fs.store import FileKeyStore

SERVER, FS_GROUP = 65532, 65531
path, kind, key_mode = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3], 8)
is_secret = kind == "secret"
if is_secret or os.getuid() == 0:  # in a mount namespace of its own
    mode = "1777" if is_secret else "0750"
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode={mode}", "keys", path], check=True)
if kind == "empty":
    names = []
elif is_secret:  # as kubelet lays it out
    (path / "..2026_11_26").mkdir()
    (path / "..data").symlink_to("..2026_11_26")
    (path / "my-key").symlink_to("..data/my-key")
    names = ["..2026_11_26/my-key"]
else:
    names = ["my-key"]
for name in names:
    (path / name).write_bytes(b"value")
    (path / name).chmod(key_mode)
if is_secret:
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)
else:
    path.chmod(0o550)
if Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"] and os.getuid() == 0:
    for each in (path, *(path / name for name in names)) if not is_secret else ():
        os.chown(each, 0, FS_GROUP)
    os.setgroups([0, FS_GROUP])
    os.setresgid(SERVER, SERVER, SERVER)
    os.setresuid(SERVER, SERVER, SERVER)
warnings = []
logging.getLogger("kes.fs").addFilter(lambda record: warnings.append(record.getMessage()))

async def outcome(call):
    try:
        return await call
    except KeyStoreError as error:
        return f"{type(error).__name__}: {error}"

async def run():
    found = [[each.level, each.message] for each in await diagnose(path)]
    store = await outcome(FileKeyStore.open(path))
    if isinstance(store, str):
        return {"start": store, "doctor": found}
    async with asyncio.timeout(60):
        return {
            "warnings": warnings,
            "doctor": found,
            "status": await outcome(store.status()),
            "list": (await store.list()).names,
            "get": (await store.get("my-key")).decode(),
            "absent": await outcome(store.get("absent")),
            "create again": await outcome(store.create("my-key", b"x")),
            "create": await outcome(store.create("new", b"x")),
            "delete": await outcome(store.delete("my-key")),
        }

print(json.dumps(asyncio.run(run())))
"""


def own_mounts() -> list[str]:
    """Return a command that runs another one with mounts of its own. Some systems do not let ordinary users do that."""
    user = [] if IS_ROOT else ["--user", "--map-root-user"]
    command = [program("unshare", "util-linux"), *user, "--mount"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0 and not os.environ.get("CI"):
        pytest.skip(f"this user can't mount anything: {tried.stderr.strip()}")
    return command


def run(kind: str, key_mode: int, directory: Path) -> tuple[str, dict[str, Any]]:
    """Make a directory of keys that this user may only read, use it, and return its path and what happened."""
    command = [sys.executable, "-c", PROGRAM]
    if kind == "secret" or IS_ROOT:
        path = Path("/mnt")
        command = [*own_mounts(), *command]
    else:
        path = directory / "keys"
        path.mkdir()
    done = subprocess.run(
        [*command, str(path), kind, f"{key_mode:o}"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome: dict[str, Any] = json.loads(done.stdout)
    return str(path), outcome


@pytest.mark.root
@pytest.mark.parametrize("kind", ["secret", "mode"])
def test_server_serves_the_keys_that_are_there(kind: str, tmp_path: Path) -> None:
    path, outcome = run(kind, 0o440, tmp_path)
    reason = "Read-only file system" if kind == "secret" else "Permission denied"
    link = "is a symbolic link: remove it and the file that it points to where they are managed"
    kept = f"'{path}/my-key' {link}" if kind == "secret" else f"can't delete key 'my-key' in '{path}': {reason}"
    assert outcome == {
        "warnings": [f"the server may only read the key directory '{path}': it can't create or delete keys"],
        "doctor": [
            [
                "note",
                f"the directory '{path}' can be read, and holds 1 key; the server can't create or delete keys there",
            ]
        ],
        "status": None,
        "list": ["my-key"],
        "get": "value",
        "absent": "EntryNotFoundError: key 'absent' does not exist",
        "create again": "EntryExistsError: key 'my-key' already exists",  # as `keys` of the configuration expects it
        "create": f"KeyStoreError: can't create key 'new' in '{path}': {reason}",
        "delete": f"KeyStoreError: {kept}",
    }


EXPOSED = (
    "others can read or change the key '{path}/my-key' (mode 0444): chmod 0700 {path} and chmod 0600 its files; for a "
    "secret of Kubernetes set its defaultMode to 0440, and fsGroup"
)


@pytest.mark.root
@pytest.mark.parametrize(
    ("kind", "mode", "message"),
    [
        ("secret", 0o444, EXPOSED),
        ("mode", 0o000, "the server may not read the key '{path}/my-key'"),
        ("empty", 0, "the server may not write into the key directory '{path}', and there is no key in it"),
    ],
    ids=["exposed", "unreadable", "empty"],
)
def test_server_does_not_start(kind: str, mode: int, message: str, tmp_path: Path) -> None:
    path, outcome = run(kind, mode, tmp_path)
    text = message.format(path=path)
    assert outcome == {"start": f"KeyStoreError: {text}", "doctor": [["error", text]]}
