"""The page on the architecture names files that exist, and every package."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PATH = re.compile(r"`([\w.-]+(?:/[\w.-]+)+|[\w-]+\.(?:toml|md))`")


def test_every_path_exists() -> None:
    paths = set(PATH.findall(PAGE))
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


def test_every_package_and_top_module_has_a_purpose() -> None:
    named = set(PATH.findall(PAGE))
    files = {str(file.relative_to(ROOT)) for file in (ROOT / "kes_core").glob("*.py")}
    packages = {str(file.parent.relative_to(ROOT)) for file in (ROOT / "kes_core").glob("**/__init__.py")}
    packages |= {str(file.parent.relative_to(ROOT)) for file in ROOT.glob("plugins/*/pyproject.toml")}
    assert sorted((files | packages - {"kes_core"}) - named) == []
