"""The section `frontends.kubernetes`, and the form of `key_id`."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from kes_kubernetes import KMSConfig
from kes_kubernetes.keyid import KeyID
from tests.helpers.kms import IDENTITY

FIELDS: dict[str, Any] = {"socket": "/run/kes/kms.sock", "key": "my-key", "identity": IDENTITY}


def test_least_section() -> None:
    config = KMSConfig.model_validate(FIELDS)
    assert (config.mode, config.owner, config.group) == ("0600", "", "")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("socket", "", "is empty, but required"),
        ("socket", "unix:///run/kes/kms.sock", "is not a path; expected a path like /run/kes/kms.sock"),
        ("socket", "@kes", "is an abstract socket, which has no owner and no mode"),
        ("socket", "unix:@kes", "is an abstract socket"),
        ("socket", "/run/kes/", "is a directory; expected a path like"),
        ("socket", "/run/\nkes", "is not a path"),
        ("key", "my key", "is not a valid name"),
        ("identity", "disabled", "is not the identity of a client, which has 64 hex digits"),
        ("identity", IDENTITY.upper(), "write its hex digits in lower case"),
        ("mode", "600x", "is not a file mode; expected one like 0600 or 0660"),
        ("mode", "0666", "lets every user of the machine decrypt secrets"),
        ("mode", "4600", "is not a file mode"),
        ("owner", "a b", "is not the name or the number of a user or group"),
        ("group", "-1", "is not the name or the number of a user or group"),
    ],
)
def test_wrong_field(field: str, value: str, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        KMSConfig.model_validate(FIELDS | {field: value})
    (error,) = caught.value.errors()
    assert error["loc"] == (field,)
    assert message in error["msg"]


@given(
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}", fullmatch=True),
    st.integers(1, 9999),
    st.datetimes(timezones=st.just(dt.UTC)),
)
def test_key_ids_are_read_back(name: str, version: int, created_at: dt.datetime) -> None:
    key_id = KeyID.of(name, version, created_at)
    assert KeyID.parse(str(key_id)) == key_id
    assert len(str(key_id)) <= 114


@given(st.text())
def test_other_text_is_no_key_id(text: str) -> None:
    parsed = KeyID.parse(text)
    assert parsed is None or str(parsed) == text
