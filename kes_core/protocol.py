"""The API as data: routes with their limits, and the texts of errors (protocol section 4).

Nothing here imports the server, so that the configuration, the command line and the documentation can read the table
that the server serves.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = [
    "HMAC_UNSUPPORTED",
    "IDENTITY_NOT_FOUND",
    "INTERNAL",
    "INVALID_BODY",
    "INVALID_CERTIFICATE",
    "INVALID_IMPORT_BODY",
    "KEY_EXISTS",
    "KEY_NOT_FOUND",
    "MAX_BODY",
    "NOT_ALLOWED",
    "NOT_DECRYPTED",
    "NO_ROUTE",
    "POLICY_NOT_FOUND",
    "ROUTES",
    "TIMED_OUT",
    "TOO_MANY_BODIES",
    "TOO_MANY_CIPHERTEXTS",
    "Argument",
    "Auth",
    "Route",
]

MAX_BODY: Final = 1_000_000
"""The longest request body, in bytes, of the routes that take one."""


class Auth(enum.Enum):
    """What a request must show before it is executed."""

    NONE = "none"
    """Nothing: no certificate is looked at."""
    CERTIFICATE = "certificate"
    """A client certificate, whoever it belongs to."""
    POLICY = "policy"
    """The admin's certificate, or one whose identity the policy engines allow."""


class Argument(enum.Enum):
    """What follows a route's path."""

    NAME = "name"
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class Route:
    """One row of the API."""

    path: str
    """The path without its argument; ends in `/` exactly when an argument follows."""
    method: str
    """The method as the API listing shows it. `POST` is taken wherever this is `PUT`."""
    summary: str
    max_body: int = 0
    """The longest body in bytes; 0: a body is not read."""
    timeout: float = 15.0
    """Time for the whole answer in seconds; 0: none. Settable per path in the configuration section `api`."""
    argument: Argument | None = None
    auth: Auth = Auth.POLICY
    may_skip_auth: bool = False
    """Whether `api.<path>.skip_auth` may be set."""

    @property
    def is_counted(self) -> bool:
        """Whether requests count in the metrics: those to keys, policies and identities do."""
        return self.path.startswith(("/v1/key/", "/v1/policy/", "/v1/identity/"))


def _key(operation: str, method: str, summary: str, *, max_body: int = 0, argument: Argument = Argument.NAME) -> Route:
    return Route(f"/v1/key/{operation}/", method, summary, max_body=max_body, argument=argument)


ROUTES: Final = (
    Route("/version", "GET", "Version and commit of the server", timeout=10.0, auth=Auth.NONE),
    Route("/v1/ready", "GET", "Whether the key store answers", may_skip_auth=True),
    Route("/v1/status", "GET", "State of the server and its key store", may_skip_auth=True),
    Route("/v1/metrics", "GET", "Prometheus metrics", may_skip_auth=True),
    Route("/v1/api", "GET", "This list", timeout=10.0, may_skip_auth=True),
    _key("create", "PUT", "Make a random key"),
    _key("import", "PUT", "Store a given key", max_body=MAX_BODY),
    _key("describe", "GET", "Facts about a key, never the key"),
    _key("list", "GET", "Names of keys", argument=Argument.PATTERN),
    _key("delete", "DELETE", "Delete a key for good"),
    _key("generate", "PUT", "Make a data encryption key", max_body=MAX_BODY),
    _key("encrypt", "PUT", "Encrypt a plaintext", max_body=MAX_BODY),
    _key("decrypt", "PUT", "Decrypt a ciphertext", max_body=MAX_BODY),
    _key("hmac", "PUT", "HMAC-SHA-256 of a message", max_body=MAX_BODY),
    _key("bulk/decrypt", "PUT", "Decrypt up to 1000 ciphertexts, all or none", max_body=MAX_BODY),
    Route("/v1/policy/describe/", "GET", "Facts about a policy", argument=Argument.NAME),
    Route("/v1/policy/read/", "GET", "A policy with its patterns", argument=Argument.NAME),
    Route("/v1/policy/list/", "GET", "Names of policies", argument=Argument.PATTERN),
    Route("/v1/identity/describe/", "GET", "Facts about an identity", argument=Argument.NAME),
    Route("/v1/identity/self/describe", "GET", "Facts about the caller", auth=Auth.CERTIFICATE),
    Route("/v1/identity/list/", "GET", "Known identities", argument=Argument.PATTERN),
    Route("/v1/log/error", "GET", "Stream of error events", timeout=0.0),
    Route("/v1/log/audit", "GET", "Stream of audit events", timeout=0.0),
)
"""Every route of the protocol, in the order in which the API listing shows them."""

# Exactly the Go server's (vectors/errors.json): clients compare status and text.
NOT_ALLOWED: Final = (403, "not authorized: insufficient permissions")
KEY_NOT_FOUND: Final = (404, "key does not exist")
KEY_EXISTS: Final = (400, "key already exists")
POLICY_NOT_FOUND: Final = (404, "policy does not exist")
IDENTITY_NOT_FOUND: Final = (404, "identity does not exist")
NOT_DECRYPTED: Final = (400, "decryption failed: ciphertext is not authentic")
HMAC_UNSUPPORTED: Final = (409, "key does not support HMAC")
INVALID_BODY: Final = (400, "invalid request body")
INVALID_CERTIFICATE: Final = (400, "invalid client certificate")
INVALID_IMPORT_BODY: Final = (400, "invalid import key request body")
TOO_MANY_BODIES: Final = (503, "too many request bodies are under way")
TOO_MANY_CIPHERTEXTS: Final = (400, "too many ciphertexts")
TIMED_OUT: Final = (504, "request timed out")
INTERNAL: Final = (500, "internal server error")

NO_ROUTE: Final = b"404 page not found\n"
"""The plain-text body of the answer to a path that no route has."""
