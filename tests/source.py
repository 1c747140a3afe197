"""What texts an expression in the source can have, found by its syntax: nothing is imported or run.

What varies in a text is `…`. Followed are constants, local variables, both sides of conditions, functions that return
text, and parameters, back to what the callers in the same module give.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

__all__ = ["VARIABLE", "Function", "Module", "Texts", "name_of", "without_placeholders"]

VARIABLE: Final = "…"
Function = ast.FunctionDef | ast.AsyncFunctionDef
_MAX_DEPTH: Final = 12
_PARAMETER: Final = re.compile("\0(\\w+)\0")
"""How a parameter is marked in a text, until it is known what callers give."""
_PERCENT: Final = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[a-zA-Z]")
_FORMAT: Final = re.compile(r"\{[^{}]*\}")


def name_of(node: ast.AST) -> str:
    """Return the last part of a name with dots, `d` of `a.b.d`; empty for what is no name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def without_placeholders(texts: Iterable[str]) -> set[str]:
    """Return texts for the operator `%` with `…` for what it puts in."""
    return {_PERCENT.sub(VARIABLE, text) for text in texts}


class Module:
    """A module: its functions, its constants, and where each node is."""

    def __init__(self, file: Path, root: Path) -> None:
        self.name = str(file.relative_to(root))
        self.tree = ast.parse(file.read_text(encoding="utf-8"))
        self.owners: dict[ast.AST, Function | None] = {}
        """The function around each node."""
        self.qualified: dict[ast.AST, str] = {}
        """Its name, with those of the classes around it."""
        self.functions: dict[str, list[Function]] = {}
        self.classes: list[ast.ClassDef] = []
        self.constants: dict[str, ast.expr] = {}
        self.handled: dict[ast.AST | None, set[str]] = {}
        """What a function calls the exceptions that it handles."""
        self._visit(self.tree, None, "")
        for statement in self.tree.body:
            if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
                target = statement.targets[0] if isinstance(statement, ast.Assign) else statement.target
                self.constants[name_of(target)] = statement.value

    def calls(self, name: str) -> Iterator[ast.Call]:
        """Yield the calls of what is called `name`."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Call) and name_of(node.func) == name:
                yield node

    def _visit(self, node: ast.AST, owner: Function | None, name: str) -> None:
        for child in ast.iter_child_nodes(node):
            self.owners[child] = owner
            self.qualified[child] = name
            if isinstance(child, ast.ExceptHandler) and child.name:
                self.handled.setdefault(owner, set()).add(child.name)
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                self.functions.setdefault(child.name, []).append(child)
                self._visit(child, child, f"{name}.{child.name}".lstrip("."))
            elif isinstance(child, ast.ClassDef):
                self.classes.append(child)
                self._visit(child, owner, f"{name}.{child.name}".lstrip("."))
            else:
                self._visit(child, owner, name)


class Texts:
    """Tells the texts of expressions in `modules`."""

    def __init__(self, modules: list[Module]) -> None:
        self.functions: dict[str, list[tuple[Module, Function]]] = {}
        self._constants: dict[str, list[tuple[Module, ast.expr]]] = {}
        self._active: set[tuple[ast.AST, str]] = set()
        """The variables that are being followed."""
        for module in modules:
            for name, found in module.functions.items():
                self.functions.setdefault(name, []).extend((module, function) for function in found)
            for name, value in module.constants.items():
                self._constants.setdefault(name, []).append((module, value))
        self._kinds: dict[type[ast.expr], Callable[[Module, int, ast.expr], set[str]]] = {
            ast.Attribute: self._attribute,
            ast.BinOp: self._operation,
            ast.BoolOp: lambda module, depth, node: self._any(module, depth, node.values),  # type: ignore[attr-defined] # as its key
            ast.Call: self._call,
            ast.Constant: self._constant,
            ast.FormattedValue: self._formatted,
            ast.IfExp: lambda module, depth, node: self._any(module, depth, [node.body, node.orelse]),  # type: ignore[attr-defined] # as above
            ast.JoinedStr: lambda module, depth, node: self._joined(module, depth, node.values),  # type: ignore[attr-defined] # as above
            ast.Name: self._named,
            ast.Subscript: self._subscript,
        }

    def of(self, module: Module, node: ast.expr) -> set[str]:
        """Return what an expression can be; nothing for what is no text, `…` for what nobody knows."""
        self._active.clear()
        return self._bound(module, module.owners[node], self._of(module, 0, node), 0)

    def of_item(self, module: Module, node: ast.expr, index: int) -> set[str]:
        """Return what an item of a tuple can be."""
        self._active.clear()
        return self._bound(module, module.owners[node], self._item(module, 0, node, index), 0)

    # Kinds of expressions. A text may have parameters of the function around it, marked.

    def _of(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        kind = self._kinds.get(type(node))
        if isinstance(node, ast.NamedExpr | ast.Await):
            return self._of(module, depth, node.value)
        return {VARIABLE} if kind is None or depth > _MAX_DEPTH else kind(module, depth + 1, node)

    def _any(self, module: Module, depth: int, nodes: Iterable[ast.expr]) -> set[str]:
        return set().union(*(self._of(module, depth, node) for node in nodes))

    def _joined(self, module: Module, depth: int, parts: Iterable[ast.expr]) -> set[str]:
        return {"".join(chosen) for chosen in itertools.product(*(self._of(module, depth, part) for part in parts))}

    def _constant(self, _module: Module, _depth: int, node: ast.expr) -> set[str]:
        assert isinstance(node, ast.Constant)
        if isinstance(node.value, bytes):
            return {node.value.decode("ascii").strip()}
        return {node.value} if isinstance(node.value, str) else set()

    def _formatted(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        assert isinstance(node, ast.FormattedValue)
        # What is quoted or formatted is a value and no part of the sentence.
        quoted = node.conversion != -1 or node.format_spec is not None
        return {VARIABLE} if quoted else self._of(module, depth, node.value) or {VARIABLE}

    def _operation(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        assert isinstance(node, ast.BinOp)
        if isinstance(node.op, ast.Add):
            return self._joined(module, depth, [node.left, node.right])
        return without_placeholders(self._of(module, depth, node.left)) if isinstance(node.op, ast.Mod) else {VARIABLE}

    def _subscript(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        assert isinstance(node, ast.Subscript)
        index = node.slice.value if isinstance(node.slice, ast.Constant) else None
        return self._item(module, depth, node.value, index) if isinstance(index, int) else {VARIABLE}

    def _attribute(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        """Return the texts of a constant of another module, or of what one place only sets: `self._name = …`."""
        assert isinstance(node, ast.Attribute)
        if node.attr.isupper():
            return self._global(depth, node.attr)
        values = [
            each.value
            for each in ast.walk(module.tree)
            if isinstance(each, ast.Assign) and node.attr.startswith("_")
            for target in each.targets
            if isinstance(target, ast.Attribute) and target.attr == node.attr and name_of(target.value) == "self"
        ]
        return self._of(module, depth, values[0]) if len(values) == 1 else {VARIABLE}

    def _global(self, depth: int, name: str) -> set[str]:
        found = self._constants.get(name, [])
        return self._of(found[0][0], depth, found[0][1]) if len(found) == 1 else {VARIABLE}

    def _named(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        name, owner = name_of(node), module.owners[node]
        while owner is not None:
            if name in module.handled.get(owner, ()) or (owner, name) in self._active:
                return {VARIABLE}
            values = list(_assigned(owner, name))
            is_parameter = name in _parameters(owner)
            if values or is_parameter:
                # Who is marked here is bound to what callers of this function give; of one around it nobody asks.
                given = {f"\0{name}\0" if owner is module.owners[node] else VARIABLE} if is_parameter else set()
                self._active.add((owner, name))
                given = given.union(*(self._value(module, depth, *value) for value in values))
                self._active.discard((owner, name))
                return given
            owner = module.owners[owner]
        constant = module.constants.get(name)
        return self._of(module, depth, constant) if constant is not None else self._global(depth, name)

    def _value(self, module: Module, depth: int, node: ast.expr, how: str) -> set[str]:
        if how == "is":
            return self._of(module, depth, node)
        if how == "+":
            return {VARIABLE + text for text in self._of(module, depth, node)}
        return self._call(module, depth, node) if how == "in" and isinstance(node, ast.Call) else {VARIABLE}

    def _item(self, module: Module, depth: int, node: ast.expr, index: int) -> set[str]:
        if isinstance(node, ast.Tuple):
            return self._of(module, depth, node.elts[index])
        name, owner = name_of(node), module.owners[node]
        if owner is not None and name in _parameters(owner):  # a whole tuple that a function is given
            given = [_argument(owner, call, name) for call in module.calls(owner.name)]
            values = [value for value in (*given, _default(owner, name)) if value is not None]
            return set().union(*(self._item(module, depth, value, index) for value in values)) or {VARIABLE}
        found = self._constants.get(name, [])
        return self._item(found[0][0], depth, found[0][1], index) if len(found) == 1 else {VARIABLE}

    # Calls

    def _call(self, module: Module, depth: int, node: ast.expr) -> set[str]:
        assert isinstance(node, ast.Call)
        name = name_of(node.func)
        if name == "str" and node.args:
            return self._of(module, depth, node.args[0])
        if isinstance(node.func, ast.Attribute):
            source = node.func.value
            if name == "get":  # of a table
                table = module.constants.get(name_of(source))
                values = [*table.values, *node.args[1:]] if isinstance(table, ast.Dict) else []
                return self._any(module, depth, values) or {VARIABLE}
            if name == "format":
                return {_FORMAT.sub(VARIABLE, text) for text in self._of(module, depth, source)}
            if name == "join":  # `" ".join(text.split())`
                inner = node.args[0].func if isinstance(node.args[0], ast.Call) else None
                is_split = isinstance(inner, ast.Attribute) and inner.attr == "split"
                return self._of(module, depth, inner.value) if is_split else {VARIABLE}  # type: ignore[union-attr] # it is one
        found = [(module, function) for function in module.functions.get(name, ())] or self.functions.get(name, [])
        return self._returned(module, depth, node, *found[0]) if len(found) == 1 else {VARIABLE}

    def _returned(self, caller: Module, depth: int, call: ast.Call, module: Module, function: Function) -> set[str]:
        """Return the texts that a function returns or yields."""
        if isinstance(call.func, ast.Attribute) and name_of(call.func.value) != "self" and not _returns_text(function):
            return {VARIABLE}
        results = [
            node.value
            for node in ast.walk(function)
            if isinstance(node, ast.Return | ast.Yield) and node.value is not None and module.owners[node] is function
        ]
        texts = self._any(module, depth, results) or {VARIABLE}
        return set().union(*(self._with(text, depth, (module, function), (caller, call)) for text in texts))

    def _with(self, text: str, depth: int, called: tuple[Module, Function], by: tuple[Module, ast.Call]) -> set[str]:
        """Put the arguments of a call in the places of the parameters that `text` marks."""
        (module, function), (caller, call) = called, by
        choices: list[list[tuple[str, str]]] = []
        for name in dict.fromkeys(_PARAMETER.findall(text)):
            given, default = _argument(function, call, name), _default(function, name)
            values = {VARIABLE}
            if given is not None:
                values = self._of(caller, depth, given)
            elif default is not None:
                values = self._of(module, depth, default)
            choices.append([(name, value) for value in values or {VARIABLE}])
        bound = set()
        for chosen in itertools.product(*choices):
            done = text
            for name, value in chosen:
                done = done.replace(f"\0{name}\0", value)
            bound.add(done)
        return bound

    def _bound(self, module: Module, owner: Function | None, texts: set[str], depth: int) -> set[str]:
        """Bind the parameters of `owner` in `texts` to what its callers in the same module give."""
        done = {text for text in texts if not _PARAMETER.search(text)}
        left = texts - done
        calls: list[ast.Call] = []
        if (
            left and owner is not None and owner.name != "__init__" and depth <= _MAX_DEPTH
        ):  # errors are followed on their own
            calls = [call for call in module.calls(owner.name) if module.owners[call] is not owner]
        if not calls:
            return done | {_PARAMETER.sub(VARIABLE, text) for text in left}
        assert owner is not None
        for call, text in itertools.product(calls, left):
            bound = self._with(text, depth, (module, owner), (module, call))
            done |= self._bound(module, module.owners[call], bound, depth + 1)
        return done


def _parameters(function: Function) -> list[str]:
    arguments = function.args
    return [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]


def _argument(function: Function, call: ast.Call, name: str) -> ast.expr | None:
    """Return what `call` gives for a parameter of `function`."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value
    names = [each.arg for each in (*function.args.posonlyargs, *function.args.args)]
    names = names[names[:1] in (["self"], ["cls"]) :]
    if name not in names or names.index(name) >= len(call.args):
        return None
    found = call.args[names.index(name)]
    return None if isinstance(found, ast.Starred) else found


