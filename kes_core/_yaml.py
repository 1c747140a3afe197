"""YAML with the place of every value, so that an error can say where it is. Private.

PyYAML parses; its nodes know their lines, which the values that it usually makes of them do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

__all__ = ["Document", "Path", "YAMLError", "parse"]

Path = tuple[str | int, ...]
"""The way to a value: member names and list indexes."""

_MAX_SIZE: Final = 1 << 20
_MAX_VALUES: Final = 100_000
_MAX_DEPTH: Final = 32
_ENVIRONMENT: Final = re.compile(r"\$\{([^}]*)\}")
_NULL: Final = "tag:yaml.org,2002:null"
_MERGE: Final = "tag:yaml.org,2002:merge"


class YAMLError(Exception):
    """The text can't be used. `line` counts from 1."""

    def __init__(self, line: int, path: Path, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.path = path


@dataclass
class Document:
    """A YAML document whose scalars are all text."""

    value: Any
    """Mappings, lists, text, and None where the file has nothing."""
    lines: dict[Path, int] = field(default_factory=dict)
    """The line of every value, of members that of their names."""
    from_environment: dict[Path, str] = field(default_factory=dict)
    """The name of the environment variable of every value that comes from one."""
    problems: list[YAMLError] = field(default_factory=list)
    """What is wrong with the document itself."""

    def line(self, path: Path) -> int:
        """Return the line of the value at `path`, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Reader:
    def __init__(self, environ: Mapping[str, str], literal: Any) -> None:
        self._environ = environ
        self._literal = literal
        self._values = 0
        self.document = Document(None)

    def read(self, node: yaml.Node, path: Path) -> Any:
        self._values += 1
        if self._values > _MAX_VALUES or len(path) > _MAX_DEPTH:
            # Also what a bomb of aliases or one that contains itself comes to.
            raise YAMLError(node.start_mark.line + 1, path[:4], "too many values, or nested too deeply")
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, index)) for index, item in enumerate(node.value)]
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        members: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name_node, value_node in node.value:
            line = name_node.start_mark.line + 1
            if name_node.tag == _MERGE:
                merged |= self._merge(value_node, path)
                continue
            if not isinstance(name_node, yaml.ScalarNode):
                raise YAMLError(line, path, "the name of a field must be plain text")
            name = str(name_node.value)
            here = (*path, name)
            if name in members:
                first = self.document.lines[here]
                self.document.problems.append(YAMLError(line, here, f"given twice, first in line {first}; keep one"))
                continue
            self.document.lines[here] = line
            members[name] = self.read(value_node, here)
        return {**merged, **members}

    def _merge(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        merged: dict[str, Any] = {}
        for source in sources:
            if not isinstance(source, yaml.MappingNode):
                raise YAMLError(node.start_mark.line + 1, path, "'<<' must name a mapping")
            merged = {**self._mapping(source, path), **merged}
        return merged

    def _scalar(self, node: yaml.Node, path: Path) -> str | None:
        text = str(node.value)
        if node.tag == _NULL:
            return None
        match = None if self._literal(path) else _ENVIRONMENT.fullmatch(text.strip())
        if match is None:
            return text
        name = match.group(1).strip()
        if name not in self._environ:
            line = node.start_mark.line + 1
            message = f"the environment variable {name!r} is not set" if name else "${} names no environment variable"
            self.document.problems.append(YAMLError(line, path, message))
            return None
        self.document.from_environment[path] = name
        return self._environ[name]


class _Loader(yaml.SafeLoader):
    """Composes nodes whose scalars are text, null or a merge key, whatever else they look like."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regexp) for tag, regexp in resolvers if tag in {_NULL, _MERGE}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, *, environ: Mapping[str, str], literal: Any) -> Document:
    """Read the one YAML document in `text`.

    Args:
        text: The YAML.
        environ: The environment variables that `${NAME}` refers to.
        literal: Tells for a path whether `${NAME}` there is ordinary text.

    Raises:
        YAMLError: It is no YAML, or holds more than one document or more than anybody needs.
    """
    if len(text) > _MAX_SIZE:
        raise YAMLError(1, (), f"larger than {_MAX_SIZE} bytes")
    reader = _Reader(environ, literal)
    try:
        node = _Loader(text).get_single_node()
        if node is not None:
            reader.document.value = reader.read(node, ())
    except yaml.composer.ComposerError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        if "single document" in str(error.context):
            raise YAMLError(line, (), "a second document begins here; the file must hold one") from None
        raise YAMLError(line, (), f"no valid YAML: {error.problem}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise YAMLError(line, (), f"no valid YAML: {error.problem}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YAMLError(line, (), "no valid YAML: a character that is not allowed") from None
    except RecursionError:
        raise YAMLError(1, (), "too many values, or nested too deeply") from None
    return reader.document
