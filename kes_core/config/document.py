"""YAML with the line of every value, for error messages. Internal.

PyYAML parses the text, with libyaml (`yaml.CParser`) if available: it is many times faster, and it accepts tabs
wherever YAML allows them, while the pure parser refuses some. This module uses only the parser's events. PyYAML's own
composer is recursive and has no limits, so a short file could crash the process or keep it busy forever.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

__all__ = ["MAX_SIZE", "Document", "Path", "YAMLError", "parse"]

Path = tuple[str | int, ...]
"""The path to a value: member names and list indexes."""

MAX_SIZE: Final = 2 << 20
"""The largest size of a file, in bytes."""
_MAX_VALUES: Final = 200_000
"""The largest number of values. Each alias of a value counts as another value."""
_MAX_CHARACTERS: Final = 4 * MAX_SIZE
"""The largest number of characters in all names and values, counted in the same way."""
_MAX_DEPTH: Final = 32
_MAX_NAME: Final = 1024
"""The longest name of a member, in characters. YAML has this limit for names without a question mark."""
_MAX_DIRECTIVES: Final = 16
_ENVIRONMENT: Final = re.compile(r"\$\{([^}]*)\}")
_HOME: Final = re.compile(r"~[\w.-]*/", re.ASCII)
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_]\w*\}", re.ASCII)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_NULL: Final = "tag:yaml.org,2002:null"
_MERGE: Final = "tag:yaml.org,2002:merge"
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that are not printable (YAML 1.1, section 5.1). A byte order mark is allowed only at the beginning."""


class YAMLError(Exception):
    """The text can't be used. `line` counts from 1."""

    def __init__(self, line: int, path: Path, message: str) -> None:
        super().__init__(message)
        self.line = line
        self.path = path


