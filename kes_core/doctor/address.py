"""Check the addresses to listen on: that this machine has them, and that no other program uses them."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.findings import Finding
from kes_core.tls import TLSError, load_certificates

if TYPE_CHECKING:
    from kes_core.config import Config

__all__ = ["examine_addresses"]

_SUBJECT: Final = "address"
_PATIENCE: Final = 3.0
"""Seconds that a program on the same machine has for a TLS handshake."""
_LOOPBACK: Final = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
_UNSPECIFIED: Final = frozenset({"0.0.0.0", "::"})  # noqa: S104 # compared only


def examine_addresses(config: Config) -> Iterator[Finding]:
    """Bind the addresses of the configuration for a moment, as the server does. Nothing can connect meanwhile."""
    found = _examine("address", config.address, config)
    yield found
    if config.probe is not None:
        yield _examine("probe.address", config.probe.address, config, server_runs="runs" in found.message)


def _examine(field: str, address: str, config: Config, *, server_runs: bool = False) -> Finding:
    host, _, text = address.rpartition(":")
    host, port = host.strip("[]"), int(text)
    both = not host and socket.has_dualstack_ipv6()
    try:
        passive = socket.AI_PASSIVE
        found = socket.getaddrinfo(host or ("::" if both else "0.0.0.0"), port, type=socket.SOCK_STREAM, flags=passive)  # noqa: S104 # as the server does
    except socket.gaierror as error:
        return Finding.error(
            _SUBJECT,
            f"{field}: the host {host!r} is not known: {error.strerror}",
            f"set {field} to an IP address of this machine, or to 0.0.0.0:{port} for all",
        )
    for family, _type, _protocol, _name, target in dict.fromkeys(found):
        try:
            # Takes the port only until the end of the block, and accepts no connection.
            with socket.socket(family, socket.SOCK_STREAM) as trial:
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    trial.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if both else 1)
                trial.bind((target[0], port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _in_use(field, address, (family, str(target[0]), port), config, server_runs=server_runs)
            return _problem(field, address, error)
    return Finding.ok(_SUBJECT, f"{field}: the server can listen on {address}")


def _problem(field: str, address: str, error: OSError) -> Finding:
    host, _, port = address.rpartition(":")
    if error.errno == errno.EADDRNOTAVAIL:
        return Finding.error(
            _SUBJECT,
            f"{field}: this machine does not have the address {host}",
            f"`ip -brief address` lists the addresses of this machine; 0.0.0.0:{port} means all of them",
        )
    if error.errno == errno.EACCES:
        return Finding.warning(
            _SUBJECT,
            f"{field}: this user may not listen on port {port}: ports below 1024 need the capability "
            "CAP_NET_BIND_SERVICE",
            "give it to the server (AmbientCapabilities= of systemd), or choose a port from 1024 on",
        )
    reason = os.strerror(error.errno) if error.errno else str(error)
    return Finding.error(_SUBJECT, f"{field}: can't listen on {address}: {reason}", f"set another {field}")


def _in_use(field: str, address: str, target: tuple[int, str, int], config: Config, *, server_runs: bool) -> Finding:
    """Find out whether the address is in use by this server, which is well, or by another program."""
    family, host, port = target
    other = f"see which program it is and stop it ({_who(port)}), or set another {field}"
    if field != "address":
        if server_runs:
            return Finding.ok(_SUBJECT, f"{field}: {address} is in use, as the server runs")
        return Finding.error(_SUBJECT, f"{field}: another program listens on {address}", other)
    try:
        presented = _presented((_LOOPBACK[socket.AddressFamily(family)] if host in _UNSPECIFIED else host, port))
    except TimeoutError:
        return Finding.warning(
            _SUBJECT,
            f"{field}: something listens on {address}, and does not answer",
            f"if it is not the socket unit of the server, {other}",
        )
    except OSError:
        return Finding.error(_SUBJECT, f"{field}: another program listens on {address}", other)
    try:
        own = load_certificates(Path(config.tls.cert))[0].public_bytes(Encoding.DER)
    except TLSError:
        own = b""  # which is a finding of its own
    if presented == own:
        return Finding.ok(_SUBJECT, f"{field}: the server runs, and answers on {address} with this certificate")
    return Finding.error(
        _SUBJECT,
        f"{field}: another server listens on {address}: it presents a certificate other than tls.cert",
        f"{other}; if it is this server with an earlier certificate: kill -HUP",
    )


def _who(port: int) -> str:
    return f"ss -ltnp 'sport = :{port}'" if shutil.which("ss") else f"fuser {port}/tcp"


def _presented(address: tuple[str, int]) -> bytes | None:
    """Return the certificate that a program presents in a TLS handshake.

    Raises:
        TimeoutError: It does not answer.
        OSError: It does not speak TLS.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    # The server presents its certificate before it looks at that of the client, which the doctor does not have.
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with socket.create_connection(address, _PATIENCE) as raw, context.wrap_socket(raw) as connection:
        return connection.getpeercert(binary_form=True)