def _default(function: Function, name: str) -> ast.expr | None:
    arguments = function.args
    positional = [each.arg for each in (*arguments.posonlyargs, *arguments.args)]
    defaults = dict(zip(reversed(positional), reversed(arguments.defaults), strict=False))
    named = {each.arg: value for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True) if value}
    return (defaults | named).get(name)


def _assigned(function: Function, name: str) -> Iterator[tuple[ast.expr, str]]:
    """Yield what a local variable is set to (`is`), grows by (`+`), runs through (`in`); `?`: what nobody follows."""
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[target, *_], value=value):
                yield from _unpacked(target, value, name)
            case ast.AnnAssign(target=target, value=ast.expr() as value) | ast.NamedExpr(target=target, value=value):
                yield from _unpacked(target, value, name)
            case ast.AugAssign(target=ast.Name(id=found), value=value) if found == name:
                yield value, "+"
            case ast.For(target=target, iter=source) | ast.comprehension(target=target, iter=source):
                yield from ((value, "in" if how == "is" else how) for value, how in _unpacked(target, source, name))


def _unpacked(target: ast.expr, value: ast.expr, name: str) -> Iterator[tuple[ast.expr, str]]:
    if isinstance(target, ast.Name) and target.id == name:
        yield value, "is"
    elif isinstance(target, ast.Tuple | ast.List):
        if isinstance(value, ast.Tuple) and len(value.elts) == len(target.elts):
            for inner, given in zip(target.elts, value.elts, strict=True):
                yield from _unpacked(inner, given, name)
        elif any(name_of(each) == name for each in ast.walk(target)):
            yield value, "?"


def _returns_text(function: Function) -> bool:
    return function.returns is not None and ast.unparse(function.returns) in {"str", "str | None"}
