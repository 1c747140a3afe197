"""The test vectors: the protocol as data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parents[1] / "vectors"


def vectors(name: str) -> Any:
    """Return the content of one file of test vectors."""
    return json.loads((VECTORS / f"{name}.json").read_text())
