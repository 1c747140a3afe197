"""From the text of a configuration file to a `Config`, or to everything that is wrong with it. Private."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError

from kes_core.config.document import Document, Path, YAMLError, parse
from kes_core.config.model import (
    API_PATHS,
    COMMAND_LINE,
    Config,
    ConfigError,
    ConfigProblem,
    KeyStoreChoice,
    PolicyEngineChoice,
)
from kes_core.config.sections import FileSettings
from kes_core.names import is_valid_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from kes_core.plugins import Plugins

__all__ = ["ConfigReader"]

_RENAMED: Final = {
    "root": "admin.identity",
    "proxy": "tls.proxy",
    "tls.auth_ca": "tls.ca",
    "policy.*.paths": "policy.*.allow",
}
"""Old spellings that are still found, with the new ones. A mapping under `keys` is another: it was the key store."""
_MAX_SHOWN: Final = 60
_MAX_PROBLEMS: Final = 100
"""Problems of a file that are reported: a person reads them, and finding the right spelling takes time for each."""


class ConfigReader:
    """Reads one file and collects its problems."""

    def __init__(self, filename: str, plugins: Plugins) -> None:
        self._filename = filename
        self._plugins = plugins
        self._document = Document(None)
        self._overridden: set[Path] = set()
        self._problems: list[tuple[int, str, str, str]] = []
        self._reported: set[str] = set()

    def read(self, text: str, environ: Mapping[str, str], overrides: Mapping[str, str]) -> Config:
        """Return the configuration. Arguments and errors are those of `kes_core.config.parse_config`."""
        try:
            self._document = parse(text, environ=environ, literal=_is_literal)
        except YAMLError as error:
            self._report(error.path, str(error), error.line)
            raise self._error() from None
        for problem in self._document.problems:
            self._report(problem.path, str(problem), problem.line)
        value = self._document.value
        if value is None:
            value = {}
            if not overrides:
                self._report((), "the file is empty; the least it needs: admin.identity, tls.key, tls.cert, keystore")
                raise self._error()
        if not isinstance(value, dict):
            self._report((), f"must be a mapping of fields; allowed: {', '.join(FileSettings.model_fields)}")
            raise self._error()
        self._override(value, overrides)
        file = self._validate(FileSettings, _without_nulls(value), ())
        keystore = self._keystore(value.get("keystore"), value.get("keys"))
        engines = self._policy_engines(value.get("policy_engines"))
        if file is not None:
            self._check(file)
        if file is not None and keystore is not None and file.workers > 1 and not keystore.backend.persistent:
            reason = f"{file.workers} processes would each have keys of their own in keystore.{keystore.backend.name}"
            self._report(("workers",), f"{reason}; use a key store that they share, or workers: 1")
        if self._problems or file is None or keystore is None:
            raise self._error()
        return Config.of(file, keystore, engines)

    def read_keystore(self, text: str, environ: Mapping[str, str]) -> KeyStoreChoice:
        """Return the key store alone. Arguments and errors are those of `kes_core.config.load_keystore`."""
        try:
            self._document = parse(text, environ=environ, literal=_is_literal)
        except YAMLError as error:
            self._report(error.path, str(error), error.line)
            raise self._error() from None
        for problem in self._document.problems:
            if problem.path[:1] == ("keystore",):
                self._report(problem.path, str(problem), problem.line)
        value = self._document.value
        section = value.get("keystore") if isinstance(value, dict) else None
        choice = self._keystore(section, None)
        if section is not None and not isinstance(section, dict):
            self._report(("keystore",), "must be a mapping")
        if self._problems or choice is None:
            raise self._error()
        return choice

    # Problems

    def _report(self, path: Path, message: str, line: int | None = None) -> None:
        if len(self._problems) >= _MAX_PROBLEMS:
            return
        dotted = _dotted(path)
        if path in self._overridden:
            self._problems.append((0, COMMAND_LINE, dotted, message))
            return
        # One problem a field is enough: a missing variable leaves an empty value behind, which may be another.
        if not dotted or dotted not in self._reported:
            self._reported.add(dotted)
            self._problems.append((line or self._document.line(path), self._filename, dotted, message))

    def _error(self) -> ConfigError:
        problems = sorted(dict.fromkeys(self._problems), key=lambda problem: problem[0])
        return ConfigError(*(ConfigProblem(file, line, path, text) for line, file, path, text in problems))

    def _shown(self, path: Path, value: object) -> str:
        """Return how a message calls a value: as it stands in the file, if that may be shown."""
        variable = self._document.from_environment.get(path)
        if variable is not None:
            return f"the value of ${{{variable}}}"
        if isinstance(value, str):
            return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "...")
        return "the value"

    # Sections

    def _override(self, value: dict[str, Any], overrides: Mapping[str, str]) -> None:
        for dotted, text in overrides.items():
            *sections, last = dotted.split(".")
            target = value
            for section in sections:
                inner = target.get(section)
                target[section] = target = inner if isinstance(inner, dict) else {}
            target[last] = text
            self._overridden.add(tuple(dotted.split(".")))

    def _validate(self, model: type[Any], value: object, base: Path) -> Any:
        for path, found in self._document.unexpanded.items():
            within = path[: len(base)] == base and (base or path[0] not in {"keystore", "policy_engines"})
            if within and path not in self._overridden and not _is_secret(model, path[len(base) :]):
                self._report(path, f"{found!r} is not replaced here, as a shell would do it: write the value itself")
        try:
            return model.model_validate(value)
        except ValidationError as error:
            details = error.errors(include_url=False)
            self._renamed = {new for detail in details if (new := _renamed(_loc(detail), detail["type"]))}
            known = {problem.path for problem in self._document.problems}
            places = [(*base, *_loc(detail)) for detail in details]
            unknown = [detail for detail, place in zip(details, places, strict=True) if place not in known]
            for detail in unknown[:_MAX_PROBLEMS]:
                self._explain(model, detail, base)
            return None

    def _explain(self, model: type[BaseModel], detail: ErrorDetails, base: Path) -> None:
        """Turn one of pydantic's errors into a problem with a place."""
        loc = _loc(detail)
        path = (*base, *loc)
        kind, value = detail["type"], detail["input"]
        if kind == "extra_forbidden":
            self._unknown_field(model, loc, path)
        elif kind == "missing":
            if path == ("keystore",):
                return  # said with the names of what is installed
            if not any(_dotted(path) == new or new.startswith(_dotted(path) + ".") for new in self._renamed):
                self._report(path, "required, but missing")
        elif kind == "value_error":
            reason = str(detail["ctx"]["error"])
            shown = "" if _is_secret(model, loc) else self._shown(path, value) + " "
            self._report(path, shown + reason if reason.startswith(("is ", "has ")) else reason)
        elif path == ("keys",) and isinstance(value, dict):
            self._report(path, "this is the old name of the key-store section: call it 'keystore'")
        else:
            self._report(path, _wrong_kind(model, loc, kind, detail["msg"]))

    def _unknown_field(self, model: type[BaseModel], loc: Path, path: Path) -> None:
        new = _renamed(path, "extra_forbidden")
        if new:
            self._report(path, f"this is the old name of '{new}': use that")
            return
        allowed = _fields(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        self._report(path, f"unknown field{hint} Allowed: {', '.join(allowed) or 'none'}")

    def _keystore(self, section: object, keys: object) -> KeyStoreChoice | None:
        known = ", ".join(sorted(self._plugins.backends))
        if section is None and isinstance(keys, dict):
            return None  # reported there: its old name was used
        if section is None or section == {}:
            self._report(("keystore",), f"required: name the one key store to use; installed: {known}")
            return None
        if not isinstance(section, dict):
            return None  # reported with the rest of the file
        given = {name: settings for name, settings in section.items() if settings is not None}
        if len(given) == 1:  # the others are named, but have nothing
            section = given
        if len(section) > 1:
            self._report(("keystore",), f"more than one key store ({', '.join(section)}); keep one")
            return None
        ((name, settings),) = section.items()
        path: Path = ("keystore", name)
        backend = self._plugins.backends.get(name)
        if backend is None:
            why = self._plugins.why_not(name)
            reason = why or f"no installed plugin provides it; installed: {known}{_close(name, self._plugins.backends)}"
            self._report(path, reason)
            return None
        valid = self._validate(backend.config, _without_nulls({} if settings is None else settings), path)
        return None if valid is None else KeyStoreChoice(backend=backend, config=valid)

    def _policy_engines(self, section: object) -> tuple[PolicyEngineChoice, ...]:
        choices = []
        for name, settings in section.items() if isinstance(section, dict) else ():
            path: Path = ("policy_engines", name)
            engine = self._plugins.engines.get(name)
            if engine is None or name == "static":
                known = ", ".join(sorted(set(self._plugins.engines) - {"static"})) or "none"
                why = "its policies stand under 'policy'" if engine else self._plugins.why_not(name)
                self._report(path, why or f"no installed plugin provides it; installed: {known}")
                continue
            valid = self._validate(engine.config, _without_nulls({} if settings is None else settings), path)
            if valid is not None:
                choices.append(PolicyEngineChoice(type=engine, config=valid))
        return tuple(choices)

    # What the fields have to do with each other

    def _check(self, file: FileSettings) -> None:
        if file.version not in {"", "v1"}:
            self._report(("version",), f"{self._shown(('version',), file.version)} is not known; allowed: v1")
        if file.probe is not None and _collide(file.address, file.probe.address):
            path = ("probe", "address")
            shown = self._shown(path, file.probe.address)
            self._report(path, f"{shown} and 'address', {file.address!r}, are one; give the probes another port")
        self._check_api(file)
        self._check_identities(file)
        seen: dict[str, int] = {}
        for index, key in enumerate(file.keys):
            if key.name in seen:
                self._report(("keys", index, "name"), f"{key.name!r} is listed twice; keep one")
            seen[key.name] = index

    def _check_api(self, file: FileSettings) -> None:
        skippable = [path for path, route in API_PATHS.items() if route.may_skip_auth]
        for path, settings in file.api.items():
            route = API_PATHS.get(path)
            if route is None:
                self._report(("api", path), f"no such API{_close(path, API_PATHS)}; `kes status --api` lists them")
            elif settings.skip_auth and not route.may_skip_auth:
                allowed = ", ".join(skippable)
                self._report(("api", path, "skip_auth"), f"anybody could call this API; allowed only for {allowed}")

    def _check_identities(self, file: FileSettings) -> None:
        """An identity is one thing only: the admin, a proxy, or in one policy."""
        owners = {file.admin.identity: "the admin"}
        for index, identity in enumerate(file.tls.proxy.identities):
            self._claim(owners, identity, "a TLS proxy", ("tls", "proxy", "identities", index))
        for name, policy in file.policy.items():
            if not is_valid_name(name):
                rule = "1 to 80 of A-Z a-z 0-9 - _, no - at either end"
                self._report(("policy", name), f"is not a valid name for a policy: {rule}")
            for index, identity in enumerate(policy.identities):
                self._claim(owners, identity, f"in policy {name!r}", ("policy", name, "identities", index))

    def _claim(self, owners: dict[str, str], identity: str, role: str, path: Path) -> None:
        if identity in owners:
            self._report(path, f"this identity is already {owners[identity]}; an identity can be only one thing, once")
        owners.setdefault(identity, role)


def _collide(address: str, other: str) -> bool:
    """Tell whether no two listeners can have these addresses."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    hosts = {host.lower(), other_host.lower()}
    if int(port) != int(other_port) or int(port) == 0:
        return False
    any_ipv4 = "0.0.0.0" in hosts and not any(each.startswith("[") for each in hosts)  # noqa: S104 # compared only
    return len(hosts) == 1 or "" in hosts or any_ipv4


def _loc(detail: ErrorDetails) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def _is_literal(path: Path) -> bool:
    """Tell where `${NAME}` is ordinary text: in policies' patterns and in the version (vectors/config.json)."""
    return path == ("version",) or (len(path) > 2 and path[0] == "policy" and path[2] in {"allow", "deny"})  # noqa: PLR2004 # policy, name, list


def _dotted(path: Path) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.lstrip(".")


def _without_nulls(value: Any) -> Any:
    """Return `value` without the members that have none: what is empty in the file is not given."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return ["" if item is None else _without_nulls(item) for item in value]
    return value


def _renamed(path: Path, kind: str) -> str:
    """Return the new name of an old field; empty if it is none."""
    if kind != "extra_forbidden":
        return "keystore" if path == ("keys",) and kind != "missing" else ""
    dotted = _dotted(path)
    for old, new in _RENAMED.items():
        pattern = re.escape(old).replace(r"\*", "([^.]+)")
        if match := re.fullmatch(pattern, dotted):
            return new.replace("*", match.group(1)) if match.groups() else new
    return ""


def _annotation(model: Any, loc: Path) -> Any:
    """Return the type of the value at `loc` in `model`."""
    found: Any = model
    for part in loc:
        found = _inner(found, part)
    return _plain(found)


def _plain(annotation: Any) -> Any:
    """Take off `Annotated` and `| None`."""
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


def _fields(model: type[BaseModel], loc: Path) -> list[str]:
    found = _annotation(model, loc)
    if isinstance(found, type) and issubclass(found, BaseModel):
        return [field.alias or name for name, field in found.model_fields.items()]
    return []


def _is_secret(model: type[BaseModel], loc: Path) -> bool:
    found = _annotation(model, loc)
    return isinstance(found, type) and issubclass(found, SecretStr)


def _wrong_kind(model: type[BaseModel], loc: Path, kind: str, message: str) -> str:
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        fields = _fields(model, loc)
        return "must be a mapping" + (f" with the fields {', '.join(fields)}" if fields else "")
    if kind in {"tuple_type", "list_type"}:
        return "must be a list"
    if kind in {"string_type", "bool_type", "float_type", "int_type"}:
        return "must be a plain value"
    return message[:1].lower() + message[1:]


def _close(name: str, known: Iterable[str]) -> str:
    found = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {found[0]!r}?" if found else ""
