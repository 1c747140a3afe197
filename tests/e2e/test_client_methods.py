"""Both clients have a method for each route."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from kes_core.client import (
    AsyncClient,
    AsyncLogStream,
    Client,
    DecryptionError,
    IdentityNotFoundError,
    KeyNotFoundError,
    LogStream,
)
from kes_core.protocol import ROUTES
from tests.helpers.server import Server
from tests.helpers.wrapping import put


class EveryMethod:
    """What to call for each route of the API, on either client; both take the same arguments."""

    def __init__(self, kms: Any, suffix: str) -> None:
        name, sealed = f"route-{suffix}", b"x" * 60
        self.calls: dict[str, Callable[[], Any]] = {
            "/version": kms.version,
            "/v1/ready": kms.ready,
            "/v1/status": kms.status,
            "/v1/metrics": kms.metrics,
            "/v1/api": kms.apis,
            "/v1/key/create/": lambda: kms.create_key(name),
            "/v1/key/import/": lambda: kms.import_key(f"{name}-2", bytes(32)),
            "/v1/key/describe/": lambda: kms.describe_key(name),
            "/v1/key/list/": lambda: kms.list_keys(name),
            "/v1/key/delete/": lambda: kms.delete_key(name),
            "/v1/key/generate/": lambda: kms.generate_data_key(name),
            "/v1/key/encrypt/": lambda: kms.encrypt(name, b"text"),
            "/v1/key/decrypt/": lambda: kms.decrypt(name, sealed),
            "/v1/key/hmac/": lambda: kms.hmac(name, b"text"),
            "/v1/key/bulk/decrypt/": lambda: kms.decrypt_all(name, [(sealed, b"")]),
            "/v1/key/bulk/generate/": lambda: kms.generate_data_keys(name, [b""]),
            "/v1/key/bulk/encrypt/": lambda: kms.encrypt_all(name, [(b"text", b"")]),
            "/v1/key/bulk/rewrap/": lambda: kms.rewrap_all(name, [(sealed, b"")]),
            "/v1/key/import-version/": lambda: kms.import_key_version(name, b"x" * 32),
            "/v1/key/wrapping-key": kms.wrapping_key,
            "/v1/key/rotate/": lambda: kms.rotate_key(name),
            "/v1/key/rewrap/": lambda: kms.rewrap(name, sealed),
            "/v1/key/versions/": lambda: kms.key_versions(name),
            "/v1/key/disable/": lambda: kms.disable_key(name),
            "/v1/key/enable/": lambda: kms.enable_key(name),
            "/v1/key/schedule-delete/": lambda: kms.schedule_key_deletion(name),
            "/v1/key/undelete/": lambda: kms.undelete_key(name),
            "/v1/key/min-version/": lambda: kms.set_min_decryption_version(name, 1),
            "/v1/policy/describe/": lambda: kms.describe_policy("app"),
            "/v1/policy/read/": lambda: kms.read_policy("app"),
            "/v1/policy/list/": kms.list_policies,
            "/v1/identity/describe/": lambda: kms.describe_identity("0" * 64),
            "/v1/identity/self/describe": kms.describe_self,
            "/v1/identity/list/": kms.list_identities,
            "/v1/log/error": kms.error_log,
            "/v1/log/audit": kms.audit_log,
        }


def test_every_route_has_a_method(run_server: Callable[..., Server], tmp_path: Path) -> None:
    """The server's audit log shows which route each method asked for."""
    keystore = {"fs": {"path": str(put(tmp_path / "keys"))}}
    server = run_server(
        {"log": {"audit": "on"}, "policy": {"app": {}}, "deletion": {"scheduled": "on"}, "keystore": keystore}
    )

    def next_path() -> str:
        return str(server.next_audit_record()["request"]["path"])

    with Client(server.url, api_key=server.admin.api_key, insecure=True) as kms:
        calls = EveryMethod(kms, "sync").calls
        for route in ROUTES:
            with contextlib.suppress(DecryptionError, IdentityNotFoundError, KeyNotFoundError):
                answer = calls[route.path]()
                if isinstance(answer, LogStream):
                    with answer:
                        pass
                elif isinstance(answer, Iterator):
                    list(answer)
            assert next_path().startswith(route.path)

    async def check() -> None:
        async with AsyncClient(server.url, api_key=server.admin.api_key, insecure=True) as kms:
            calls = EveryMethod(kms, "async").calls
            for route in ROUTES:
                with contextlib.suppress(DecryptionError, IdentityNotFoundError, KeyNotFoundError):
                    answer = calls[route.path]()
                    if isinstance(answer, AsyncLogStream):
                        async with answer:
                            pass
                    elif isinstance(answer, AsyncIterator):
                        [name async for name in answer]
                    else:
                        await answer
                assert next_path().startswith(route.path)

    asyncio.run(check())


def test_both_clients_have_the_same_methods() -> None:
    def methods(cls: type) -> set[str]:
        return {name for name in vars(cls) if not name.startswith("_")} - {"close", "aclose"}

    assert methods(Client) == methods(AsyncClient)
