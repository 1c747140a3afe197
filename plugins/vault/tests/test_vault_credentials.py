"""When the token and the secret ID run out, as the metrics show it."""

from __future__ import annotations

import time

import pytest

from kes_core import Credential
from kes_vault.store import VaultKeyStore
from tests.helpers.openbao import POLICIES, OpenBao, Tenant, run_store

LOOKUP = 'path "auth/approle/role/+/secret-id/lookup" {{ capabilities = ["update"] }}'


def credentials(tenant: Tenant) -> dict[str, Credential]:
    found: dict[str, Credential] = {}

    async def look(store: VaultKeyStore) -> None:
        found.update((each.name, each) for each in store.credentials())

    run_store(tenant.config(), look)
    return found


def test_token_alone_without_the_right_to_look_up_the_secret(bao: OpenBao) -> None:
    found = credentials(Tenant(bao, "v2"))
    assert list(found) == ["token"]
    token = found["token"]
    assert token.lifetime == 300
    assert token.expires_at == pytest.approx(time.time() + 300, abs=30)


def test_secret_that_expires_and_is_used_up(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2", POLICIES["v2"] + LOOKUP, secret_id_ttl="2h", secret_id_num_uses=5)
    secret = credentials(tenant)["secret_id"]
    assert secret.lifetime == 7200
    assert secret.expires_at == pytest.approx(time.time() + 7200, abs=60)
    assert secret.uses_left == 4
    assert tenant.secret not in repr(secret)


def test_secret_that_worked_once(bao: OpenBao) -> None:
    tenant = Tenant(bao, "v2", POLICIES["v2"] + LOOKUP, secret_id_num_uses=1)
    assert credentials(tenant)["secret_id"] == Credential("secret_id", None, None, 0)


def test_secret_without_limits(bao: OpenBao) -> None:
    assert credentials(Tenant(bao, "v2", POLICIES["v2"] + LOOKUP))["secret_id"] == Credential("secret_id")
