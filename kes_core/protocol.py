"""The API as data: the routes with their limits, and the texts of errors (protocol section 4).

The server, the configuration, the command line and the documentation all use these tables.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

__all__ = [
    "DELETIONS_NOT_SCHEDULED",
    "EXPIRY_NOTICE",
    "HMAC_UNSUPPORTED",
    "IDENTITY_NOT_FOUND",
    "INTERNAL",
    "INVALID_BODY",
    "INVALID_CERTIFICATE",
    "INVALID_IMPORT_BODY",
    "KEY_DECRYPTS_ONLY",
    "KEY_DELETING",
    "KEY_DISABLED",
    "KEY_EXISTS",
    "KEY_NOT_FOUND",
    "KEY_SCHEDULED",
    "KEY_VERSION_TOO_OLD",
    "MAX_BODY",
    "NOT_ALLOWED",
    "NOT_DECRYPTED",
    "NO_ROUTE",
    "POLICY_NOT_FOUND",
    "ROUTES",
    "TIMED_OUT",
    "TOO_MANY_BODIES",
    "TOO_MANY_CIPHERTEXTS",
    "TOO_MANY_ITEMS",
    "WRAPPING_KEY_UNKNOWN",
    "Argument",
    "Auth",
    "Route",
]

MAX_BODY: Final = 1_000_000
"""The longest request body, in bytes, of the routes that take one."""
EXPIRY_NOTICE: Final = timedelta(days=14)
"""How long before a certificate expires `/v1/status`, the log and the tools warn about it."""


class Auth(enum.Enum):
    """What the server requires of a client before it executes a request."""

    NONE = "none"
    """Nothing. The server ignores the client certificate."""
    CERTIFICATE = "certificate"
    """Any client certificate."""
    POLICY = "policy"
    """The certificate of the admin, or of an identity that the policy engines allow."""


class Argument(enum.Enum):
    """What follows the path of a route."""

    NAME = "name"
    PATTERN = "pattern"


@dataclass(frozen=True, slots=True)
class Route:
    """One route of the API."""

    path: str
    """The path without its argument. It ends in `/` if and only if the route has an argument."""
    method: str
    """The method in the API listing. A `PUT` route also accepts `POST`."""
    summary: str
    max_body: int = 0
    """The longest body in bytes. 0: the server does not read a body."""
    timeout: float = 15.0
    """Time limit for the whole answer in seconds. 0: no limit. The configuration section `api` sets it per path."""
    argument: Argument | None = None
    auth: Auth = Auth.POLICY
    may_skip_auth: bool = False
    """Whether the configuration may set `api.<path>.skip_auth`."""

    @property
    def template(self) -> str:
        """The path with the name of its argument in braces, as OpenAPI writes it: `/v1/key/create/{name}`."""
        return self.path if self.argument is None else f"{self.path}{{{self.argument.value}}}"

    @property
    def is_counted(self) -> bool:
        """Whether the metrics count the requests: those for keys, policies and identities."""
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
    _key("import", "PUT", "Store a given key, plain or wrapped", max_body=MAX_BODY),
    _key("describe", "GET", "Facts about a key, never the key"),
    _key("list", "GET", "Names of keys", argument=Argument.PATTERN),
    _key("delete", "DELETE", "Delete a key for good"),
    _key("generate", "PUT", "Make a data encryption key", max_body=MAX_BODY),
    _key("encrypt", "PUT", "Encrypt a plaintext", max_body=MAX_BODY),
    _key("decrypt", "PUT", "Decrypt a ciphertext", max_body=MAX_BODY),
    _key("hmac", "PUT", "HMAC-SHA-256 of a message", max_body=MAX_BODY),
    _key("bulk/decrypt", "PUT", "Decrypt up to 1000 ciphertexts, all or none", max_body=MAX_BODY),
    _key("bulk/generate", "PUT", "Make up to 1000 data encryption keys", max_body=MAX_BODY),
    _key("bulk/encrypt", "PUT", "Encrypt up to 1000 plaintexts", max_body=MAX_BODY),
    _key("bulk/rewrap", "PUT", "Encrypt up to 1000 ciphertexts again, all or none", max_body=MAX_BODY),
    _key("rotate", "PUT", "Add a version to a key", max_body=MAX_BODY),
    _key("import-version", "PUT", "Add a given key, plain or wrapped, as a version of a key", max_body=MAX_BODY),
    Route("/v1/key/wrapping-key", "GET", "The public key for which clients wrap keys to import", timeout=60.0),
    _key("rewrap", "PUT", "Encrypt a ciphertext again, under the newest version of the key", max_body=MAX_BODY),
    _key("versions", "GET", "The versions of a key"),
    _key("disable", "PUT", "Refuse the use of a key until it is enabled", max_body=MAX_BODY),
    _key("enable", "PUT", "Allow the use of a key again"),
    _key("schedule-delete", "PUT", "Delete a key later, and refuse its use until then", max_body=MAX_BODY),
    _key("undelete", "PUT", "Keep a key whose deletion is scheduled"),
    _key("min-version", "PUT", "Set the oldest version of a key that decrypts", max_body=MAX_BODY),
    Route("/v1/policy/describe/", "GET", "Facts about a policy", argument=Argument.NAME),
    Route("/v1/policy/read/", "GET", "A policy with its patterns", argument=Argument.NAME),
    Route("/v1/policy/list/", "GET", "Names of policies", argument=Argument.PATTERN),
    Route("/v1/identity/describe/", "GET", "Facts about an identity", argument=Argument.NAME),
    Route("/v1/identity/self/describe", "GET", "Facts about the caller", auth=Auth.CERTIFICATE),
    Route("/v1/identity/list/", "GET", "Known identities", argument=Argument.PATTERN),
    Route("/v1/log/error", "GET", "Stream of error events", timeout=0.0),
    Route("/v1/log/audit", "GET", "Stream of audit events", timeout=0.0),
)
"""Every route of the protocol, in the order of the API listing."""

# Status and text are those of the Go server (vectors/errors.json), because clients compare them.
NOT_ALLOWED: Final = (403, "not authorized: insufficient permissions")
KEY_NOT_FOUND: Final = (404, "key does not exist")
KEY_DISABLED: Final = (409, "key is disabled")
KEY_DECRYPTS_ONLY: Final = (409, "key is disabled for encryption")
KEY_VERSION_TOO_OLD: Final = (409, "the ciphertext is of a version of the key that does not decrypt any more")
KEY_SCHEDULED: Final = (409, "key is scheduled for deletion")
KEY_DELETING: Final = (409, "the deletion of the key has begun")
DELETIONS_NOT_SCHEDULED: Final = (409, "this server does not schedule deletions")
KEY_EXISTS: Final = (400, "key already exists")
POLICY_NOT_FOUND: Final = (404, "policy does not exist")
IDENTITY_NOT_FOUND: Final = (404, "identity does not exist")
NOT_DECRYPTED: Final = (400, "decryption failed: ciphertext is not authentic")
HMAC_UNSUPPORTED: Final = (409, "key does not support HMAC")
INVALID_BODY: Final = (400, "invalid request body")
INVALID_CERTIFICATE: Final = (400, "invalid client certificate")
INVALID_IMPORT_BODY: Final = (400, "invalid import key request body")
WRAPPING_KEY_UNKNOWN: Final = (400, "there is no wrapping key of this id, or it has expired")
TOO_MANY_BODIES: Final = (503, "too many request bodies are under way")
TOO_MANY_CIPHERTEXTS: Final = (400, "too many ciphertexts")
TOO_MANY_ITEMS: Final = (400, "too many items")
TIMED_OUT: Final = (504, "request timed out")
INTERNAL: Final = (500, "internal server error")

NO_ROUTE: Final = b"404 page not found\n"
"""The plain-text body of the answer to a path without a route."""
