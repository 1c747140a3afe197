"""Fixtures for the tests of the Cedar engine."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kes_cedar import CedarConfig
from kes_cedar.engine import CedarPolicyEngine
from kes_core import PolicyRequest, Verdict
from tests.helpers.fixtures import run_server

__all__ = ["ask", "open_engine", "run_server"]

Ask = Callable[..., Verdict]
OpenEngine = Callable[..., CedarPolicyEngine]


@pytest.fixture
def open_engine(tmp_path: Path) -> OpenEngine:
    """Open the engine on policies (text) and entities (Python values), with further fields of the configuration."""

    def open_engine(policies: str, entities: Sequence[Any] | None = None, /, **fields: Any) -> CedarPolicyEngine:
        file = tmp_path / "policies.cedar"
        file.write_text(policies)
        if entities is not None:
            (tmp_path / "entities.json").write_text(json.dumps(entities))
            fields["entities"] = str(tmp_path / "entities.json")
        return asyncio.run(CedarPolicyEngine.open(CedarConfig.model_validate({"policies": [str(file)], **fields})))

    return open_engine


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Ask an engine about a request for `api` and `resource`; keywords replace other fields of the request."""

    def ask(
        engine: CedarPolicyEngine, api: str = "/v1/key/generate/", resource: str = "my-key", **facts: Any
    ) -> Verdict:
        values = {
            "identity": "0" * 64,
            "method": "PUT",
            "path": api + resource,
            "remote_address": "192.0.2.1",
            "time": dt.datetime.now(dt.UTC),
            **facts,
        }
        return asyncio.run(engine.authorize(PolicyRequest(api=api, resource=resource, **values)))

    return ask
