"""The threat model names only existing tests."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def test_every_named_test_exists() -> None:
    named = NAMED.findall((ROOT / "docs" / "threat-model.md").read_text())
    assert len(named) > 40
    missing = [f"{file}::{name}" for file, name in named if name not in functions_of(ROOT / file)]
    assert not missing


def test_every_promise_names_a_test() -> None:
    text = (ROOT / "docs" / "threat-model.md").read_text()
    sections = re.findall(
        r"^## (.+)\n(?:(?!^## ).*\n)*?\| promised \| test \|\n\|---\|---\|\n((?:\|.*\n)+)", text, re.MULTILINE
    )
    assert len(sections) == 7
    for _title, rows in sections:
        assert all(NAMED.search(row) for row in rows.splitlines())


def functions_of(file: Path) -> set[str]:
    if not file.exists():
        return set()
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}
