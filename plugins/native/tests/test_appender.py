"""Records that native code appends to the audit file are those of Python, and none is lost, doubled or out of order."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.doctor import PLUGINS, config

pytest.importorskip("kes_native._native", reason="the native part of kes-native is not built")

from kes_core.audit.event import Ended, line_start, make_lines, reason_text, request_text
from kes_core.audit.file import FileSink
from kes_core.audit.lines import Appender
from kes_core.audit.log import AuditLog, open_audit_log
from kes_native.runtime import NativeRuntime

TEXT = st.text(max_size=40)
ENDED = st.lists(
    st.tuples(
        st.builds(lambda path, policy: request_text(ip="::1", path=path, identity="", policy=policy), TEXT, TEXT),
        st.integers(100, 599),
        st.floats(0, 1e9),
        TEXT.map(reason_text),
    ),
    max_size=5,
)
STEPS = st.lists(st.one_of(st.tuples(st.sampled_from([0, 1, 2]), st.integers(1, 3)), st.just("rotate")), max_size=12)
REQUEST = request_text(ip="", path="/", identity="")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


@contextmanager
def appender(path: Path) -> Iterator[Appender]:
    file = os.open(path, os.O_APPEND | os.O_RDWR | os.O_CREAT)
    status = os.fstat(file)
    try:
        yield NativeRuntime.make_appender(file, os.fsencode(path), status.st_dev, status.st_ino)
    finally:
        os.close(file)


def codes(*files: Path) -> list[int]:
    return [json.loads(line)["response"]["code"] for file in files for line in file.read_text().splitlines()]


@given(ended=ENDED)
def test_lines_are_those_of_python(ended: list[Ended]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path, start = Path(name) / "audit.log", line_start()
        with appender(path) as native:
            assert native.append(start, ended)
        # Python's lines begin with a later time of the same length.
        assert path.read_text() == "".join(f"{start}{line[len(start) :]}\n" for line in make_lines(ended))


@given(steps=STEPS)
def test_lines_of_several_sinks_are_all_there_in_order(steps: list[tuple[int, int] | str]) -> None:
    """Two of three sinks of one file have native code, and the file is moved away again and again."""
    with tempfile.TemporaryDirectory() as name:
        path, files, sent = Path(name) / "audit.log", list[Path](), list[int]()
        sinks = [FileSink(path) for _ in range(3)]
        for sink in sinks[1:]:
            sink.speed_up(NativeRuntime.make_appender)
        for step in steps:
            if isinstance(step, str):
                if path.exists():
                    files.append(path.rename(Path(name) / f"audit.log.{len(files)}"))
                continue
            which, count = step
            numbers = range(len(sent) + 100, len(sent) + 100 + count)
            sent += numbers
            sinks[which].write_ended([(REQUEST, number, 0.0, "") for number in numbers])
        for sink in sinks:
            sink.finish()
        assert codes(*files, *([path] if path.exists() else [])) == sent


@pytest.mark.parametrize("is_replaced", [False, True])
def test_file_that_was_moved_away_is_left_alone(path: Path, is_replaced: bool) -> None:
    with appender(path) as native:
        assert native.append(line_start(), [(REQUEST, 200, 0.0, "")])
        moved = path.rename(path.with_suffix(".1"))
        if is_replaced:
            path.write_text("")
        assert not native.append(line_start(), [(REQUEST, 201, 0.0, "")])
    assert codes(moved) == [200]


def test_nothing_is_left_of_records_that_do_not_fit(path: Path) -> None:
    """A limit of the file's size simulates a full disk: the system writes a part, then no more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with appender(path) as native:
        assert native.append(line_start(), [(REQUEST, 200, 0.0, "")])
        before = path.read_bytes()
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 30, hard))
        try:
            appended = native.append(line_start(), [(REQUEST, 201, 0.0, "")])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (appended, path.read_bytes()) == (False, before)
        assert native.append(line_start(), [(REQUEST, 202, 0.0, "")])
    assert codes(path) == [200, 202]


def test_record_does_not_continue_a_line_that_was_cut_off(path: Path) -> None:
    path.write_text('{"ti')
    sink = FileSink(path)
    sink.speed_up(NativeRuntime.make_appender)
    for number in (200, 201):
        sink.write_ended([(REQUEST, number, 0.0, "")])
    sink.finish()
    first, *others = path.read_text().splitlines()
    assert first == '{"ti'
    assert [json.loads(line)["response"]["code"] for line in others] == [200, 201]


def test_log_keeps_the_order_whichever_way_records_take(tmp_path: Path, path: Path) -> None:
    """Records wait while the file can't be written, and go to the file of the next configuration before its own."""

    async def opened(file: str) -> AuditLog:
        settings = config(tmp_path, audit={"file": {"path": file}})
        return await open_audit_log(settings, PLUGINS, make_appender=NativeRuntime.make_appender)

    async def run() -> None:
        old, new = await opened("/dev/full"), await opened(str(path))
        for code in (200, 201):
            old.add(REQUEST, code, 0.0)
            old.settle()
        new.replace(old)
        new.add(REQUEST, 202, 0.0)
        assert new.settle() == 1
        # The first of them waits for the next turn of the loop; the second one does not overtake it.
        new.record(ip="", path="/", identity="", code=403, seconds=0, reason="no")
        new.add(REQUEST, 204, 0.0, "why")
        assert new.settle() == 2
        assert new.settle() == 0
        assert codes(path) == [200, 201, 202, 403, 204]
        await new.close()
        await old.close()

    asyncio.run(run())
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert [record["response"].get("reason") for record in records] == [None, None, None, "no", "why"]
