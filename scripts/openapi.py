"""Write the OpenAPI document of the API, docs/openapi.json, from the table of routes; `--check` only compares."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from kes_core.server.api.openapi import document
from kes_core.server.api.system import version

PAGE = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def main() -> None:
    """Write the document, or exit with 1 if it is not up to date."""
    text = json.dumps(document(version()), indent=2) + "\n"
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not up to date: run python3 scripts/openapi.py")


if __name__ == "__main__":
    main()
