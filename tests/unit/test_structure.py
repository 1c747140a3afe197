"""The structure of the product: sizes and names. `lint-imports` checks what imports what."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAX_MODULE = 400
MAX_FUNCTION = 60
MAX_TOP = 16
GENERATED = "_pb2.py"


def modules() -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each shipped module that is written by hand."""
    for package in (ROOT / "kes_core", *(ROOT / "plugins").glob("*/kes_*")):
        for file in sorted(package.rglob("*.py")):
            if not file.name.endswith(GENERATED):
                yield str(file.relative_to(ROOT)), file.read_text("utf-8")


def test_modules_are_short() -> None:
    lengths = {path: len(text.splitlines()) for path, text in modules()}
    assert len(lengths) > 100
    assert {path: length for path, length in lengths.items() if length > MAX_MODULE} == {}


def test_functions_are_short() -> None:
    too_long = {}
    for path, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno is not None:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION:
                    too_long[f"{path}:{node.lineno} {node.name}"] = length
    assert too_long == {}


def test_no_two_classes_have_one_name() -> None:
    places = defaultdict(list)
    for path, text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert {name: found for name, found in places.items() if len(found) > 1} == {}


def test_few_modules_stand_at_the_top() -> None:
    names = [file.stem for file in (ROOT / "kes_core").glob("*.py")]
    assert len(names) <= MAX_TOP
    assert [name for name in names if name.startswith("_") and name != "__init__"] == []
