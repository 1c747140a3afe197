"""Several sinks of one file, as workers have, lose no line, whoever writes next and whenever the file is moved away."""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core.audit.chain import Verification
from kes_core.audit.file import MAX_WAITING, FileSink

STEPS = st.lists(st.one_of(st.tuples(st.sampled_from([0, 1]), st.integers(1, 3)), st.just("rotate")), max_size=12)


@pytest.mark.parametrize("chain", [False, True])
@given(steps=STEPS)
def test_lines_of_two_sinks_are_all_there_in_order(steps: list[tuple[int, int] | str], chain: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "audit.log"
        files: list[Path] = []
        sent: list[str] = []
        sinks = [FileSink(path, chain=chain, key=b"s3cret") for _ in range(2)]
        for step in steps:
            if isinstance(step, str):
                if path.exists():
                    files.append(path.rename(Path(name) / f"audit.log.{len(files)}"))
                continue
            which, count = step
            lines = [f'{{"line":{len(sent) + number}}}' for number in range(count)]
            sent += lines
            sinks[which].write_lines(lines)
        for sink in sinks:
            sink.finish()
        files += [path] if path.exists() else []
        found = [line for file in files for line in file.read_text().splitlines()]
        if not chain:
            assert found == sent
            return
        assert [line.partition(',"chain"')[0] + "}" for line in found] == sent
        verification = Verification(b"s3cret")
        problems = [
            problem for file in files for problem in verification.check(str(file), file.read_text().splitlines(True))
        ]
        assert problems == []
        assert verification.records == len(sent)


def test_chain_does_not_go_on_from_a_note_that_another_process_has_replaced(tmp_path: Path) -> None:
    """The note on the end of the chain is read again when its text is not what this sink wrote last."""
    path, note = tmp_path / "audit.log", tmp_path / "audit.log.chain"
    sink = FileSink(path, chain=True)
    for number in range(2):
        sink.write_lines([f'{{"line":{number}}}'])
        if not number:
            older = note.read_bytes()
    note.write_bytes(older)
    sink.write_lines(['{"line":2}'])
    sink.finish()
    verification = Verification()
    assert list(verification.check("audit.log", path.read_text().splitlines(True))) == []
    assert verification.records == 3


def test_record_does_not_continue_a_line_that_was_cut_off(tmp_path: Path) -> None:
    """As after a power failure."""
    path = tmp_path / "audit.log"
    path.write_text('{"line":0}\n{"li')
    sink = FileSink(path)
    sink.write_lines(['{"line":1}'])
    sink.write_lines(['{"line":2}'])
    sink.finish()
    assert path.read_text() == '{"line":0}\n{"li\n{"line":1}\n{"line":2}\n'


def test_record_follows_a_part_of_one_that_cannot_be_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full, and the file is for appending only (`chattr +a`)."""
    path, lines = tmp_path / "audit.log", [f'{{"line":{number}}}' for number in range(3)]

    def refuse(_file: int, _size: int) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    async def run() -> None:
        sink = FileSink(path)
        sink.write_lines(lines[:1])
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        monkeypatch.setattr(os, "ftruncate", refuse)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 4, hard))
        try:
            sink.write_lines(lines[1:2])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sink.write_lines(lines[2:])
        await sink.close()

    asyncio.run(run())
    assert path.read_text().splitlines() == [lines[0], lines[1][:4], *lines[1:]]


def test_the_oldest_records_are_lost_first(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "logs" / "audit.log"

    async def run() -> None:
        path.parent.mkdir()
        sink = FileSink(path)
        away = path.parent.rename(tmp_path / "away")
        for first in range(0, MAX_WAITING + 10, 10):
            sink.write_lines([f'{{"line":{number}}}' for number in range(first, first + 10)])
        os.rename(away, path.parent)  # noqa: PTH104 # back to where the sink looks
        await sink.close()

    asyncio.run(run())
    lines = path.read_text().splitlines()
    assert (lines[0], len(lines)) == ('{"line":10}', MAX_WAITING)
    assert "can be written again; 10 records are lost" in caplog.text
