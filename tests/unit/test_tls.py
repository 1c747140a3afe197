"""Messages about files that TLS can't use."""

from __future__ import annotations

from pathlib import Path

import pytest
from OpenSSL import SSL

from kes_core.tls import TLSError, load_client_cas


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("none.crt", "can't be read: No such file or directory"),
        ("text.crt", "contains no valid PEM certificate"),
    ],
)
def test_missing_ca_files_and_invalid_ones_have_different_errors(name: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / "text.crt").write_text("text")
    file = tmp_path / name
    with pytest.raises(TLSError) as caught:
        load_client_cas(SSL.Context(SSL.TLS_SERVER_METHOD), file)
    assert str(caught.value) == f"tls.ca {str(file)!r} {problem}"
