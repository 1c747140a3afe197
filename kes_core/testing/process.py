"""A real server for the tests of a plugin: a process of its own, with mutual TLS and a client that is ready."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.client import Client
from kes_core.identity import APIKey, make_certificate, private_key_pem

__all__ = ["RunningServer"]

_START_TIME: Final = 60.0
"""Seconds that the server has to start or to reload."""
_STOP_TIME: Final = 40.0
_LISTENING: Final = re.compile(r"listening on (https://127\.0\.0\.1:\d+)")


class RunningServer:
    """A server process on 127.0.0.1, on a free port. The fixture `kes_server` starts and stops it."""

    def __init__(
        self, directory: Path, sections: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        """Start a server and wait until it answers.

        Args:
            directory: The directory for its configuration file, key and certificate.
            sections: Sections of the configuration: `{"keystore": {"my-store": {...}}}`. Address, admin and TLS are set
                here; without `keystore`, keys stay in memory.
            environment: Further environment variables.

        Raises:
            RuntimeError: The server does not start. The message is its log.
        """
        self.directory = directory
        self.log: list[str] = []
        """The lines of its log until now."""
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._api_key = APIKey.generate()
        self._write_certificate()
        self._config = directory / "config.yml"
        self.configure(sections)
        self._process = subprocess.Popen(  # noqa: S603 # our own command
            [sys.executable, "-m", "kes_core.cli", "server", "--config", str(self._config)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(environment or {})},
            cwd=directory,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        try:
            found = _LISTENING.search(self.wait_for_log("listening on https://"))
        except TimeoutError:
            self.stop()
            raise RuntimeError("the server does not start:\n" + "\n".join(self.log)) from None
        assert found is not None
        self.url = found[1]
        """The URL of the server."""

    def client(self, api_key: str | APIKey | None = None) -> Client:
        """Return a client: the admin's, or that of another API key. Use it in a `with` statement."""
        return Client(self.url, api_key=api_key or self._api_key, ca=self.directory / "server.crt")

    def configure(self, sections: Mapping[str, Any]) -> None:
        """Write other sections into the configuration file. `reload` lets the server use them."""
        fixed = {
            "address": "127.0.0.1:0",
            "admin": {"identity": self._api_key.identity},
            "tls": {"key": str(self.directory / "server.key"), "cert": str(self.directory / "server.crt")},
        }
        self._config.write_text(json.dumps({"keystore": {"memory": {}}, **fixed, **sections}))  # JSON is YAML

    def reload(self) -> None:
        """Let the server read its configuration again.

        Raises:
            RuntimeError: It can't use it; the message says why.
        """
        self._process.send_signal(signal.SIGHUP)
        line = self.wait_for_log("the configuration is")
        if "not reloaded" in line:
            raise RuntimeError(line)

    def wait_for_log(self, text: str, seconds: float = _START_TIME) -> str:
        """Return the next line of the log that contains `text`.

        Raises:
            TimeoutError: There is none within `seconds`, or the server ended.
        """
        try:
            while (line := self._lines.get(timeout=seconds)) is not None:
                if text in line:
                    return line
        except queue.Empty:
            pass
        raise TimeoutError(f"the log has no line with {text!r}")

    def stop(self) -> int:
        """Stop the server as an operator does; return its exit code."""
        self._process.terminate()
        try:
            code = self._process.wait(_STOP_TIME)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        self._thread.join(_STOP_TIME)
        return code

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as lines:
            for line in lines:
                self.log.append(line.rstrip("\n"))
                self._lines.put(line)
        self._lines.put(None)

    def _write_certificate(self) -> None:
        key = Ed25519PrivateKey.generate()
        certificate = make_certificate(
            key,
            subject="test server",
            valid_for=dt.timedelta(days=1),
            dns=["localhost"],
            ips=[ipaddress.IPv4Address("127.0.0.1")],
        )
        file = self.directory / "server.key"
        file.touch(mode=0o600)
        file.write_bytes(private_key_pem(key))
        (self.directory / "server.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
