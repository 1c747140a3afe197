"""The page of the API and its OpenAPI document list exactly the server's routes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from kes_core.protocol import ROUTES

DOCS = Path(__file__).parents[3] / "docs"


def test_page_lists_every_route() -> None:
    listed = re.findall(r"^\| `([A-Z]+ /[^` ]*)` \|", (DOCS / "api.md").read_text(), re.MULTILINE)
    argument = {route.path: f"<{route.argument.value}>" if route.argument else "" for route in ROUTES}
    assert sorted(listed) == sorted(f"{route.method} {route.path}{argument[route.path]}" for route in ROUTES)


def test_document_describes_every_route() -> None:
    """`scripts/openapi.py --check` compares the whole document, with the versions in the lock file."""
    paths = json.loads((DOCS / "openapi.json").read_text())["paths"]
    described = {
        (method.upper(), path): content["summary"] for path, item in paths.items() for method, content in item.items()
    }
    argument = {route.path: f"{{{route.argument.value}}}" if route.argument else "" for route in ROUTES}
    assert described == {(route.method, route.path + argument[route.path]): route.summary for route in ROUTES}
