"""A bare Hypercorn application with constant answers, to measure the cost of the framework alone."""

from __future__ import annotations

import asyncio
import ssl
import sys
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

BODY = b'{"plaintext":"' + b"A" * 44 + b'","ciphertext":"' + b"B" * 104 + b'"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


def main() -> None:
    address, key, cert, client_cert = sys.argv[1:]
    config = Config()
    config.bind = [address]
    config.keyfile, config.certfile, config.ca_certs = key, cert, client_cert
    config.verify_mode = ssl.CERT_REQUIRED
    config.keep_alive_max_requests = 2**62  # by default, a connection closes after 1000 requests
    config.errorlog = None
    asyncio.run(serve(app, config))


if __name__ == "__main__":
    main()
