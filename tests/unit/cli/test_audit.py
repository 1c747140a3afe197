"""What `kes audit verify` reports on the end of a chain, which it knows only from the server's note."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from kes_core.audit.chain import ChainLink, make_line, parse_link
from tests.helpers.command import on_a_terminal, run_kes

SAID = "The end was not checked: 'audit.log.chain' {}, so records may be missing there."


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A folder with a chain of three records and the note of its end."""
    lines, last = [], ChainLink()
    for number in range(3):
        line, last = make_line(f'{{"number":{number}}}', last, first=number == 0)
        lines.append(line + "\n")
    (tmp_path / "audit.log").write_text("".join(lines))
    (tmp_path / "audit.log.chain").write_text(json.dumps({"n": last.number, "hash": last.hash.hex(), "size": 0}))
    return tmp_path


def verify(directory: Path, code: int = 0) -> Any:
    done = run_kes("audit", "verify", "--json", directory / "audit.log")
    assert (done.returncode, done.stderr) == (code, "")
    return json.loads(done.stdout)


def test_files_that_logrotate_has_compressed(directory: Path) -> None:
    log = directory / "audit.log"
    rotated = directory / "audit.log.1.gz"
    lines = log.read_text().splitlines(keepends=True)
    rotated.write_bytes(gzip.compress("".join(lines).encode()))
    more, end = make_line('{"number":3}', parse_link(lines[-1].rstrip("\n")) or ChainLink(), first=True)
    log.write_text(more + "\n")
    (directory / "audit.log.chain").write_text(json.dumps({"n": end.number, "hash": end.hash.hex(), "size": 0}))
    done = run_kes("audit", "verify", "--json", rotated, log)
    found = json.loads(done.stdout)
    assert (done.returncode, found["first"], found["last"], found["end_checked"]) == (0, 1, 4, True)
    rotated.write_bytes(rotated.read_bytes()[:-12])
    done = run_kes("audit", "verify", "--json", rotated, log)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"Error: '{rotated}' is compressed, and damaged or cut off\n"


def test_end_that_is_noted(directory: Path) -> None:
    assert (verify(directory)["ok"], verify(directory)["end_checked"]) == (True, True)
    assert "not checked" not in on_a_terminal("audit", "verify", "audit.log", cwd=directory)
    log = directory / "audit.log"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    cut = verify(directory, code=1)
    assert [problem["message"] for problem in cut["problems"]] == ["record 3 is missing at the end"]
    assert (cut["ok"], cut["end_checked"]) == (False, True)


def test_end_whose_note_is_missing(directory: Path) -> None:
    """Without the note, the command can't detect a cut-off line, and says so."""
    log = directory / "audit.log"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    (directory / "audit.log.chain").unlink()
    found = verify(directory)
    assert (found["ok"], found["last"], found["end_checked"]) == (True, 2, False)
    shown = on_a_terminal("audit", "verify", "audit.log", cwd=directory)
    assert shown.endswith(f"\x1b[33m{SAID.format('is missing')}\x1b[0m\n")


@pytest.mark.parametrize("text", ["", "[]", '{"n": 3}', '{"n": "x", "hash": ""}', "\xff"])
def test_end_whose_note_is_damaged(directory: Path, text: str) -> None:
    (directory / "audit.log.chain").write_bytes(text.encode("latin-1"))
    assert verify(directory)["end_checked"] is False
    assert SAID.format("holds no end of a chain") in on_a_terminal("audit", "verify", "audit.log", cwd=directory)


def test_end_whose_note_can_not_be_read(directory: Path) -> None:
    note = directory / "audit.log.chain"
    note.unlink()
    note.mkdir()
    assert verify(directory)["end_checked"] is False
    assert SAID.format("can't be read (Is a directory)") in on_a_terminal("audit", "verify", "audit.log", cwd=directory)
