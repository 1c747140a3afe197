"""YAML with the line of every value, for error messages. Internal.

PyYAML parses the text, with libyaml (`yaml.CParser`) if available: it is many times faster, and it accepts tabs
wherever YAML allows them, while the pure parser refuses some. This module uses only the parser's events. PyYAML's own
composer is recursive and has no limits, so a short file could crash the process or keep it busy forever.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

__all__ = ["Document", "Limits", "Path", "YAMLError", "limits", "parse"]

Path = tuple[str | int, ...]
"""The path to a value: member names and list indexes."""

_MAX_DEPTH: Final = 32
_MAX_NAME: Final = 1024
"""The longest name of a member, in characters. YAML has this limit for names without a question mark."""
_MAX_DIRECTIVES: Final = 16
_SEARCHED: Final = 1 << 20
"""Characters that a regular expression examines at once. It keeps Python's lock, and so delays all other threads."""
_ENVIRONMENT: Final = re.compile(r"\$\{([^}]*)\}")
_HOME: Final = re.compile(r"~[\w.-]*/", re.ASCII)
_VARIABLE: Final = re.compile(r"\$\{[A-Za-z_]\w*\}", re.ASCII)
_NULLS: Final = frozenset({"", "~", "null", "Null", "NULL"})
_NULL: Final = "tag:yaml.org,2002:null"
_MERGE: Final = "tag:yaml.org,2002:merge"
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]")
"""Characters that are not printable (YAML 1.1, section 5.1). A byte order mark is allowed only at the beginning."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a file. They depend on the parser: libyaml needs seconds for 16 MiB, the other one minutes."""

    size: int
    """The largest size, in bytes."""
    values: int
    """The largest number of names and values. What an alias repeats counts each time."""
    characters: int
    """The largest number of characters in all names and values, counted in the same way."""

    @property
    def too_large(self) -> str:
        """The error message for a file that is too large."""
        hint = "" if self == _FAST else "; up to " + str(_FAST.size) + " with libyaml: install a PyYAML that has it"
        return f"larger than {self.size} bytes{hint}"


_FAST: Final = Limits(size=16 << 20, values=500_000, characters=32 << 20)
_PURE: Final = Limits(size=2 << 20, values=200_000, characters=8 << 20)


def limits() -> Limits:
    """Return the limits that hold for this installation of PyYAML."""
    return _FAST if yaml.__with_libyaml__ else _PURE


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
    """The line of every member of a mapping, where its name stands, and of the whole, at the empty path."""
    item_lines: dict[Path, Sequence[int]] = field(default_factory=dict)
    """The lines of the items of every list."""
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
        while path:
            line = self.lines.get(path)
            if line is not None:
                return line
            items, index = self.item_lines.get(path[:-1], ()), path[-1]
            if isinstance(index, int) and index < len(items):
                return items[index]
            path = path[:-1]
        return self.lines.get((), 1)


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

    def __init__(self, next_event: Callable[[], Any], limit: int) -> None:
        self._next = next_event
        self._limit = limit
        self._count = 0
        self._anchors: dict[str, _Node | None] = {}
        """The nodes that aliases may name; None for one that has not ended yet."""

    def _check_limits(self, line: int, path: Path, depth: int) -> None:
        """Count one more value."""
        self._count += 1
        if self._count > self._limit:
            raise YAMLError(line, path[:4], f"more than {self._limit} values, with what aliases and merge keys repeat")
        if depth > _MAX_DEPTH:
            raise YAMLError(line, path[:4], f"nested more than {_MAX_DEPTH} levels deep")

    def _node(self, event: Any, depth: int) -> _Node:
        """Return the node that begins with `event`."""
        self._check_limits(_line(event), (), depth)
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


