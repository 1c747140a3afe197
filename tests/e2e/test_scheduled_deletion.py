"""Two real servers on one key store, and a key whose deletion one of them has scheduled."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from kes_core.client import Client, KeyNotFoundError
from tests.helpers.server import Server


def eventually(is_so: Callable[[], bool], *, within: float = 60.0) -> None:
    """Wait until something is so, and fail after some seconds."""
    ends = time.monotonic() + within
    while not is_so():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_one_of_two_servers_deletes_the_key_in_time(run_server: Callable[..., Server], tmp_path: Path) -> None:
    settings = {
        "keystore": {"fs": {"path": str(tmp_path / "keys")}},
        "deletion": {"scheduled": "on", "delay": "1s", "interval": "1s"},
    }
    servers = []
    for number in (1, 2):
        (directory := tmp_path / str(number)).mkdir()
        servers.append(run_server(settings | {"workers": number}, directory=directory))
    one, other = (Client(each.url, api_key=each.admin.api_key, insecure=True) for each in servers)
    with one, other:
        one.create_key("k")
        one.create_key("kept")
        one.rotate_key("k")
        one.schedule_key_deletion("k")
        one.schedule_key_deletion("kept", after=timedelta(days=7))

        def is_gone() -> bool:
            try:
                other.describe_key("k")
            except KeyNotFoundError:
                return True
            return False

        eventually(is_gone)
        eventually(lambda: len(list((tmp_path / "keys").iterdir())) == 2)
        for kms in (one, other):
            assert list(kms.list_keys()) == ["kept"]
            eventually(lambda kms=kms: "kes_keys_scheduled_for_deletion 1.0" in kms.metrics())  # type: ignore[misc]
        other.undelete_key("kept")
        assert other.encrypt("kept", b"text")
    for each in servers:
        each.stop()
    lines = [line for each in servers for line in each.errors]
    assert sum(bool(re.search("key 'k' is deleted, as [0-9a-f]{64} has scheduled it", line)) for line in lines) == 1
