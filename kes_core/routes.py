"""The API as data: every route with its method, limits and way of authentication (protocol section 4).

Nothing here imports the server, so that the configuration, the command line and the documentation can read the table
that the server serves.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

__all__ = ["MAX_BODY", "ROUTES", "Argument", "Auth", "Route"]

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
