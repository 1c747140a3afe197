"""The listening sockets of the server."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["ListenError", "Sockets", "address_of", "listen"]

BACKLOG: Final = 1024
"""The number of connections that may wait to be accepted."""
_KEEPALIVE: Final = {
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 30,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}
"""TCP keepalive: seconds until the first probe, seconds between probes, and the number of probes. A client that reads a
log may send nothing for days, so without probes the server would not detect that it is gone."""
_HINTS: Final = {
    errno.EADDRINUSE: "; is another server running there?",
    errno.EACCES: "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; the machine has no such address",
}


class ListenError(Exception):
    """The server can't listen on an address. The message names the address and says why."""


class Sockets:
    """The sockets for the API and for probes."""

    def __init__(self, config: Config) -> None:
        """Bind the addresses of `config`.

        Raises:
            ListenError: An address can't be bound.
        """
        self.api = listen(config.address)
        try:
            self.probes = listen(config.probe.address) if config.probe is not None else []
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self.api, *getattr(self, "probes", ())):
            sock.close()

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of the API as `host:port`."""
        return tuple(address_of(sock) for sock in self.api)


def listen(address: str) -> list[socket.socket]:
    """Bind `host:port`: all addresses of the host, or all addresses of this machine if `host` is empty.

    Raises:
        ListenError: The address can't be bound.
    """
    host, _, text = address.rpartition(":")
    host, port = host.strip("[]"), int(text)
    sockets: list[socket.socket] = []
    try:
        if not host and socket.has_dualstack_ipv6():
            both = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)
            return [_enable_keepalive(both)]
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104 # what the operator configured
        for family, _type, _protocol, _name, target in dict.fromkeys(found):
            sockets.append(_enable_keepalive(socket.create_server((target[0], port), family=family, backlog=BACKLOG)))
            port = port or sockets[0].getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        is_gai = isinstance(error, socket.gaierror)
        reason = error.strerror if is_gai or not error.errno else os.strerror(error.errno)
        hint = _HINTS.get(error.errno or 0, "") if not is_gai else ""
        raise ListenError(f"can't listen on {address}: {reason}{hint}") from error
    return sockets


def _enable_keepalive(listener: socket.socket) -> socket.socket:
    """Enable keepalive for `listener`. On Linux, accepted connections inherit the setting."""
    for (level, option), value in _KEEPALIVE.items():
        listener.setsockopt(level, option, value)
    return listener


def address_of(sock: socket.socket) -> str:
    """Return the address of `sock` as `host:port`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
