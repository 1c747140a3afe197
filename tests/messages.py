"""Collects the messages that an operator can meet from the source.

A message that can't be followed to its text is collected all the same, as one of which nothing is known: it is for the
test to say why that may be.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tests.source import VARIABLE, Module, Texts, name_of, without_placeholders

__all__ = ["ROOT", "VARIABLE", "Site", "collect", "files"]

ROOT: Final = Path(__file__).resolve().parent.parent
_LETTERS: Final = re.compile(r"[A-Za-z]{2}")
_LOG: Final = {"debug": 0, "info": 0, "warning": 0, "error": 0, "exception": 0, "critical": 0, "log": 1}
"""The methods of loggers, and the place of the message."""
_FIRST_ERROR: Final = 400
_ERRORS: Final = {"ValueError", "RuntimeError", "UsageError", "BadParameter", "ClickException", "SystemExit"}
_BASES: Final = {*_ERRORS, "Exception", "KeyStoreError", "RequestException", "ConnectionError"}
_ARGUMENT: Final[dict[str, int | str]] = {
    "log_fault": 1,
    # Errors, and other objects with a message.
    "APIError": 1,
    "YAMLError": 2,
    "ConfigProblem": 3,
    "Problem": 2,  # of an audit log's chain
    "PluginInfo": "error",
    "Verdict": 1,
    "_NotRouted": 2,
    # Functions of other modules, and callbacks, that take a message to where it is shown.
    "error_body": 0,
    "notify_ready": 0,
    "set_app_data": 0,  # of a TLS connection: why its certificate is refused
    "self._on_failed": 1,
    "self._complain": 0,
    "self._report": 1,  # of the reader of configurations
    "_log_refusal": 3,
    "exit": 0,  # sys.exit
}
"""Where the message of a call stands, if it is no error, or not the first argument; a text is a keyword's name."""


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the source that makes a message."""

    file: str
    line: int
    function: str
    carrier: str
    """The class or function that the message is given to."""
    text: str
    """With `…` for what varies."""
    passes_on: bool
    """Whether it repeats an error that is being handled: what that says was collected where it is made."""

    @property
    def is_known(self) -> bool:
        """Whether anything is known of the text."""
        return _LETTERS.search(self.text) is not None

    def __str__(self) -> str:
        return f"{self.file}:{self.line} ({self.function}): {self.text}"


class _Message(NamedTuple):
    carrier: str
    expression: ast.expr
    item: int = -1
    """Which item of the expression it is, where that is a whole tuple."""


def files() -> list[Path]:
    """Return the modules of the packages, but for the conformance kit, generated code and the tables of messages."""
    found = [*(ROOT / "kes_core").rglob("*.py"), *ROOT.glob("plugins/*/kes_*/**/*.py")]
    skipped = {ROOT / "kes_core" / "testing", ROOT / "kes_core" / "messages"}
    return [
        file
        for file in sorted(found)
        if not skipped & set(file.parents) and file.name != "messages.py" and not file.name.endswith("_pb2.py")
    ]


def collect(sources: Iterable[Path], root: Path = ROOT) -> list[Site]:
    """Return all places that make messages, each once for every text that it can have."""
    return list(_Collector([Module(file, root) for file in sources]).sites())


class _Collector:
    def __init__(self, modules: list[Module]) -> None:
        self._modules = modules
        self._texts = Texts(modules)
        bases = {each.name: {name_of(base) for base in each.bases} for module in modules for each in module.classes}
        errors = set(_BASES)
        while more := {name for name, above in bases.items() if above & errors} - errors:
            errors |= more
        self._errors = errors & bases.keys() | _ERRORS | {"KeyStoreError"}

    def sites(self) -> Iterator[Site]:
        for module in self._modules:
            raised = {node.exc for node in ast.walk(module.tree) if isinstance(node, ast.Raise)}
            for node in ast.walk(module.tree):
                for message in self._messages(node, is_raised=node in raised):
                    yield from self._sites(module, node, message)

    def _sites(self, module: Module, node: ast.AST, message: _Message) -> Iterator[Site]:
        carrier, expression, index = message
        found = self._texts.of_item(module, expression, index) if index >= 0 else self._texts.of(module, expression)
        if carrier == "log":  # its arguments are put in by logging
            found = without_placeholders(found)
        handled = module.handled.get(module.owners[node], set())
        passes_on = any(isinstance(each, ast.Name) and each.id in handled for each in ast.walk(expression))
        for text in sorted({re.sub(r"…(?:\s*…)+", VARIABLE, text).strip() for text in found} - {""}):
            yield Site(module.name, expression.lineno, module.qualified[node], carrier, text, passes_on)

    def _messages(self, node: ast.AST, *, is_raised: bool) -> Iterator[_Message]:
        match node:
            case ast.Call():
                message = self._message(node)
                if message is not None:
                    yield message
                elif is_raised and node.args and name_of(node.func) not in self._texts.functions:
                    yield _Message(name_of(node.func), node.args[0])  # an error of others, or one in a variable
            case ast.Return(value=ast.Tuple(elts=[ast.Constant(value=int() as status), _, body])):
                if status >= _FIRST_ERROR:  # an answer with its kind and body
                    yield _Message("answer", body)
            case ast.Dict():
                for key, value in zip(node.keys, node.values, strict=True):
                    if isinstance(key, ast.Constant) and key.value == "failed":  # what another process is told
                        yield _Message("failed", value)

    def _message(self, call: ast.Call) -> _Message | None:
        """Return what a call carries as a message, if it does."""
        name = name_of(call.func)
        if isinstance(call.func, ast.Attribute):
            owner = call.func.value
            if name in _LOG and (name_of(owner) in {"logger", "logging"} or isinstance(owner, ast.Call)):
                return _argument("log", call, _LOG[name])
            if name_of(owner) == "self" and f"self.{name}" in _ARGUMENT:
                name = f"self.{name}"
        if name == "__init__" and call.args and isinstance(call.args[0], ast.Constant | ast.IfExp):
            return _Message(name, call.args[0])  # super().__init__ of an error that words its message itself
        if name == "echo":  # from click
            return _argument(name, call, 0) if any(keyword.arg == "err" for keyword in call.keywords) else None
        if name == "Verdict" and call.args and name_of(call.args[0]) == "ALLOW":
            return None  # nobody is told
        if name in _ARGUMENT or name in self._errors:
            return _argument("log" if name == "log_fault" else name, call, _ARGUMENT.get(name, 0))
        return None


def _argument(carrier: str, call: ast.Call, place: int | str) -> _Message | None:
    for keyword in call.keywords:
        if keyword.arg in {place, "message", "msg"}:
            return _Message(carrier, keyword.value)
    if isinstance(place, int):
        for index, argument in enumerate(call.args[: place + 1]):
            if isinstance(argument, ast.Starred):
                return _Message(carrier, argument.value, place - index)
            if index == place:
                return _Message(carrier, argument)
    return None
