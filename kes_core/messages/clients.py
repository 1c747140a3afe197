"""What the server answers to clients."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_NAME: Final = "1 to 80 of `A-Z a-z 0-9 - _`, with no `-` at either end"

SECTION: Final = MessageSection(
    "Answers to clients",
    "Met in the log of a client such as MinIO, and with `kes key` and the like. The texts are those of the Go server.",
    (
        Message(
            "tls: client certificate is required",
            "400. The client presented no certificate, or only ones of CAs.",
            "Give it a certificate or an API key: `kes identity new`.",
        ),
        Message(
            "tls: received more than one client certificate",
            "400. The chain has two certificates that are not of CAs.",
            "Leave one and its CAs in the client's file; a CA's certificate is to have `CA:TRUE`.",
        ),
        Message(
            "tls: invalid client certificate",
            "400. The certificate, or its public key, can't be understood.",
            "Make a new one with an RSA, EC or Ed25519 key.",
        ),
        Message(
            "no client certificate is present",
            "400. A proxy in `tls.proxy.identities` forwards no certificate.",
            "nginx: `proxy_set_header X-Tls-Client-Cert $ssl_client_escaped_cert;`, and `ssl_verify_client "
            "optional_no_ca;`.",
        ),
        Message(
            "too many client certificates are present",
            "400. The header is there twice: the client sent one itself, or there are two proxies.",
            "Let the proxy replace the header and not add to it.",
        ),
        Message(
            "invalid client certificate",
            "400. What the proxy forwards is no URL-escaped PEM.",
            "nginx: `$ssl_client_escaped_cert`, not `$ssl_client_cert`.",
        ),
        Message(
            "not authorized: insufficient permissions",
            "403. No policy allows the request.",
            "The server's log has the rule: [requests](#requests-in-the-log).",
        ),
        Message(
            "the server answered with status …",
            "The answer has no message. With 403: a TLS proxy forwarded a certificate that no CA in `tls.ca` vouches "
            "for. "
            "Otherwise something between answered.",
            "Look at the server's log; if it has nothing, at the proxy's.",
        ),
        Message(
            "… (…)",
            "An answer about the key store, and in parentheses why it can't serve.",
            "Look both up here; the words are those of the column `reason`.",
        ),
        Message(
            ("key store is not reachable", "key store is unavailable"),
            "504, 502. `/v1/ready` and `/ready`: requests that need the key store fail.",
            "The member `reason`, and the server's log, say why: [the key store](#the-key-store).",
        ),
        Message(
            ("failed to create key", "failed to read key", "failed to delete key", "failed to list keys"),
            "502. The key store failed.",
            "As above.",
        ),
        Message("key does not exist", "404.", "`kes ls` lists keys; `kes key create NAME` makes one, if none is lost."),
        Message("key already exists", "400. The old key is as it was.", "Use it, or another name."),
        Message("policy does not exist", "404.", "`kes ls -p`; policies stand in the server's configuration."),
        Message("identity does not exist", "404. The identity is neither the admin nor in a policy.", "`kes ls -i`."),
        Message(
            "decryption failed: ciphertext is not authentic",
            "400. The ciphertext is of another key or context, or was changed.",
            "Use the key and the context that it was made with. A key that was made anew under the old name is another "
            "one.",
        ),
        Message(
            "key does not support HMAC",
            "409. The key is of a release that made no HMAC keys.",
            "Make a new key for HMACs.",
        ),
        Message(
            (
                "… '…' is empty, too long or contains invalid characters",
                "listing pattern '…' is empty, too long or is invalid",
            ),
            "400.",
            f"Names: {_NAME}. Patterns: the beginning of a name and a `*`.",
        ),
        Message(
            ("algorithm '…' is not supported", "invalid key size for '…'"),
            "406. A key that was made elsewhere can't be imported.",
            "32 bytes, for `AES256` or `ChaCha20`.",
        ),
        Message(
            ("invalid request body", "invalid import key request body"),
            "400. The body is no JSON as the [API](api.md) has it, or larger than the route takes.",
            "Binary values are standard base64, with padding.",
        ),
        Message("too many ciphertexts", "400. A bulk decryption has more than 1000.", "Send fewer."),
        Message(
            "received method '…' expected '…'",
            "405.",
            "Use the method that is expected; `kes status --api` lists all.",
        ),
        Message("404 page not found", "404. There is no such path.", "`kes status --api` lists all."),
        Message(
            "request timed out",
            "504. The key store did not answer in time.",
            "Look at the server's log; `api.<path>.timeout` is how long it waits.",
        ),
        Message(
            "too many clients read this log",
            "503. As many clients as are allowed read the log at the moment.",
            "End some, or read one stream and pass it on.",
        ),
        Message(
            "internal server error",
            "500. A fault of the server.",
            "Report the line in its log, with the places below it.",
        ),
        Message(
            ("this listener has /live, /ready and /metrics", "this listener takes GET and HEAD"),
            "404, 405, from the listener for probes: it is not the API.",
            "Clients use `address`, not `probe.address`.",
        ),
    ),
)
