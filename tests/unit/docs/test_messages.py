"""docs/messages.md and the code agree: each quoted message is in the code, and each raised message is on the page."""

from __future__ import annotations

import ast
import difflib
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from kes_core.config import ConfigError, parse_config
from kes_core.plugins import load_plugins
from tests.helpers.configurations import BROKEN, MISSING, START

ROOT: Final = Path(__file__).parents[3]
ANY: Final = "…"
"""Stands for a variable part of a message on the page."""
OF_LIBRARIES: Final = {
    "input should be …",
    "Plugin … for hook …",
    "…: [Errno …] Connection refused",
    "…: [Errno …] Name or service not known",
    "… timed out",
}
"""Messages of pydantic, pluggy and httpx, whose words are not in our code."""
REPLACED: Final = {
    "… is not JSON",
    "not a JSON object",
    "nested too deeply",
    "not an RFC 3339 time",
    "not an RFC 3339 time in UTC",
    "an HMAC key has … bytes",
    "a key without an HMAC key can't be stored",
    "unknown cipher; known are …",
    "the seed of an API key has … bytes",
    "the other process is gone",
    "the worker does not answer",
    "ask for its health",
    "a Page",
    "… is not a valid name for a metric: expected letters, digits and _",
    "a plugin can have … metrics",
    "the plugin has a metric … of another kind",
    "the counter … can't grow by …",
    "a KeyStore whose 'capabilities' are StoreCapabilities",
    "name_pattern is not a regular expression: …",
    "max_value_size must be 1 or more, max_concurrency 0 or more",
    "eventually_consistent and recovers_deleted must be 0 or more seconds",
}
"""Texts that no operator sees alone: a caller embeds them in a message, or replaces them."""
FINDINGS: Final = re.compile(r"kes_core/doctor/|kes_\w+/doctor\.py")
"""The modules of the doctor, which prints the cure next to each finding."""
LOG: Final = {"warning", "error", "exception", "critical"}
FOR_PROGRAMMERS: Final = {"AssertionError", "AttributeError", "NotImplementedError", "TypeError"}


def quoted() -> Iterator[tuple[str, str]]:
    """Yield each message on the page and its place: the code spans in the first column of the tables."""
    for number, line in enumerate((ROOT / "docs" / "messages.md").read_text(encoding="utf-8").splitlines(), 1):
        cell = re.match(r"\| (.*?[^\\]) \|", line)
        for span in cell[1].split("<br>") if cell else ():
            if span.startswith("`"):
                yield f"docs/messages.md:{number}", span.strip("`").strip().replace(r"\|", "|")


@functools.cache
def modules() -> dict[str, ast.Module]:
    """Return the modules of servers and commands, by path."""
    files = sorted([*(ROOT / "kes_core").rglob("*.py"), *ROOT.glob("plugins/*/kes_*/**/*.py")])
    return {str(file.relative_to(ROOT)): ast.parse(file.read_bytes()) for file in files if "testing" not in file.parts}


def texts(node: ast.AST, path: str) -> Iterator[tuple[str, str]]:
    """Yield the strings below `node` and their places, with `…` for their variable parts."""
    waiting: list[ast.AST] = [node]
    for each in waiting:
        if isinstance(each, ast.JoinedStr):
            parts = [str(part.value) if isinstance(part, ast.Constant) else ANY for part in each.values]
            yield f"{path}:{each.lineno}", "".join(parts)
            waiting += [part.value for part in each.values if isinstance(part, ast.FormattedValue)]
        elif isinstance(each, ast.Constant) and isinstance(each.value, str | bytes):
            text = each.value if isinstance(each.value, str) else each.value.decode("ascii", "replace")
            yield f"{path}:{each.lineno}", re.sub(r"%[\d.]*[a-z]|\{\w*\}", ANY, text)
        else:
            waiting += ast.iter_child_nodes(each)


def raised() -> Iterator[tuple[str, str]]:
    """Yield each text of an error, of a configuration problem or of a log line, and its place."""
    for path, module in modules().items():
        for node in ast.walk(module) if not FINDINGS.search(path) else ():
            if not isinstance(call := node.exc if isinstance(node, ast.Raise) else node, ast.Call):
                continue
            owner, _, name = ast.unparse(call.func).rpartition(".")
            is_log = name in LOG and owner.startswith("logg")
            is_error = isinstance(node, ast.Raise) and name not in FOR_PROGRAMMERS
            if is_log or is_error or name in {"_report", "ConfigProblem"}:
                for argument in call.args[:1] if is_log else (*call.args, *(each.value for each in call.keywords)):
                    yield from (found for found in texts(argument, path) if " " in found[1])


def holds(string: list[str], part: list[str]) -> bool:
    """Tell whether a string has these words in a row, where `…` stands for one word that varies."""
    for start in range(len(string) - len(part) + 1):
        pairs = list(zip(string[start:], part, strict=False))
        same = sum(one == other for one, other in pairs)
        if same * 2 >= len(part) and all(one in {other, ANY} for one, other in pairs):
            return True
    return False


@functools.cache
def split(texts: tuple[str, ...]) -> tuple[list[list[str]], str]:
    """Return the words of each text, and all words in one string."""
    strings = [re.findall(rf"\w+|{ANY}", text) for text in texts]
    return strings, "\n".join(f" {' '.join(string)} " for string in strings)


def missing(text: str, others: tuple[str, ...]) -> Iterator[str]:
    """Yield the parts of a message that no other text contains, each with the closest text."""
    strings, everything = split(others)
    for clause in re.split(rf"{ANY}|[:;(),] ", text):
        part = re.findall(r"\w+", clause)
        if f" {' '.join(part)} " not in everything and not any(holds(string, part) for string in strings):
            close = difflib.get_close_matches(clause, others, 1, 0.5)
            yield f"{clause.strip()!r}" + (f" (the closest is {close[0]!r})" if close else "")


def test_every_quoted_message_is_in_the_code() -> None:
    said = tuple({text for path, module in modules().items() for _place, text in texts(module, path)})
    wrong = [
        f"{place}: `{message}`: the code does not say {part}"
        for place, message in quoted()
        if message not in OF_LIBRARIES
        for part in missing(message, said)
    ]
    assert not wrong, "change these messages to the words of the code, or remove them:\n" + "\n".join(wrong)


def test_every_raised_message_is_on_the_page() -> None:
    entries = tuple(message for _place, message in quoted())
    wrong = [
        f"{place}: {message!r}: docs/messages.md does not quote {part}"
        for place, message in raised()
        if message not in REPLACED
        for part in missing(message, entries)
    ]
    assert not wrong, "add these messages, with cause and cure, to docs/messages.md:\n" + "\n".join(wrong)
    assert {text for _place, text in raised()} >= REPLACED


@pytest.mark.parametrize("text", [*(START + text for text in BROKEN), *MISSING])
def test_every_error_of_a_broken_configuration_is_on_the_page(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename="config.yml", plugins=load_plugins(), environ={})
    entries = [".*".join(map(re.escape, message.split(ANY))) for _place, message in quoted()]
    for problem in caught.value.problems:
        assert any(re.search(entry, problem.message) for entry in entries), f"add to docs/messages.md: {problem}"
