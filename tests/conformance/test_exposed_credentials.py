"""The kit warns of credentials that a plugin's section holds as plain text."""

from __future__ import annotations

from pathlib import Path

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


def test_section_with_a_password(tmp_path: Path) -> None:
    (tmp_path / "pytest.ini").write_text(SETTINGS)
    for name, kind in (("text", "str"), ("optional", "str | None"), ("secret", "Secret")):
        (tmp_path / f"test_{name}.py").write_text(AUTHOR.format(kind=kind))
    output = run_pytest("-k", "get_returns_bytes or empty_value", directory=tmp_path)
    kept = "kes contract 1: 2 of 2 clauses kept by test_{}.py::TestStore\n"
    assert kept.format("text") + WARNING in output
    assert kept.format("optional") + WARNING in output
    assert kept.format("secret") in output
    assert output.count("warning:") == 2
