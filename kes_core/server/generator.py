"""Generates the private keys of wrapping keys, in a process of its own: `python -m kes_core.server.generator`.

It takes up to several seconds of CPU time, for which old releases of cryptography would stop all requests of a process.
The program writes the key, PKCS #8 in DER, to its standard output, which is a pipe to the server. It does not lower its
own priority: systemd's filters of system calls often forbid that.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from kes_core.keys import wrapping

__all__ = ["GenerationError", "generate_private_key"]


class GenerationError(Exception):
    """The process did not generate a key. The message says why."""


async def generate_private_key() -> rsa.RSAPrivateKey:
    """Return a new private key for a wrapping key.

    Raises:
        GenerationError: The process can't be started, or failed.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",  # import nothing from the current directory
            "-m",
            "kes_core.server.generator",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise GenerationError(f"the process that generates it can't be started: {error.strerror}") from None
    try:
        der, _errors = await process.communicate()
    finally:
        if process.returncode is None:  # cancelled: the server stops
            with contextlib.suppress(ProcessLookupError):
                process.kill()
    if process.returncode != 0:
        raise GenerationError(f"the process that generates it ended with status {process.returncode}")
    # Its own process has just made it: nothing needs to be validated.
    key = load_der_private_key(der, password=None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, rsa.RSAPrivateKey):
        raise GenerationError("the process that generates it wrote something else")
    return key


def main() -> None:
    """Write a new private key to standard output."""
    from kes_core.server.hardening import harden

    harden(mlock=False)  # the process is gone before it could be swapped out
    key = wrapping.generate_private_key()
    sys.stdout.buffer.write(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


if __name__ == "__main__":
    main()
