"""What is wrong with the text of a configuration, as findings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from kes_core.findings import Finding, FindingLevel

if TYPE_CHECKING:
    from kes_core.config import ConfigProblem

__all__ = ["configuration_findings", "with_cure", "without_repetitions"]

_SUBJECT: Final = "configuration"
_LOOK_UP: Final = "docs/messages.md explains this message: search it for its words"
_ELSEWHERE: Final = ("policy.", "tls.proxy.")
"""The sections that the doctor examines itself."""
_BAD: Final = (FindingLevel.WARNING, FindingLevel.ERROR)


def configuration_findings(problems: Iterable[ConfigProblem], level: FindingLevel) -> Iterator[Finding]:
    """Return the problems or the warnings of a configuration as findings. Each has a cure."""
    for problem in problems:
        if level is FindingLevel.WARNING and problem.path.startswith(_ELSEWHERE):
            continue
        found = with_cure(Finding(level, _SUBJECT, str(problem)))
        if found.cure == _LOOK_UP:
            place = f"line {problem.line} of {problem.file}" if problem.line else problem.file
            if not problem.path:
                place = f"{place}; --config names the file"
            found = replace(found, cure=f"correct {f'{problem.path} in ' if problem.path else ''}{place}")
        yield found


def with_cure(finding: Finding) -> Finding:
    """Return a finding that says what to do. Many messages end with that: `unknown field; did you mean 'address'?`."""
    if finding.cure or finding.level not in _BAD:
        return finding
    message, separator, cure = finding.message.rpartition("; ")
    if not separator:
        return replace(finding, cure=_LOOK_UP)
    return replace(finding, message=message, cure=cure)


def without_repetitions(findings: Iterable[Finding]) -> list[Finding]:
    """Return `findings` without those whose message another one has already, perhaps about another subject."""
    first: dict[str, Finding] = {}
    for finding in findings:
        first.setdefault(finding.message, finding)
    return list(first.values())
