"""Facts about the field at a path, from the models of the sections. Internal."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterator
from typing import Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr

from kes_core.config.document import Path

__all__ = ["descriptions", "dotted", "field_names", "is_secret", "plain_credentials", "wrong_kind"]

_CREDENTIAL: Final = re.compile(
    r"(^|_)(pass(word|wd|phrase)?|secret|token|api_?key|access_?key|private_?key|credentials?)($|_(key|id)$)"
)
"""Names of fields that hold credentials."""
_NO_CREDENTIAL: Final = re.compile(r"_(id|file|path|url|name)$")


def dotted(path: Path) -> str:
    """Return a path in the form of messages: `policy.my-app.identities[1]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _annotation(model: Any, loc: Path) -> Any:
    """Return the type of the value at `loc` in `model`."""
    found: Any = model
    for part in loc:
        found = _inner(found, part)
    return _plain(found)


def _plain(annotation: Any) -> Any:
    """Remove `Annotated` and `| None`."""
    while True:
        arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
        optional = len(arguments) == 1 and type(None) in get_args(annotation)
        if optional or get_origin(annotation) is typing.Annotated:
            annotation = arguments[0]
        else:
            return annotation


def _inner(annotation: Any, part: str | int) -> Any:
    annotation = _plain(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            if part in {name, field.alias}:
                return field.annotation
        return None
    arguments = get_args(annotation)
    if get_origin(annotation) is dict:
        return arguments[1]
    return arguments[0] if arguments else None


def field_names(model: type[BaseModel], loc: Path) -> list[str]:
    """Return the names of the fields of the section at `loc`; none if there is no section."""
    found = _annotation(model, loc)
    if isinstance(found, type) and issubclass(found, BaseModel):
        return [field.alias or name for name, field in found.model_fields.items()]
    return []


def is_secret(model: type[BaseModel], loc: Path) -> bool:
    """Tell whether the value at `loc` is a secret."""
    found = _annotation(model, loc)
    return isinstance(found, type) and issubclass(found, SecretStr)


def plain_credentials(model: type[BaseModel], base: Path = ()) -> Iterator[Path]:
    """Yield the fields of a plugin's model that look like credentials, and whose type is `str` instead of `Secret`."""
    for name, field in model.model_fields.items():
        kind, path = _plain(field.annotation), (*base, field.alias or name)
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from plain_credentials(kind, path)
        elif kind is str and _CREDENTIAL.search(name.lower()) and not _NO_CREDENTIAL.search(name.lower()):
            yield path


def descriptions(model: type[BaseModel]) -> dict[str, str]:
    """Return the strings below the fields of a model in its source, and in that of its bases, by the field's name."""
    found: dict[str, str] = {}
    for base in reversed(model.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _strings_below(base)
    return {field.alias or name: found[name] for name, field in model.model_fields.items() if name in found}


def _strings_below(model: type[BaseModel]) -> dict[str, str]:
    try:
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    except (OSError, TypeError, ValueError, SyntaxError):  # its source is not there, or does not stand alone
        return {}
    found: dict[str, str] = {}
    for field, below in itertools.pairwise(getattr(body, "body", [])):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(below, ast.Expr)
            and isinstance(below.value, ast.Constant)
            and isinstance(below.value.value, str)
        ):
            found[field.target.id] = " ".join(below.value.value.split())
    return found


def wrong_kind(model: type[BaseModel], loc: Path, kind: str, message: str) -> str:
    """Return what the value at `loc` must be, for a pydantic error with this `kind` and `message`."""
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        fields = field_names(model, loc)
        return "must be a mapping" + (f" with the fields {', '.join(fields)}" if fields else "")
    if kind in {"tuple_type", "list_type"}:
        return "must be a list"
    if kind in {"string_type", "bool_type", "float_type", "int_type"}:
        return "must be a plain value"
    return message[:1].lower() + message[1:]
