"""The policies that well-known clients need, for the section `policy` of the server's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

__all__ = ["CLIENTS", "client_policy"]


class _Rule(NamedTuple):
    pattern: str
    """A path of the API; `{key}` stands for the names of the client's keys, with or without a final `*`."""
    why: str


class _Client(NamedTuple):
    about: str
    rules: tuple[_Rule, ...]


CLIENTS: Final[Mapping[str, _Client]] = {
    "minio": _Client(
        "a MinIO server that encrypts its objects",
        (
            _Rule("/v1/key/create/{key}", "makes the key of MINIO_KMS_KES_KEY_NAME; mc admin kms key create"),
            _Rule("/v1/key/generate/{key}", "writes an object"),
            _Rule("/v1/key/decrypt/{key}", "reads an object"),
            _Rule("/v1/key/bulk/decrypt/{key}", "reads many at once, in releases up to 2023"),
            _Rule("/v1/key/list/{key}", "mc admin kms key list"),
            _Rule("/v1/status", "mc admin kms key status"),
            _Rule("/v1/metrics", "the KMS part of MinIO's metrics"),
            _Rule("/v1/log/audit", "the audit log, for MinIO's administrators"),
            _Rule("/v1/log/error", "the error log, for MinIO's administrators"),
        ),
    ),
    "sdk": _Client(
        "an application that uses keys but does not create them",
        (
            _Rule("/v1/key/generate/{key}", "a data key, with its ciphertext"),
            _Rule("/v1/key/encrypt/{key}", "encrypts a small text itself"),
            _Rule("/v1/key/decrypt/{key}", "the data key back"),
        ),
    ),
    "prometheus": _Client("a Prometheus that collects metrics", (_Rule("/v1/metrics", "the metrics"),)),
    "probe": _Client(
        "a health check, of a load balancer or of Kubernetes",
        (_Rule("/v1/ready", "whether the server and its key store work"),),
    ),
}
"""The clients by name."""


def client_policy(client: str, *, name: str = "", key: str = "*", identities: Sequence[str] = ()) -> str:
    """Return the minimal section `policy` for a client, as YAML.

    Args:
        client: One of `CLIENTS`.
        name: The name of the policy; by default the client's name.
        key: The name of its key, or a prefix of the names of its keys followed by `*`.
        identities: The client's identities. If there are none, the text shows where to put them.
    """
    about, rules = CLIENTS[client]
    patterns = {rule.pattern.replace("{key}", key): rule.why for rule in rules}
    width = max(len(pattern) for pattern in patterns)
    lines = [f"# For {about}.", "policy:", f"  {name or client}:", "    allow:"]
    lines += [f"    - {pattern:<{width}}  # {why}" for pattern, why in patterns.items()]
    lines.append("    identities:")
    lines += [f"    - {identity}" for identity in identities]
    if not identities:
        lines.append(f"    - ${{{(name or client).upper().replace('-', '_')}_IDENTITY}}  # kes identity of client.crt")
    return "\n".join(lines) + "\n"
