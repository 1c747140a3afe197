"""The listening sockets of the server."""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["ListenError", "Sockets", "address_of", "listen"]

logger = logging.getLogger("kes.server")

BACKLOG: Final = 1024
"""The number of connections that may wait to be accepted."""
_OPTIONS: Final = {
    (socket.IPPROTO_TCP, socket.TCP_NODELAY): 1,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE): 1,
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE): 30,
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL): 15,
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT): 4,
}
"""Send each answer at once: with Nagle's algorithm, the second of two small packets waits up to 40 ms for the client's
acknowledgment of the first. asyncio sets this only for sockets that name their protocol, which accepted ones do not.

Probe a silent client after 30 seconds, then every 15 seconds, four times. A client that reads a log sends nothing
for days: without probes, its connection would stay forever after its machine is gone."""
_PROBE: Final = "probe"
_NOT_LISTENING: Final = "systemd passed a descriptor that is not a listening TCP socket"
_HINTS: Final = {
    errno.EADDRINUSE: "; is another server running there?",
    errno.EACCES: "; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "; the machine has no such address",
}


class ListenError(Exception):
    """The server can't listen on an address. The message names the address and the reason."""


class Sockets:
    """The sockets for the API and for probes."""

    def __init__(self, config: Config, passed: Sequence[tuple[str, int]] = ()) -> None:
        """Take over the listening sockets that were passed to the process, or bind the addresses of `config`.

        Args:
            config: The configuration. It has the addresses for what was not passed.
            passed: The name and the descriptor of each passed socket. One with the name `probe` is for probes, each
                other one for the API.

        Raises:
            ListenError: An address can't be bound, or a descriptor is not a listening TCP socket.
        """
        self.api: list[socket.socket] = []
        self.probes: list[socket.socket] = []
        try:
            for name, descriptor in passed:
                (self.probes if name == _PROBE else self.api).append(_take_over(descriptor))
            _warn_of_other_ports(self.api, "address", config.address)
            self.api = self.api or listen(config.address)
            if config.probe is not None:
                _warn_of_other_ports(self.probes, "probe.address", config.probe.address)
                self.probes = self.probes or listen(config.probe.address)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all sockets."""
        for sock in (*self.api, *self.probes):
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
            return [_set_options(both)]
        found = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)  # noqa: S104 # what the operator configured
        for family, _type, _protocol, _name, target in dict.fromkeys(found):
            sockets.append(_set_options(socket.create_server((target[0], port), family=family, backlog=BACKLOG)))
            port = port or sockets[0].getsockname()[1]
    except OSError as error:
        for sock in sockets:
            sock.close()
        is_gai = isinstance(error, socket.gaierror)
        reason = error.strerror if is_gai or not error.errno else os.strerror(error.errno)
        hint = _HINTS.get(error.errno or 0, "") if not is_gai else ""
        raise ListenError(f"can't listen on {address}: {reason}{hint}") from error
    return sockets


def _take_over(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise ListenError(f"{_NOT_LISTENING}: {error.strerror}") from error
    is_tcp = sock.family in {socket.AF_INET, socket.AF_INET6} and sock.type == socket.SOCK_STREAM
    if not is_tcp or not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        sock.close()
        raise ListenError(f"{_NOT_LISTENING}: set ListenStream=HOST:PORT and Accept=no in its socket unit")
    return _set_options(sock)


def _warn_of_other_ports(sockets: Sequence[socket.socket], field: str, address: str) -> None:
    """Warn if the socket unit and the configuration disagree: the passed sockets win."""
    ports = {sock.getsockname()[1] for sock in sockets}
    if ports and int(address.rpartition(":")[2]) not in ports:
        found = ", ".join(map(address_of, sockets))
        logger.warning("%s: %s is not used: systemd listens on %s for the server", field, address, found)


def _set_options(listener: socket.socket) -> socket.socket:
    """Set the options for `listener`. On Linux, accepted connections inherit them."""
    for (level, option), value in _OPTIONS.items():
        listener.setsockopt(level, option, value)
    return listener


def address_of(sock: socket.socket) -> str:
    """Return the address of `sock` as `host:port`."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
