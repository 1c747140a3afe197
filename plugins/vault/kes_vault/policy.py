"""The least policy that the server needs in Vault, as `kes doctor store-policy` prints it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from kes_vault.auth import namespace_of, path_prefix_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kes_vault.config import VaultConfig

__all__ = ["access_policy"]

_OF_THE_TOKEN: Final = (
    ("sys/capabilities-self", ("update",)),
    ("auth/token/lookup-self", ("read",)),
    ("auth/token/renew-self", ("update",)),
)
"""The rules that Vault's policy `default` has too, but only in the namespace of the login."""


def access_policy(config: VaultConfig) -> str:
    """Return the policy in HCL.

    `+` matches one part of a path: keys are entries of one folder, and deeper entries may belong to another tenant.
    """
    login, below = namespace_of(config).strip("/"), path_prefix_of(config)
    where = f" -namespace={login}" if login else ""
    lines = [
        f"# What kes needs in Vault: keys in the K/V engine {config.engine!r} ({config.version}).",
        f"#   kes doctor store-policy | vault policy write{where} kes-policy -",
        "# Vault's own policy 'default' lets the server look at its token and renew it.",
    ]
    for path, capabilities in (*_rules(config), *(_OF_THE_TOKEN if below else ())):
        granted = ", ".join(f'"{capability}"' for capability in capabilities)
        lines += ["", f'path "{below}{path}" {{', f"  capabilities = [{granted}]", "}"]
    if config.approle is not None:
        lines += [
            "",
            "# Optional: lets the metrics say when the secret ID expires, or is used up. Replace ROLE.",
            f'# path "auth/{config.approle.engine}/role/ROLE/secret-id/lookup" {{',
            '#   capabilities = ["update"]',
            "# }",
        ]
    return "\n".join(lines) + "\n"


def _rules(config: VaultConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    prefix = f"{config.prefix}/" if config.prefix else ""
    if config.version == "v2":
        yield f"{config.engine}/data/{prefix}+", ("create", "read")
        yield f"{config.engine}/metadata/{prefix}+", ("delete",)
        yield f"{config.engine}/metadata/{prefix}", ("list",)
    else:
        yield f"{config.engine}/{prefix}+", ("create", "read", "delete")
        yield f"{config.engine}/{prefix}", ("list",)
    if config.transit is not None:
        for operation in ("encrypt", "decrypt"):
            yield f"{config.transit.engine}/{operation}/{config.transit.key}", ("update",)
