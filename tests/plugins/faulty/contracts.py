"""The conformance kit on the faulty plugins of `answers.txt`. `test_gallery.py` runs it with pytest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kes_core import AuditSink, KeyStore, PolicyEngine, PolicyRequest
from kes_core.testing import AuditSinkContract, KeyStoreContract, PolicyEngineContract, sample_request
from tests.plugins.faulty import closing, engines, kit, listings, sinks, stores
from tests.plugins.faulty.bases import FaultyEngine, FaultySink, FaultyStore


class _Settings:
    Subject: Any
    time_limit = 10.0
    longest_block = 0.1
    longest_call = 0.1


class _OfStore(_Settings, KeyStoreContract):
    async def make_store(self) -> KeyStore:
        store: KeyStore = self.Subject()
        return store


class _OfEngine(_Settings, PolicyEngineContract):
    async def make_engine(self) -> PolicyEngine:
        engine: PolicyEngine = self.Subject()
        return engine

    def allowed(self) -> PolicyRequest:
        return sample_request()


class _OfSink(_Settings, AuditSinkContract):
    async def make_sink(self) -> AuditSink:
        sink: AuditSink = self.Subject()
        return sink

    async def delivered(self) -> Sequence[Mapping[str, Any]]:
        return []


for module in (stores, listings, closing, engines, sinks, kit):
    for name, fault in [*vars(module).items()]:
        for kind, suite in ((FaultyStore, _OfStore), (FaultyEngine, _OfEngine), (FaultySink, _OfSink)):
            if isinstance(fault, type) and issubclass(fault, kind) and fault.__module__ == module.__name__:
                settings = {"Subject": fault, "__module__": __name__} | ({"time_limit": 1.0} if fault.hangs else {})
                globals()[f"Test{name}"] = type(f"Test{name}", (suite,), settings)
