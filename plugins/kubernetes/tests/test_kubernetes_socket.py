"""The socket: where it may be, who may use it, and how it appears and disappears."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kes_core import FrontendError
from kes_kubernetes import KMSConfig
from kes_kubernetes.sockets import Place
from tests.helpers.kms import IDENTITY, Running, connected

Run = Callable[..., Any]
FIELDS = {"socket": "s", "key": "my-key", "identity": IDENTITY}


def refused(directory: Path, **fields: str) -> str:
    """Start a front end that can't start; return why. It leaves nothing behind."""
    before = sorted(directory.rglob("*"))
    running = Running(KMSConfig.model_validate(FIELDS | fields), directory)
    try:
        with pytest.raises(FrontendError) as caught:
            running.run(running.frontend.start())
        running.run(running.frontend.stop())
    finally:
        running.end()
    assert sorted(directory.rglob("*")) == before
    return str(caught.value)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def test_only_the_owner_may_connect(run_frontend: Run) -> None:
    before = os.umask(0)
    try:
        with run_frontend() as (running, _client):
            assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600
            assert [path.name for path in running.socket.parent.iterdir()] == ["s"], "the private directory is gone"
        assert not running.socket.exists()
    finally:
        os.umask(before)


def test_group_and_mode_of_the_configuration(run_frontend: Run) -> None:
    group = grp.getgrgid(os.getgroups()[-1] if os.getgroups() else os.getegid())
    with run_frontend(socket="new/s", mode="0660", group=group.gr_name) as (running, client):
        status, directory = running.socket.stat(), running.socket.parent.stat()
        assert (stat.S_IMODE(status.st_mode), status.st_gid) == (0o660, group.gr_gid)
        assert (stat.S_IMODE(directory.st_mode), directory.st_gid) == (0o750, group.gr_gid)
        assert client.status().healthz == "ok"


def test_missing_directory_is_made_for_the_server_alone(run_frontend: Run) -> None:
    with run_frontend(socket="new/s") as (running, _client):
        assert stat.S_IMODE(running.socket.parent.stat().st_mode) == 0o700


def test_socket_never_has_another_mode(directory: Path) -> None:
    """While front ends start and stop, whoever looks sees no socket, or one with its mode."""
    seen: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError):
                seen.add(stat.S_IMODE((directory / "s").stat().st_mode))
            for private in directory.glob(".kes-*"):
                with contextlib.suppress(OSError):
                    seen.add(stat.S_IMODE(private.stat().st_mode))

    before = os.umask(0)
    thread = threading.Thread(target=look)
    thread.start()
    try:
        for _ in range(5):
            running = Running(KMSConfig.model_validate(FIELDS), directory)
            running.run(running.frontend.start())
            running.run(running.frontend.stop())
            running.end()
    finally:
        done.set()
        thread.join()
        os.umask(before)
    assert seen <= {0o600, 0o700}


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_directory_into_which_others_write_is_refused(mode: int, directory: Path) -> None:
    directory.chmod(mode)
    assert refused(directory).startswith(
        f"others can replace the socket in '{directory}' (mode {mode:04o}): chmod go-w"
    )


def test_directory_that_is_missing_or_none_is_refused(directory: Path) -> None:
    assert (
        refused(directory, socket="a/b/s") == f"the directory '{directory}/a/b' of the socket does not exist: create it"
    )
    (directory / "file").touch()
    assert refused(directory, socket="file/s") == f"'{directory}/file' is not a directory, so it can't hold the socket"


def test_file_at_the_path_is_kept(directory: Path) -> None:
    (directory / "s").write_text("of somebody")
    assert refused(directory) == f"'{directory}/s' is not a socket: remove it, or use another path"
    assert (directory / "s").read_text() == "of somebody"


def test_socket_on_which_another_process_listens_is_kept(directory: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "s"))
        other.listen()
        assert refused(directory).startswith(f"another process listens on '{directory}/s'")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(directory / "s"))


def test_socket_of_a_server_that_was_killed_is_replaced(directory: Path, run_frontend: Run) -> None:
    code = "import os, socket, sys; s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os._exit(9)"
    subprocess.run([sys.executable, "-c", code, str(directory / "s")], check=False)
    assert stat.S_ISSOCK((directory / "s").stat().st_mode)
    with run_frontend() as (_running, client):
        assert client.status().healthz == "ok"


def test_newer_front_end_takes_over_the_path(run_frontend: Run, directory: Path) -> None:
    """As at a reload: the new one starts before the old one stops, and the path always has a socket."""
    with run_frontend(key="old") as (old, client_of_old):
        new = Running(KMSConfig.model_validate(FIELDS | {"key": "new"}), directory)
        assert client_of_old.status().healthz == "ok"
        new.run(new.frontend.start())
        assert client_of_old.status().key_id.startswith("old/"), "it still serves connected clients"
        old.run(old.frontend.stop())
        with connected(new.socket) as client:
            assert client.status().key_id.startswith("new/")
        new.run(new.frontend.stop())
        new.end()
    assert not list(directory.iterdir())


def test_path_may_have_any_characters_but_not_any_length(run_frontend: Run, directory: Path) -> None:
    longest = "%41?#ü"
    longest += "d" * (90 - len(str(directory)) - len(longest.encode()))
    with run_frontend(socket=f"{longest}/s") as (_running, client):
        assert client.status().healthz == "ok"
    with pytest.raises(FrontendError, match=r"the directory of the socket '.*' has more than 91 bytes"):
        Place.find(directory / f"{longest}d" / "s", "0600", "", "")


def test_accounts_that_do_not_exist(directory: Path) -> None:
    with pytest.raises(FrontendError, match="there is no user 'nobody-like-this'"):
        Place.find(directory / "s", "0600", "nobody-like-this", "")
    with pytest.raises(FrontendError, match="there is no group 'nobody-like-this'"):
        Place.find(directory / "s", "0600", "", "nobody-like-this")
    assert Place.find(directory / "s", "0660", "12", "34") == Place(directory / "s", 0o660, 12, 34)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a socket away")
def test_owner_of_the_configuration(run_frontend: Run) -> None:
    for _ in range(2):  # the second time, the socket of the first one is in its place
        with run_frontend(owner="12345", group="54321", mode="0660") as (running, _client):
            status = running.socket.stat()
            assert (status.st_uid, status.st_gid) == (12345, 54321)


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() == 0, reason="root may give a socket away")
def test_owner_that_only_root_could_set(directory: Path) -> None:
    assert refused(directory, owner="0") == f"the socket '{directory}/s' can't be made: operation not permitted"
