"""Generate the reference of the extension points, docs/reference.md, from docstrings; `--check` only compares."""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kes_core import counters, errors, findings, hookspecs, keystore, policy

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
_HEAD = """\
# Reference for authors of plugins

`python3 scripts/reference.py` generates this page from the source. Import everything here from `kes_core`.
"""


def main() -> None:
    """Write the page; with `--check`, exit with 1 if the page is outdated."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is outdated: run python3 scripts/reference.py")


def page() -> str:
    """Return the page."""
    hooks = [value for name, value in vars(hookspecs).items() if name.startswith("kes_")]
    parts = [_HEAD, f"## Hooks\n\nVersion {hookspecs.HOOKSPEC_VERSION} of the specifications.\n", _module(hookspecs)]
    parts += [_function(hook, "###") for hook in hooks]
    parts += ["## What hooks return\n", *_entries(hookspecs), _class(counters.PluginMetrics)]
    parts += ["## Errors\n", _module(errors), *_entries(errors)]
    parts += ["## Key stores\n", _module(keystore), *_entries(keystore)]
    parts += ["## Policy engines\n", _module(policy), *_entries(policy)]
    parts += ["## Findings of `kes doctor`\n", _module(findings), *_entries(findings)]
    return "\n".join(parts)


def _module(module: ModuleType) -> str:
    return _markdown(inspect.getdoc(module) or "")


def _entries(module: ModuleType) -> Iterator[str]:
    for name, value in vars(module).items():
        if name not in module.__all__ or name in {"HOOKSPEC_VERSION", "hookimpl"}:
            continue
        if inspect.isclass(value):
            yield _class(value)
        elif inspect.isfunction(value):
            yield _function(value, "###")


def _class(found: type[Any]) -> str:
    bases = ", ".join(base.__name__ for base in found.__bases__ if base is not object)
    parts = [f"### {found.__name__}{f' ({bases})' if bases else ''}\n", _markdown(inspect.getdoc(found) or "")]
    fields = _fields(found)
    if fields:
        parts += ["| field | type | |", "|---|---|---|", *fields, ""]
    if not issubclass(found, enum.Enum | tuple):
        methods = [
            value for name, value in vars(found).items() if inspect.isfunction(value) and not name.startswith("_")
        ]
        parts += [_function(method, "####", f"{found.__name__}.") for method in methods]
    return "\n".join(parts)


def _fields(found: type[Any]) -> list[str]:
    """Return a row of a table for each field, with the string below it in the source."""
    described = _descriptions(found)
    if issubclass(found, enum.Enum):
        return [f"| `{member.name}` | `{member.value}` | {described.get(member.name, '')} |" for member in found]
    names: list[str] = []
    if dataclasses.is_dataclass(found):
        names = [field.name for field in dataclasses.fields(found)]
    elif hasattr(found, "_fields"):
        names = list(found._fields)
    elif "__annotations__" in vars(found):
        names = [name for name in found.__annotations__ if not name.startswith("_") and name in described]
    return [f"| `{name}` | `{_type(found.__annotations__[name])}` | {described.get(name, '')} |" for name in names]


def _descriptions(found: type[Any]) -> dict[str, str]:
    """Return the strings that follow the fields of a class in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]
    assert isinstance(tree, ast.ClassDef)
    described: dict[str, str] = {}
    name = ""
    for statement in tree.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            name = statement.target.id
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            name = statement.targets[0].id
        elif name and isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
            described[name] = " ".join(str(statement.value.value).split())
            name = ""
        else:
            name = ""
    return described


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("|", "\\|")


def _function(found: Any, level: str, owner: str = "") -> str:
    signature = str(inspect.signature(found)).replace("'", "")
    kind = "async " if inspect.iscoroutinefunction(found) else ""
    return f"{level} `{kind}{owner}{found.__name__}{signature}`\n\n{_markdown(inspect.getdoc(found) or '')}"


def _markdown(text: str) -> str:
    """Return a docstring as Markdown: the sections of the Google style as lists, the rest unchanged."""
    lines: list[str] = []
    section = ""
    for line in text.splitlines():
        if line in {"Args:", "Raises:", "Returns:"}:
            section = line
            lines += [line, ""]
        elif section and line.startswith("        "):
            lines[-1] += " " + line.strip()
        elif section and line.startswith("    "):
            lines.append("- " + line.strip())
        else:
            section = ""
            lines.append(line)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