@dataclass
class Document:
    """A YAML document with all scalars as text."""

    value: Any
    """Mappings, lists and text, and None for empty values."""
    lines: dict[Path, int] = field(default_factory=dict)
    """The line of every value; for a member, the line of its name."""
    from_environment: dict[Path, str] = field(default_factory=dict)
    """The environment variable of every value that comes from one."""
    unexpanded: dict[Path, str] = field(default_factory=dict)
    """The beginning of each value that a shell would replace with a home directory, such as `~/`."""
    embedded: dict[Path, str] = field(default_factory=dict)
    """The first `${NAME}` in each longer value, where it is not replaced."""
    problems: list[YAMLError] = field(default_factory=list)
    """The errors of the document itself."""

    def line(self, path: Path) -> int:
        """Return the line of the value at `path`, or of the nearest one around it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


class _Node:
    """A value with its line: `content` is text, None, a list of nodes, or a list of pairs of nodes."""

    __slots__ = ("content", "is_mapping", "is_merge", "line")

    def __init__(self, line: int, content: Any, *, is_mapping: bool = False, is_merge: bool = False) -> None:
        self.line = line
        self.content = content
        self.is_mapping = is_mapping
        self.is_merge = is_merge


class _Composer:
    """Builds nodes from a parser's events."""

    def __init__(self, parser: Any) -> None:
        self._next: Callable[[], Any] = parser.get_event
        self._anchors: dict[str, _Node | None] = {}
        """The nodes that aliases may name; None for one that has not ended yet."""
        self._count = 0

    def document(self) -> _Node | None:
        """Return the only document, or None if the text is empty."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return None
        node = self._node(self._next(), 0)
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise YAMLError(_line(event), (), "a second document begins here; the file must hold one")
        return node

    def _node(self, event: Any, depth: int) -> _Node:
        self._count += 1
        _check_limits(_line(event), (), self._count, depth)
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        anchor = event.anchor
        if anchor is not None:
            self._anchors[anchor] = None
        if isinstance(event, yaml.ScalarEvent):
            node = _scalar(event)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = _Node(_line(event), self._nodes(yaml.SequenceEndEvent, depth + 1))
        else:
            members = iter(self._nodes(yaml.MappingEndEvent, depth + 1))
            node = _Node(_line(event), list(zip(members, members, strict=True)), is_mapping=True)
        if anchor is not None:
            self._anchors[anchor] = node
        return node

    def _nodes(self, end: type[Any], depth: int) -> list[_Node]:
        nodes = []
        while not isinstance(event := self._next(), end):
            nodes.append(self._node(event, depth))
        return nodes

    def _alias(self, event: Any) -> _Node:
        name = event.anchor
        if name not in self._anchors:
            raise YAMLError(_line(event), (), f"not valid YAML: found undefined alias {name!r}")
        node = self._anchors[name]
        if node is None:
            raise YAMLError(_line(event), (), f"the alias {name!r} stands inside the value that it names")
        return node


def _line(event: Any) -> int:
    return int(event.start_mark.line) + 1


def _scalar(event: Any) -> _Node:
    plain = event.implicit[0]
    if event.tag == _NULL or (plain and event.value in _NULLS):
        return _Node(_line(event), None)
    return _Node(_line(event), event.value, is_merge=event.tag == _MERGE or (plain and event.value == "<<"))


def _check_limits(line: int, path: Path, count: int, depth: int) -> None:
    if count > _MAX_VALUES:
        raise YAMLError(line, path[:4], f"more than {_MAX_VALUES} values, with what aliases and merge keys repeat")
    if depth > _MAX_DEPTH:
        raise YAMLError(line, path[:4], f"nested more than {_MAX_DEPTH} levels deep")


class _DocumentReader:
    """Converts nodes to values: resolves aliases, merge keys and environment variables."""

    def __init__(self, environ: Mapping[str, str], literal: Callable[[Path], bool]) -> None:
        self._environ = environ
        self._literal = literal
        self._count = 0
        self._characters = 0
        self.document = Document(None)

    def read(self, node: _Node, path: Path, depth: int) -> Any:
        self._count += 1
        _check_limits(node.line, path, self._count, depth)
        self.document.lines.setdefault(path, node.line)
        if node.is_mapping:
            return self._mapping(node, path, depth)
        if isinstance(node.content, list):
            return [self.read(item, (*path, index), depth + 1) for index, item in enumerate(node.content)]
        return None if node.content is None else self._text(node, path)

    def _mapping(self, node: _Node, path: Path, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name_node, value_node in node.content:
            if name_node.is_merge:
                merged |= self._merge(value_node, path, depth + 1)
                continue
            name = _name(name_node, path)
            self._count_characters(name_node, path, name)
            here = (*path, name)
            if name in members:
                message = f"given twice, first in line {self.document.lines[here]}; keep one"
                self.document.problems.append(YAMLError(name_node.line, here, message))
                continue
            self.document.lines[here] = name_node.line
            members[name] = self.read(value_node, here, depth + 1)
        return {**merged, **members}

    def _merge(self, node: _Node, path: Path, depth: int) -> dict[str, Any]:
        sources = [node] if node.is_mapping or not isinstance(node.content, list) else node.content
        merged: dict[str, Any] = {}
        for source in sources:
            if not source.is_mapping:
                raise YAMLError(node.line, path, "'<<' must name a mapping")
            # Count it here, because a mapping with only merge keys has no values to count.
            self._count += 1
            _check_limits(source.line, path, self._count, depth)
            merged = {**self._mapping(source, path, depth), **merged}
        return merged

    def _text(self, node: _Node, path: Path) -> str | None:
        text = self._expand(node, path)
        self._count_characters(node, path, text or "")
        return text

    def _count_characters(self, node: _Node, path: Path, text: str) -> None:
        self._characters += len(text)
        if self._characters > _MAX_CHARACTERS:
            message = f"more than {_MAX_CHARACTERS} characters, with what aliases and merge keys repeat"
            raise YAMLError(node.line, path[:4], message)

    def _expand(self, node: _Node, path: Path) -> str | None:
        text = str(node.content)
        if self._literal(path):
            return text
        match = _ENVIRONMENT.fullmatch(text.strip())
        if match is None:
            if (home := _HOME.match(text)) is not None:
                self.document.unexpanded[path] = home.group()
            if (variable := _VARIABLE.search(text)) is not None:
                self.document.embedded[path] = variable.group()
            return text
        name = match.group(1).strip()
        if name not in self._environ:
            message = (
                f"the environment variable {name!r} is not set" if name else "${} does not name an environment variable"
            )
            self.document.problems.append(YAMLError(node.line, path, message))
            return None
        self.document.from_environment[path] = name
        return self._environ[name]


def _name(node: _Node, path: Path) -> str:
    if isinstance(node.content, list):
        raise YAMLError(node.line, path, "the name of a field must be plain text")
    name = node.content or ""
    if len(name) > _MAX_NAME:
        raise YAMLError(node.line, path, f"the name of a field has more than {_MAX_NAME} characters")
    return str(name)


def parse(text: str, *, environ: Mapping[str, str], literal: Callable[[Path], bool]) -> Document:
    """Read the only YAML document in `text`.

    Args:
        text: The YAML.
        environ: The environment variables that `${NAME}` refers to.
        literal: Returns whether `${NAME}` is ordinary text at a path.

    Raises:
        YAMLError: It is not valid YAML, contains more than one document, or is larger or nested deeper than any
            configuration needs.
    """
    text = text.removeprefix("\ufeff")
    if len(text) > MAX_SIZE:
        raise YAMLError(1, (), f"larger than {MAX_SIZE} bytes")
    forbidden = _FORBIDDEN.search(text)
    if forbidden is not None:
        line = text.count("\n", 0, forbidden.start()) + 1
        raise YAMLError(line, (), "not valid YAML: a character that is not allowed")
    if text.count("\n%") > _MAX_DIRECTIVES:  # libyaml compares each one with all before it
        raise YAMLError(1, (), f"more than {_MAX_DIRECTIVES} lines begin with '%', as directives do")
    reader = _DocumentReader(environ, literal)
    try:
        node = _Composer(_parser(text)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLError(mark.line + 1 if mark else 1, (), f"not valid YAML: {error.problem}") from None
    if node is not None:
        reader.document.value = reader.read(node, (), 0)
    return reader.document


def _parser(text: str) -> Any:
    return yaml.CSafeLoader(text) if yaml.__with_libyaml__ else yaml.SafeLoader(text)
