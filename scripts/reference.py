"""Generate the reference for authors of plugins, docs/reference.md, from signatures and docstrings.

`--check` only compares.
"""

from __future__ import annotations

import ast
import dataclasses
import enum
import inspect
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from kes_core import config, counters, errors, findings, frontends, hookspecs, keystore, policy, testing
from kes_core.config import types
from kes_core.testing import clauses

PAGE = Path(__file__).resolve().parent.parent / "docs" / "reference.md"
_HEAD = """\
# Reference for authors of plugins

`python3 scripts/reference.py` generates this page from the source. Import the names of the last two sections from
`kes_core.config` and `kes_core.testing`, and all others from `kes_core`.
"""
_TYPES = ("Duration", "Secret", "Switch", "LogLevel")
"""The types of the configuration file that are public."""


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
    parts += ["## Front ends\n", _module(frontends), *_entries(frontends)]
    parts += ["## Findings of `kes doctor`\n", _module(findings), *_entries(findings)]
    parts += ["## Sections of the configuration file: `kes_core.config`\n", _class(config.Section)]
    parts += [_named(types, name) for name in _TYPES]
    parts += ["## Tests: `kes_core.testing`\n", _module(testing)]
    parts += [_named(clauses, name) if name == "CONTRACT_VERSION" else _tested(name) for name in testing.__all__]
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


def _named(module: ModuleType, name: str) -> str:
    """Return the entry of a name in a module: a class, or a constant or an alias of a type with the string below it."""
    value = getattr(module, name)
    if inspect.isclass(value):
        return _class(value)
    described = _strings(ast.parse(inspect.getsource(module)).body)
    shown = f" = {value!r}" if isinstance(value, int) else ""
    return f"### `{name}{shown}`\n\n{described[name]}\n"


def _tested(name: str) -> str:
    value = getattr(testing, name)
    return _class(value) if inspect.isclass(value) else _function(value, "###")


def _class(found: type[Any]) -> str:
    bases = ", ".join(base.__name__ for base in found.__bases__ if base is not object and _is_public(base))
    parts = [f"### {found.__name__}{f' ({bases})' if bases else ''}\n", *_constructor(found)]
    parts.append(_markdown(inspect.getdoc(found) or ""))
    if fields := _fields(found):
        parts += ["| field | type | default | |", "|---|---|---|---|", *fields, ""]
    if not issubclass(found, enum.Enum | tuple):
        parts += [_function(method, "####", f"{found.__name__}.") for method in _methods(found)]
    return "\n".join(parts)


def _is_public(base: type[Any]) -> bool:
    return not base.__module__.startswith("kes_core") or base.__name__ in {*vars(testing)["__all__"], *_plugin_names()}


def _plugin_names() -> set[str]:
    return {name for module in (hookspecs, errors, keystore, policy, frontends, findings) for name in module.__all__}


def _family(found: type[Any]) -> list[type[Any]]:
    """Return a class and the bases that have no entry of their own, such as those of the classes of the kit."""
    hidden = [base for base in found.__mro__[1:] if base.__module__.startswith("kes_core") and not _is_public(base)]
    return [found, *hidden]


def _methods(found: type[Any]) -> list[Any]:
    """Return the public methods of a class, without the clauses of the kit, which the page on the kit lists."""
    methods = {
        name: value.__func__ if isinstance(value, classmethod) else value
        for each in reversed(_family(found))
        for name, value in vars(each).items()
        if not name.startswith("_") and not hasattr(value, "kes_clause")
    }
    return [method for method in methods.values() if inspect.isfunction(method)]


def _constructor(found: type[Any]) -> Iterator[str]:
    """Yield the call that makes an object, and what the docstring of `__init__` says."""
    if issubclass(found, enum.Enum) or inspect.isabstract(found) or hasattr(found, "model_fields"):
        return
    own = [each for each in found.__mro__ if each.__module__.startswith("kes_core") and "__init__" in vars(each)]
    if own or hasattr(found, "_fields"):
        yield f"`{found.__name__}{_signature(found)}`\n"
    if own and not dataclasses.is_dataclass(found) and (text := vars(own[0])["__init__"].__doc__):
        yield _markdown(inspect.cleandoc(text))