class _DocumentReader(_Composer):
    """Converts events to values: resolves aliases, merge keys and environment variables.

    It makes nodes only of what has an anchor, and of names: the nodes of a whole large file would take more memory than
    its values.
    """

    def __init__(
        self, parser: Any, bounds: Limits, environ: Mapping[str, str], literal: Callable[[Path], bool]
    ) -> None:
        super().__init__(parser.get_event, bounds.values)
        self._max_characters = bounds.characters
        self._environ = environ
        self._literal = literal
        self._characters = 0
        self.document = Document(None)

    def read(self) -> Document:
        """Read the only document, which may be empty."""
        self._next()  # the start of the stream
        if isinstance(self._next(), yaml.StreamEndEvent):
            return self.document
        event = self._next()
        self.document.lines[()] = _line(event)
        self.document.value = self._value(event, (), 0)
        self._next()  # the end of the document
        event = self._next()
        if not isinstance(event, yaml.StreamEndEvent):
            raise YAMLError(_line(event), (), "a second document begins here; the file must hold one")
        return self.document

    def _value(self, start: Any, path: Path, depth: int) -> Any:
        """Return the value that begins with the event `start`, or that of a node."""
        if isinstance(start, _Node):
            return self._value_of(start, path, depth)
        if start.anchor is not None:
            return self._value_of(self._node(start, depth), path, depth)
        self._check_limits(_line(start), path, depth)
        if isinstance(start, yaml.ScalarEvent):
            node = _scalar(start)
            return None if node.content is None else self._text(node, path)
        if isinstance(start, yaml.SequenceStartEvent):
            return self._list(self._starts(yaml.SequenceEndEvent), path, depth)
        starts = self._starts(yaml.MappingEndEvent)
        return self._mapping(((self._node(name, depth + 1), next(starts)) for name in starts), path, depth)

    def _starts(self, end: type[Any]) -> Iterator[Any]:
        """Yield the first event of each part of a list or a mapping. The caller reads the rest of the part."""
        while not isinstance(event := self._next(), end):
            yield event

    def _value_of(self, node: _Node, path: Path, depth: int) -> Any:
        self._check_limits(node.line, path, depth)
        if node.is_mapping:
            return self._mapping(node.content, path, depth)
        if isinstance(node.content, list):
            return self._list(node.content, path, depth)
        return None if node.content is None else self._text(node, path)

    def _list(self, starts: Iterable[Any], path: Path, depth: int) -> list[Any]:
        values: list[Any] = []
        self.document.item_lines[path] = lines = array("L")
        for start in starts:
            lines.append(start.line if isinstance(start, _Node) else _line(start))
            values.append(self._value(start, (*path, len(values)), depth + 1))
        return values

    def _mapping(self, pairs: Iterable[tuple[_Node, Any]], path: Path, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for name_node, start in pairs:
            if name_node.is_merge:
                merged |= self._merge(self._as_node(start, depth + 1), path, depth + 1)
                continue
            name = _name(name_node, path)
            self._count_characters(name_node, path, name)
            here = (*path, name)
            if name in members:
                message = f"given twice, first in line {self.document.lines[here]}; keep one"
                self.document.problems.append(YAMLError(name_node.line, here, message))
                self._as_node(start, depth + 1)
                continue
            self.document.lines[here] = name_node.line
            members[name] = self._value(start, here, depth + 1)
        return {**merged, **members} if merged else members

    def _as_node(self, start: Any, depth: int) -> _Node:
        return start if isinstance(start, _Node) else self._node(start, depth)

    def _merge(self, node: _Node, path: Path, depth: int) -> dict[str, Any]:
        sources = [node] if node.is_mapping or not isinstance(node.content, list) else node.content
        merged: dict[str, Any] = {}
        for source in sources:
            if not source.is_mapping:
                raise YAMLError(node.line, path, "'<<' must name a mapping")
            # Count it here, because a mapping with only merge keys has no values to count.
            self._check_limits(source.line, path, depth)
            merged = {**self._mapping(source.content, path, depth), **merged}
        return merged

    def _text(self, node: _Node, path: Path) -> str | None:
        text = self._expand(node, path)
        self._count_characters(node, path, text or "")
        return text

    def _count_characters(self, node: _Node, path: Path, text: str) -> None:
        self._characters += len(text)
        if self._characters > self._max_characters:
            message = f"more than {self._max_characters} characters, with what aliases and merge keys repeat"
            raise YAMLError(node.line, path[:4], message)

    def _expand(self, node: _Node, path: Path) -> str | None:
        text = str(node.content)
        if ("$" not in text and text[:1] != "~") or self._literal(path):
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
    bounds = limits()
    text = text.removeprefix("\ufeff")
    if len(text) > bounds.size:
        raise YAMLError(1, (), bounds.too_large)
    for start in range(0, len(text), _SEARCHED):
        forbidden = _FORBIDDEN.search(text, start, start + _SEARCHED)
        if forbidden is not None:
            line = text.count("\n", 0, forbidden.start()) + 1
            raise YAMLError(line, (), "not valid YAML: a character that is not allowed")
    if text.count("\n%") > _MAX_DIRECTIVES:  # libyaml compares each one with all before it
        raise YAMLError(1, (), f"more than {_MAX_DIRECTIVES} lines begin with '%', as directives do")
    try:
        return _DocumentReader(_parser(text), bounds, environ, literal).read()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise YAMLError(mark.line + 1 if mark else 1, (), f"not valid YAML: {error.problem}") from None


def _parser(text: str) -> Any:
    return yaml.CSafeLoader(text) if yaml.__with_libyaml__ else yaml.SafeLoader(text)
