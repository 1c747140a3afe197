"""What the requests of a connection have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kes_core.server.wire.app import Message

if TYPE_CHECKING:
    from kes_core.access.sender import ProvenClient
    from kes_native.connection import NativeConnection

__all__ = ["scope_base"]


def scope_base(connection: NativeConnection, client: ProvenClient) -> Message:
    """Return the ASGI scope that all requests of a connection begin with."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "scheme": "https",
        "root_path": "",
        "client": connection.client,
        "server": connection.server,
        "extensions": {"kes.client": client},
    }
