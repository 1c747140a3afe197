"""When the credentials of the key store run out, in the metrics of one process and of several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kes_core.counters import merge
from kes_core.keystore import Credential
from kes_core.server.exposition import exposition
from kes_core.server.metrics import Metrics
from kes_core.server.workers.supervisor import _lasting


def snapshot(*found: Credential) -> dict[str, Any]:
    metrics = Metrics()

    def credentials() -> Sequence[Credential]:
        return found

    metrics.credentials = credentials
    return metrics.snapshot()


def lines(numbers: dict[str, Any], *, labelled: bool = True) -> set[str]:
    text = exposition(numbers, Metrics(), labelled=labelled).decode()
    return {line for line in text.splitlines() if line.startswith("kes_keystore_credential_")}


def test_credentials_of_one_process() -> None:
    numbers = snapshot(Credential("token", 2e9, 3600.0), Credential("secret_id", uses_left=4))
    assert lines(numbers) == {
        'kes_keystore_credential_expiry_timestamp_seconds{credential="token"} 2e+09',
        'kes_keystore_credential_lifetime_seconds{credential="token"} 3600.0',
        'kes_keystore_credential_uses_left{credential="secret_id"} 4.0',
    }
    assert lines(numbers, labelled=False) == set()  # the Go SDK fails on labels that it does not know


def test_first_of_several_processes_counts() -> None:
    both = merge([snapshot(Credential("token", 500.0, 60.0)), snapshot(Credential("token", 400.0, 60.0))])
    assert 'kes_keystore_credential_expiry_timestamp_seconds{credential="token"} 400.0' in lines(both)


def test_credentials_of_a_worker_that_died_do_not_stay() -> None:
    """They would seem to expire, and an alert would fire."""
    both = merge([_lasting(snapshot(Credential("token", 400.0, 60.0))), snapshot(Credential("token", 500.0, 60.0))])
    assert 'kes_keystore_credential_expiry_timestamp_seconds{credential="token"} 500.0' in lines(both)


def test_store_without_credentials_shows_none() -> None:
    assert lines(snapshot()) == set()
