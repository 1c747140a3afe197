"""Plugins with a fault in what they tell `kes doctor`."""

from __future__ import annotations

from typing import Any

from kes_core import Finding
from tests.plugins.faulty.bases import SECRET, FaultyEngine, FaultySink, FaultyStore, forever


async def _hang(_settings: Any, _context: Any) -> Any:
    await forever()


async def _raise(_settings: Any, _context: Any) -> Any:
    raise ValueError(SECRET)


async def _exit(_settings: Any, _context: Any) -> Any:
    raise SystemExit(SECRET)


async def _text(_settings: Any, _context: Any) -> Any:
    return "all is well"


async def _texts(_settings: Any, _context: Any) -> Any:
    return ["all is well"]


def _at_once(_settings: Any, _context: Any) -> Any:
    return []


async def _lines(_settings: Any, _context: Any) -> Any:
    return [Finding.ok("disk", "it has\nroom\x1b[2J")]


def _no_policy(_settings: Any) -> Any:
    raise ValueError(SECRET)


class DiagnoseHangs(FaultyStore):
    """`diagnose` never returns."""

    hangs = True

    more = {"diagnose": _hang}  # noqa: RUF012


class DiagnoseRaises(FaultyStore):
    """`diagnose` raises."""

    more = {"diagnose": _raise}  # noqa: RUF012


class DiagnoseExits(FaultyStore):
    """`diagnose` calls `sys.exit()`."""

    more = {"diagnose": _exit}  # noqa: RUF012


class DiagnoseReturnsText(FaultyStore):
    """`diagnose` returns text."""

    more = {"diagnose": _text}  # noqa: RUF012


class EngineDiagnoseReturnsTexts(FaultyEngine):
    """`diagnose` of a policy engine returns a list of texts."""

    more = {"diagnose": _texts}  # noqa: RUF012


class SinkDiagnoseRaises(FaultySink):
    """`diagnose` of an audit sink raises."""

    more = {"diagnose": _raise}  # noqa: RUF012


class DiagnoseIsSynchronous(FaultyStore):
    """`diagnose` is not an `async def` function."""

    more = {"diagnose": _at_once}  # noqa: RUF012


class DiagnoseIsText(FaultyStore):
    """`diagnose` is not a function."""

    more = {"diagnose": "text"}  # noqa: RUF012


class FindingHasManyLines(FaultyStore):
    """A finding has several lines, and characters that control a terminal."""

    more = {"diagnose": _lines}  # noqa: RUF012


class AccessPolicyIsText(FaultyStore):
    """`access_policy` is not a function."""

    more = {"access_policy": "text"}  # noqa: RUF012


class AccessPolicyRaises(FaultyStore):
    """`access_policy` raises."""

    more = {"access_policy": _no_policy}  # noqa: RUF012


class AccessPolicyReturnsANumber(FaultyStore):
    """`access_policy` returns a number."""

    more = {"access_policy": id}  # noqa: RUF012
