"""The fixture `kes_server`: a real server in the tests of a plugin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kes_core.testing import RunningServer

Start = Callable[..., RunningServer]


def test_server_on_a_given_configuration(kes_server: Start) -> None:
    server = kes_server({"keys": [{"name": "my-key"}]})
    with server.client() as client:
        data_key = client.generate_data_key("my-key")
        assert client.decrypt("my-key", data_key.ciphertext) == data_key.plaintext
    server.configure({"keys": [{"name": "my-key"}, {"name": "other"}]})
    server.reload()
    with server.client() as client:
        client.describe_key("other")


def test_server_that_does_not_start_or_reload_says_why(kes_server: Start) -> None:
    section: dict[str, Any] = {"keystore": {"nowhere": {}}}
    with pytest.raises(RuntimeError, match="no installed plugin provides it"):
        kes_server(section)
    server = kes_server()
    server.configure(section)
    with pytest.raises(RuntimeError, match="no installed plugin provides it"):
        server.reload()
