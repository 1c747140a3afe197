"""The tutorial for Vault: its commands and its files, in their order, up to the first key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.documents import ROOT
from tests.helpers.openbao import bao_program
from tests.helpers.reader import Reader

PAGE = ROOT / "docs" / "vault" / "tutorial.md"
SERVERS = {"bao server": "server started!", "kes server": "listening on https://"}
"""Commands that stay, and what they print when they are ready."""


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path, ports=("8200", "8201", "7373"), programs=[Path(bao_program()).parent])
    yield reader
    reader.stop()


@pytest.mark.slow
def test_tutorial(reader: Reader) -> None:
    """The page is complete: nothing is added but ports that are free."""
    text = PAGE.read_text()
    names = {"hcl": "vault.hcl", "yaml": "config.yml"}
    printed = []
    for language, block in re.findall(r"^```(sh|hcl|yaml)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        if language in names:
            assert f"Save this as `{names[language]}`" in text
            reader.save(names[language], block)
            continue
        *before, last = block.splitlines()
        ready = next((said for server, said in SERVERS.items() if last.startswith(server)), None)
        if ready is None:
            printed.append(reader.run(block))
        else:
            reader.run("\n".join([*before, ":"]))
            reader.start(last, ready)
    whole = "".join(printed)
    assert " 0 errors, 2 warnings, " in whole  # of the doctor: relative paths
    dek = json.loads(next(line for line in whole.splitlines() if line.startswith('{"plaintext"')))
    assert dek["ciphertext"]
    assert "my-key" in whole[whole.index("ciphertext") :]  # OpenBao has it
    with pytest.raises(AssertionError, match="not authorized"):
        reader.run("kes key rm my-key")
