"""The README names a test for each promise, and all of them exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
NAMED = re.compile(r"`([\w/]+\.py)::(\w+)`")


def functions_of(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "plugins" / "native" / "README.md").read_text()
    rows = re.findall(r"^\| .+ \|$", text.partition("| promised | test |\n|---|---|\n")[2], re.MULTILINE)
    assert len(rows) > 20
    missing = [
        f"{file}::{name}"
        for row in rows
        for file, name in NAMED.findall(row) or [("no test", row)]
        if not (ROOT / file).exists() or name not in functions_of(ROOT / file)
    ]
    assert missing == []
