"""The static policy engine keeps the contract of policy engines."""

from __future__ import annotations

from kes_core import PolicyRequest
from kes_core.builtin.static_policy import StaticPolicyEngine
from kes_core.config import PolicySettings
from kes_core.testing import PolicyEngineContract, sample_request


class TestStaticPolicyEngine(PolicyEngineContract):
    async def make_engine(self) -> StaticPolicyEngine:
        settings = {
            "allow": ["/v1/key/generate/my-*", "/v1/status"],
            "deny": ["/v1/key/generate/my-secret*"],
            "identities": [sample_request().identity],
        }
        return StaticPolicyEngine({"my-policy": PolicySettings.model_validate(settings)})

    def allowed(self) -> PolicyRequest:
        return sample_request()

    def denied(self) -> PolicyRequest:
        return sample_request(resource="my-secret-key")
