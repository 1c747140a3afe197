"""What `kes doctor` and `kes kubernetes check` find out about the plugin."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from kes_core import Finding, FindingLevel, KeyStoreReason, KeysUnavailableError, PluginContext, UnusableKeyError
from kes_kubernetes import KMSConfig
from kes_kubernetes.cli import command
from kes_kubernetes.doctor import diagnose
from tests.helpers.kms import IDENTITY

Run = Callable[..., Any]


def examine(directory: Path, **fields: str) -> list[Finding]:
    config = KMSConfig.model_validate({"socket": "s", "key": "my-key", "identity": IDENTITY} | fields)
    return list(asyncio.run(diagnose(config, PluginContext(directory=directory))))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


def check(path: Path, *options: str) -> tuple[int, str]:
    done = CliRunner().invoke(command, ["check", *options, str(path)])
    return done.exit_code, done.output


def test_plugin_that_works(run_frontend: Run, directory: Path) -> None:
    with run_frontend() as (_running, client):
        key_id = client.status().key_id
        place, answer = examine(directory)
        assert place.level is answer.level is FindingLevel.OK
        assert answer.message == f"the plugin encrypts and decrypts; its key_id is {key_id}"
        code, printed = check(directory / "s")
        assert (code, printed.splitlines()[:2]) == (0, ["health  ok", f"key_id  {key_id}"])
        facts = json.loads(check(directory / "s", "--json")[1])
        assert (facts["health"], facts["key_id"], facts["size"]) == ("ok", key_id, 76)


def test_plugin_that_is_not_healthy(run_frontend: Run, directory: Path) -> None:
    with run_frontend() as (running, _client):
        running.keys.fault = UnusableKeyError("key is disabled")
        text = "Status failed: FAILED_PRECONDITION: key 'my-key': key is disabled"
        assert examine(directory)[-1].level is FindingLevel.ERROR
        assert examine(directory)[-1].message == text
        assert check(directory / "s") == (1, f"Error: {directory}/s: {text}\n")


def test_outage(run_frontend: Run, directory: Path) -> None:
    with run_frontend() as (running, client):
        client.status()
        running.keys.fault = KeysUnavailableError("failed to read key", reason=KeyStoreReason.UNREACHABLE)
        found = examine(directory)[-1]
        assert (found.level, found.message) == (
            FindingLevel.ERROR,
            "Encrypt failed: UNAVAILABLE: key 'my-key': failed to read key (unreachable)",
        )


def test_nobody_listens(directory: Path) -> None:
    assert examine(directory)[-1].message == "no server listens on the socket now"
    assert check(directory / "s") == (1, f"Error: {directory}/s: no plugin answers\n")
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(directory / "s"))  # and does not listen
    assert examine(directory)[-1].message == "no server listens on the socket now"
    assert check(directory / "s") == (1, f"Error: {directory}/s: no plugin answers\n")


def test_places(directory: Path) -> None:
    (found,) = examine(directory, socket="new/s")
    assert (found.level, found.message) == (
        FindingLevel.NOTE,
        f"the server will create the directory '{directory}/new'",
    )
    assert not (directory / "new").exists()
    (found,) = examine(directory, socket="far/away/s")
    assert found.level is FindingLevel.ERROR
    (found,) = examine(directory, group="no-such-group")
    assert found.message == "the group of the socket does not exist: there is no group 'no-such-group'"
    group = str(os.getegid())
    levels = [found.level for found in examine(directory, group=group, mode="0660")]
    assert levels == [FindingLevel.OK, FindingLevel.WARNING, FindingLevel.NOTE], "the group may not enter the directory"
    directory.chmod(0o750)
    assert [found.level for found in examine(directory, group=group, mode="0660")][1] is FindingLevel.NOTE
