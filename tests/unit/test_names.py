from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.names import is_valid_name, is_valid_pattern
from tests.helpers.vectors import vectors

CHECKS = {"name": is_valid_name, "pattern": is_valid_pattern}
NAMES = vectors("names")


@pytest.mark.parametrize("case", NAMES["cases"], ids=[f"{case['kind']} {case['value']!r}" for case in NAMES["cases"]])
def test_names_of_the_vectors(case: dict[str, Any]) -> None:
    assert CHECKS[case["kind"]](case["value"]) is case["valid"]


@pytest.mark.parametrize("case", NAMES["older"], ids=[repr(case["value"]) for case in NAMES["older"]])
def test_names_that_older_releases_saw_otherwise(case: dict[str, Any]) -> None:
    assert CHECKS[case["kind"]](case["value"]) is case["valid_now"]


@pytest.mark.parametrize("case", NAMES["fs"], ids=[repr(case["value"]) for case in NAMES["fs"]])
def test_names_of_files(case: dict[str, Any]) -> None:
    assert is_valid_name(case["value"]) is case["valid"]


@given(st.text(max_size=90))
def test_every_name_is_a_pattern_and_safe_in_a_path(text: str) -> None:
    if is_valid_name(text):
        assert is_valid_pattern(text)
        assert text.isascii()
        assert not set(text) & set("/.\\~*\0\n %")
        assert 1 <= len(text) <= 80
