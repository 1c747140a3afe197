"""What the doctor says of the addresses to listen on."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kes_core.doctor import address
from kes_core.doctor.address import examine_addresses
from kes_core.findings import Finding
from tests.helpers.doctor import config


def examine(directory: Path, where: str, probe: str = "") -> list[Finding]:
    probes = {"probe": {"address": probe}} if probe else {}
    return list(examine_addresses(config(directory, address=where, **probes)))


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which a program listens that answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@pytest.mark.parametrize("where", ["127.0.0.1:0", ":0", "0.0.0.0:0", "localhost:0"])
def test_address_that_can_be_used(tmp_path: Path, where: str) -> None:
    (found,) = examine(tmp_path, where)
    assert (found.level, found.message) == ("ok", f"address: the server can listen on {where}")


def test_address_of_another_machine(tmp_path: Path) -> None:
    (found,) = examine(tmp_path, "192.0.2.1:7373")  # for documentation (RFC 5737): no machine has it
    assert (found.level, found.message) == ("error", "address: this machine does not have the address 192.0.2.1")
    assert "ip -brief address" in found.cure


def test_host_that_is_not_known(tmp_path: Path) -> None:
    (found,) = examine(tmp_path, "kes.invalid:7373")  # never a host (RFC 6761)
    assert found.level == "error"
    assert found.message.startswith("address: the host 'kes.invalid' is not known: ")


def test_program_that_does_not_answer(tmp_path: Path, taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be the socket unit of the server, which starts the server at the first connection."""
    monkeypatch.setattr(address, "_PATIENCE", 0.1)
    (found,) = examine(tmp_path, f"127.0.0.1:{taken}")
    assert found.level == "warning"
    assert f"'sport = :{taken}'" in found.cure or f"fuser {taken}/tcp" in found.cure


def test_port_for_probes_in_use(tmp_path: Path, taken: int) -> None:
    ok, found = examine(tmp_path, "127.0.0.1:0", f"127.0.0.1:{taken}")
    assert ok.level == "ok"
    assert (found.level, found.message) == (
        "error",
        f"probe.address: another program listens on 127.0.0.1:{taken}",
    )
