"""The kit warns of credentials that a plugin's section holds as plain text."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.pytest_runs import SETTINGS, run_pytest

AUTHOR = """
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Secret, Section
from kes_core.testing import KeyStoreContract

class Login(Section):
    password: {kind}
    password_file: str = ""

class Config(Section):
    url: str
    login: Login

class Store(MemoryKeyStore):
    pass

class TestStore(KeyStoreContract):
    async def make_store(self):
        return Store()
"""
WARNING = (
    "  warning: Login.password looks like a credential, and `kes config show` shows it: "
    "use the type kes_core.config.Secret\n"
)


@pytest.mark.parametrize(("kind", "times"), [("str", 1), ("str | None", 1), ("Secret", 0)])
def test_section_with_a_password(tmp_path: Path, kind: str, times: int) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    (tmp_path / "test_store.py").write_text(AUTHOR.format(kind=kind))
    output = run_pytest("-k", "get_returns_bytes or empty_value", directory=tmp_path)
    assert "2 of 2 clauses kept" in output
    assert output.count(WARNING) == times
    assert output.count("warning:") == times
