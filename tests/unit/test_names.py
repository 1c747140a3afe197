from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.names import (
    MAX_ENTRY_LENGTH,
    is_hidden_entry,
    is_valid_entry,
    is_valid_name,
    is_valid_pattern,
    parse_revision_name,
    parse_wrapping_key_name,
    revision_name,
    wrapping_key_name,
)
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


@given(st.from_regex(r"[A-Za-z0-9_-]{1,84}", fullmatch=True), st.integers(1, 1000), st.binary(min_size=8, max_size=8))
def test_name_of_a_version_is_that_of_no_key_and_of_one_version(key: str, number: int, first: bytes) -> None:
    name = revision_name(key, number, first.hex())
    assert not is_valid_name(name)
    assert parse_revision_name(key) is None
    assert parse_revision_name(name) == ((key, number, first.hex()) if is_valid_name(key) else None)
    assert is_valid_entry(name) is is_valid_name(key)


@given(st.text(max_size=60) | st.from_regex(r"k-r[0-9]{1,4}-[0-9a-f]{15,17}-?", fullmatch=True))
def test_parts_of_a_name_make_the_name(text: str) -> None:
    parts = parse_revision_name(text)
    assert parts is None or revision_name(*parts) == text
    assert is_hidden_entry(text) is (parts is not None)
    assert is_valid_entry(text) is (is_valid_name(text) or parts is not None)


@given(st.binary(min_size=32, max_size=32))
def test_name_of_a_wrapping_key_is_that_of_nothing_else(digest: bytes) -> None:
    name = wrapping_key_name(digest.hex())
    assert parse_wrapping_key_name(name) == digest.hex()
    assert is_hidden_entry(name)
    assert is_valid_entry(name)
    assert not is_valid_name(name)
    assert parse_revision_name(name) is None
    assert len(name) <= MAX_ENTRY_LENGTH


@given(st.from_regex(r"kes-wrapping-key-[0-9a-fA-F]{63,65}-?", fullmatch=True))
def test_id_of_a_wrapping_key_makes_its_name(text: str) -> None:
    key_id = parse_wrapping_key_name(text)
    assert key_id is None or wrapping_key_name(key_id) == text
    assert is_hidden_entry(text) is (key_id is not None)
