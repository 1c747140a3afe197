"""The blocking client is generated from the asynchronous one, and up to date."""

from __future__ import annotations

import inspect

from kes_core.client import AsyncClient, Client
from scripts.blocking_client import CLIENT, blocking


def test_blocking_client_is_up_to_date() -> None:
    assert (CLIENT / "blocking.py").read_text() == blocking()


def test_both_clients_have_the_same_methods() -> None:
    def methods(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(method).parameters) for name, method in found if name[0] != "_"}

    asynchronous = methods(AsyncClient)
    asynchronous["close"] = asynchronous.pop("aclose")
    assert methods(Client) == asynchronous