def _signature(found: Callable[..., Any]) -> str:
    """Return the whole signature with readable defaults."""
    signature = inspect.signature(found)
    shown = []
    kinds = [parameter.kind for parameter in signature.parameters.values()]
    for position, parameter in enumerate(signature.parameters.values()):
        kind = parameter.kind
        if kind is kind.KEYWORD_ONLY and not {kind, kind.VAR_POSITIONAL} & set(kinds[:position]):
            shown.append("*")
        text = {kind.VAR_POSITIONAL: "*", kind.VAR_KEYWORD: "**"}.get(kind, "") + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {_annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {_default(parameter.default)}"
        shown.append(text)
        if kind is kind.POSITIONAL_ONLY and kinds[position + 1 : position + 2] != [kind]:
            shown.append("/")
    returned = signature.return_annotation
    end = "" if returned is signature.empty or inspect.isclass(found) else f" -> {_annotation(returned)}"
    return f"({', '.join(shown)}){end}"


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if isinstance(value, Path):
        return "Path()"
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}()"
    return "..." if repr(value).startswith("<") else repr(value)


def _fields(found: type[Any]) -> list[str]:
    """Return a row of a table for each field, with the string below it in the source."""
    described: dict[str, str] = {}
    annotations: dict[str, Any] = {}
    for each in reversed(_family(found)):
        described |= _descriptions(each)
        annotations |= vars(each).get("__annotations__", {})
    if issubclass(found, enum.Enum):
        return [f"| `{member.name}` | `{member.value}` | | {described.get(member.name, '')} |" for member in found]
    if dataclasses.is_dataclass(found):
        names = [field.name for field in dataclasses.fields(found) if field.name in annotations]  # not those of a base
    elif hasattr(found, "_fields"):
        names = list(found._fields)
    else:
        names = [name for name in annotations if not name.startswith("_") and name in described]
    return [
        f"| `{name}` | `{_type(annotations[name])}` | {_field_default(found, name)} | {described.get(name, '')} |"
        for name in names
    ]


def _field_default(found: type[Any], name: str) -> str:
    if dataclasses.is_dataclass(found):
        (field,) = (field for field in dataclasses.fields(found) if field.name == name)
        if field.default_factory is not dataclasses.MISSING:
            return "a new one"
        value: Any = field.default
        missing = value is dataclasses.MISSING
    else:
        defaults = getattr(found, "_field_defaults", None)
        value = (
            defaults.get(name, dataclasses.MISSING)
            if defaults is not None
            else getattr(found, name, dataclasses.MISSING)
        )
        missing = value is dataclasses.MISSING
    return "" if missing else f"`{_default(value)}`"


def _descriptions(found: type[Any]) -> dict[str, str]:
    """Return the strings that follow the fields of a class in its source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(found))).body[0]
    assert isinstance(tree, ast.ClassDef)
    return _strings(tree.body)


def _strings(body: list[ast.stmt]) -> dict[str, str]:
    described: dict[str, str] = {}
    name = ""
    for statement in body:
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
    return _annotation(annotation).replace("|", "\\|")


def _annotation(annotation: Any) -> str:
    annotation = getattr(annotation, "__forward_arg__", annotation)  # of a NamedTuple
    if isinstance(annotation, str):
        return annotation.strip("'")
    return "None" if annotation is None else getattr(annotation, "__name__", str(annotation))


def _function(found: Any, level: str, owner: str = "") -> str:
    kind = "async " if inspect.iscoroutinefunction(found) else ""
    return f"{level} `{kind}{owner}{found.__name__}{_signature(found)}`\n\n{_markdown(inspect.getdoc(found) or '')}"


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
