"""The server's JSON is that of the standard library."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from kes_core.encoding import encode_json

TEXT = st.text(st.characters())
SIMPLE = st.one_of(TEXT, st.none(), st.booleans(), st.integers())
VALUES = st.one_of(
    st.dictionaries(TEXT, TEXT, max_size=4),
    st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3)),
)


@given(VALUES)
def test_answer_is_compact_json(value: Any) -> None:
    assert encode_json(value) == json.dumps(value, separators=(",", ":")).encode("ascii")
