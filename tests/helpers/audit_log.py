"""Requests and changes for the tests of the audit log."""

from __future__ import annotations

from typing import Any

import yaml

from tests.helpers.server import Server

__all__ = ["HOSTILE", "change"]

HOSTILE = [
    "/v1/key/create/a%0A%7B%22time%22%3A%22forged%22%7D",
    "/v1/key/create/%22%2C%22chain%22%3A%7B%22n%22%3A1%7D",
    "/v1/key/create/%1b%5b2J%07%00",
    "/v1/key/create/%E2%80%A8%C2%85%0D",
    "/v1/key/create/%ff%fe",
    "/v1/key/create/" + "x" * 20_000,
]


def change(server: Server, **sections: Any) -> None:
    """Change sections of the server's configuration file."""
    config = yaml.safe_load(server.config_path.read_text())
    server.config_path.write_text(yaml.safe_dump(config | sections))
