"""Turns the values in a configuration file into a `Config`, or into a list of all its errors. Internal."""

from __future__ import annotations

import difflib
import itertools
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ValidationError

from kes_core.config.document import Document, Path
from kes_core.config.fields import dotted, field_names, is_secret, wrong_kind
from kes_core.config.model import (
    API_PATHS,
    COMMAND_LINE,
    AuditSinkChoice,
    Config,
    ConfigError,
    ConfigProblem,
    FrontendChoice,
    KeyStoreChoice,
    PolicyEngineChoice,
)
from kes_core.config.packages import PACKAGES, close, not_installed
from kes_core.config.patterns import problem_of
from kes_core.config.sections import STATIC_ENGINE, FileSettings
from kes_core.faults import kind_of, one_line
from kes_core.identity import is_identity
from kes_core.names import NAME_RULE, is_valid_name

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

    from kes_core.plugins import Plugins

__all__ = ["ConfigReader", "is_literal"]

_RENAMED: Final = {
    "root": "admin.identity",
    "proxy": "tls.proxy",
    "tls.auth_ca": "tls.ca",
    "policy.*.paths": "policy.*.allow",
}
"""Old names of fields, with the new ones. A mapping under `keys` is old too: it was the key store's section."""
_MAX_SHOWN: Final = 60
_MAX_PROBLEMS: Final = 100
"""The largest number of problems to report for one file: a person reads them, and each suggestion takes time."""


class ConfigReader:
    """Checks the values of one file and collects its problems."""

    def __init__(self, filename: str, plugins: Plugins, document: Document) -> None:
        """Set up.

        Args:
            filename: The name of the file in messages.
            plugins: The plugins of key stores and policy engines.
            document: The content of the file.
        """
        self._filename = filename
        self._directory = pathlib.Path(filename).absolute().parent
        self._plugins = plugins
        self._document = document
        self._overridden: set[Path] = set()
        self._problems: list[tuple[int, str, str, str]] = []
        self._reported: set[str] = set()

    def read(self, overrides: Mapping[str, str]) -> Config:
        """Return the configuration.

        Args:
            overrides: Values that override the file, by path.

        Raises:
            ConfigError: It can't be used.
        """
        for problem in self._document.problems:
            self._report(problem.path, str(problem), problem.line)
        value = self._document.value
        if value is None:
            self._document.value = value = {}
            if not overrides:
                self._report((), "the file is empty; the least it needs: admin.identity, tls.key, tls.cert, keystore")
                raise self._error()
        if not isinstance(value, dict):
            self._report((), f"must be a mapping of fields; allowed: {', '.join(FileSettings.model_fields)}")
            raise self._error()
        self._override(value, overrides)
        file = self._validate(FileSettings, _without_nulls(value), ())
        keystore = self._keystore(value.get("keystore"), value.get("keys"))
        engines = self._chosen("policy_engines", self._plugins.engines)
        sinks = self._chosen("audit_sinks", self._plugins.sinks)
        frontends = self._chosen("frontends", self._plugins.frontends)
        if file is not None:
            self._check(file)
        if file is not None and keystore is not None and file.workers > 1 and not keystore.backend.persistent:
            reason = f"{file.workers} processes would each have keys of their own in keystore.{keystore.backend.name}"
            self._report(("workers",), f"{reason}; use a key store that they share, or workers: 1")
        if self._problems or file is None or keystore is None:
            raise self._error()
        return Config.from_file(
            file,
            keystore,
            tuple(PolicyEngineChoice(*choice, self._directory) for choice in engines),
            tuple(AuditSinkChoice(*choice, self._directory) for choice in sinks),
            tuple(FrontendChoice(*choice, self._directory) for choice in frontends),
        )

    def read_keystore(self) -> KeyStoreChoice:
        """Return only the key store; do not check the other sections.

        Raises:
            ConfigError: It can't be used.
        """
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

    def warnings(self, config: Config) -> tuple[ConfigProblem, ...]:
        """Return the probable mistakes in `config`, which `read` has returned.

        Values from the command line get no warnings: there, users expect relative paths.
        """
        found = itertools.islice(itertools.chain(self._embedded(config), _warnings(config)), _MAX_PROBLEMS)
        return tuple(
            ConfigProblem(self._filename, self._document.line(path), dotted(path), text)
            for path, text in found
            if path not in self._overridden
        )

    def _embedded(self, config: Config) -> Iterator[tuple[Path, str]]:
        sections: dict[Path, type[BaseModel]] = {
            ("keystore", config.keystore.backend.name): config.keystore.backend.config,
            **{("policy_engines", choice.type.name): choice.type.config for choice in config.policy_engines},
            **{("audit_sinks", choice.type.name): choice.type.config for choice in config.audit_sinks},
            **{("frontends", choice.type.name): choice.type.config for choice in config.frontends},
        }
        for path, found in self._document.embedded.items():
            model, loc = (sections[path[:2]], path[2:]) if path[:2] in sections else (FileSettings, path)
            if path not in self._overridden and not is_secret(model, loc):
                yield path, f"{found!r} stays as it is in a longer text: only a whole value can name a variable"

    # Problems

    def _report(self, path: Path, message: str, line: int | None = None) -> None:
        if len(self._problems) >= _MAX_PROBLEMS:
            return
        field = dotted(path)
        if path in self._overridden:
            self._problems.append((0, COMMAND_LINE, field, message))
            return
        # One problem per field is enough: a missing variable also leaves an empty value, which may be a second problem.
        if not field or field not in self._reported:
            self._reported.add(field)
            self._problems.append((line or self._document.line(path), self._filename, field, message))

    def _error(self) -> ConfigError:
        problems = sorted(dict.fromkeys(self._problems), key=lambda problem: problem[0])
        return ConfigError(*(ConfigProblem(file, line, path, text) for line, file, path, text in problems))

    def _shown(self, path: Path, value: object) -> str:
        """Return a value in the form for messages: as it is in the file, or the name of its variable."""
        variable = self._document.from_environment.get(path)
        if variable is not None:
            return f"the value of ${{{variable}}}"
        if isinstance(value, str):
            return repr(value if len(value) <= _MAX_SHOWN else value[:_MAX_SHOWN] + "...")
        return "the value"

    # Sections

    def _override(self, value: dict[str, Any], overrides: Mapping[str, str]) -> None:
        for field, text in overrides.items():
            *sections, last = field.split(".")
            target = value
            for section in sections:
                inner = target.get(section)
                target[section] = target = inner if isinstance(inner, dict) else {}
            target[last] = text
            self._overridden.add(tuple(field.split(".")))

    def _validate(self, model: type[Any], value: object, base: Path) -> Any:
        for path, found in self._document.unexpanded.items():
            within = path[: len(base)] == base and (base or path[0] not in PACKAGES)
            if within and path not in self._overridden and not is_secret(model, path[len(base) :]):
                self._report(path, f"{found!r} is not replaced here, as a shell would do it: write the value itself")
        try:
            return model.model_validate(value)
        except ValidationError as error:
            details = error.errors(include_url=False)
            self._renamed = {new for detail in details if (new := _renamed(_loc(detail), detail["type"]))}
            known = {problem.path for problem in self._document.problems}
            unknown = [detail for detail in details if (*base, *_loc(detail)) not in known]
            for detail in unknown[:_MAX_PROBLEMS]:
                self._explain(model, detail, base)
        except Exception as error:  # of a plugin's own validator; the text may contain a secret
            self._report(base, f"can't be checked: {kind_of(error)}, which is a fault of its plugin")
        return None

    def _explain(self, model: type[BaseModel], detail: ErrorDetails, base: Path) -> None:
        """Turn an error of pydantic into a problem with a line."""
        loc = _loc(detail)
        path = (*base, *loc)
        kind, value = detail["type"], detail["input"]
        if kind == "extra_forbidden":
            self._unknown_field(model, loc, path)
        elif kind == "missing":
            if path == ("keystore",):
                return  # `_keystore` reports it, with the installed key stores
            if not any(dotted(path) == new or new.startswith(dotted(path) + ".") for new in self._renamed):
                self._report(path, "required, but missing")
        elif kind == "value_error":
            reason = one_line(str(detail["ctx"]["error"]))
            shown = "" if is_secret(model, loc) else self._shown(path, value) + " "
            self._report(path, shown + reason if reason.startswith(("is ", "has ")) else reason)
        elif path == ("keys",) and isinstance(value, dict):
            self._report(path, "this is the old name of the key-store section: call it 'keystore'")
        else:
            self._report(path, wrong_kind(model, loc, kind, detail["msg"]))

    def _unknown_field(self, model: type[BaseModel], loc: Path, path: Path) -> None:
        new = _renamed(path, "extra_forbidden")
        if new:
            self._report(path, f"this is the old name of '{new}': use that")
            return
        allowed = field_names(model, loc[:-1])
        close = difflib.get_close_matches(str(loc[-1]), allowed, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        self._report(path, f"unknown field{hint} Allowed: {', '.join(allowed) or 'none'}")

    def _keystore(self, section: object, keys: object) -> KeyStoreChoice | None:
        known = ", ".join(sorted(self._plugins.backends))
        if section is None and isinstance(keys, dict):
            return None  # reported as the old name of the section
        if section is None or section == {}:
            self._report(("keystore",), f"required: name the one key store to use; installed: {known}")
            return None
        if not isinstance(section, dict):
            return None  # reported with the other fields
        section = {name: settings for name, settings in section.items() if settings not in (None, "")} or section
        if len(section) > 1:
            self._report(("keystore",), f"more than one key store ({', '.join(section)}); keep one")
            return None
        ((name, settings),) = section.items()
        path: Path = ("keystore", name)
        backend = self._plugins.backends.get(name)
        if backend is None:
            why = self._plugins.why_not(name)
            self._report(path, why or not_installed(name, self._plugins.backends, PACKAGES["keystore"]))
            return None
        valid = self._validate(backend.config, _without_nulls({} if settings in (None, "") else settings), path)
        return None if valid is None else KeyStoreChoice(backend, valid, self._directory)

    def _chosen(self, kind: str, installed: Mapping[str, Any]) -> list[tuple[Any, Any]]:
        """Return what the section `kind` selects of what is installed, each with its valid settings."""
        chosen, section = [], self._document.value.get(kind)
        for name, settings in section.items() if isinstance(section, dict) else ():
            path: Path = (kind, name)
            item = installed.get(name)
            if item is None or (kind, name) == ("policy_engines", STATIC_ENGINE):
                why = "its policies stand under 'policy'" if item else self._plugins.why_not(name)
                self._report(path, why or not_installed(name, set(installed) - {STATIC_ENGINE}, PACKAGES[kind]))
                continue
            valid = self._validate(item.config, _without_nulls({} if settings in (None, "") else settings), path)
            if valid is not None:
                chosen.append((item, valid))
        return chosen

    # Rules between fields

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
                self._report(("api", path), f"no such API{close(path, API_PATHS)}; `kes status --api` lists them")
            elif settings.skip_auth and not route.may_skip_auth:
                allowed = ", ".join(skippable)
                self._report(("api", path, "skip_auth"), f"anybody could call this API; allowed only for {allowed}")

    def _check_identities(self, file: FileSettings) -> None:
        """Check that each identity has one role: the admin, a proxy, or a member of one policy."""
        owners = {file.admin.identity: "the admin"}
        for index, identity in enumerate(file.tls.proxy.identities):
            self._claim(owners, identity, "a TLS proxy", ("tls", "proxy", "identities", index))
        for name, policy in file.policy.items():
            if not is_valid_name(name):
                self._report(("policy", name), f"is not a valid name for a policy: {NAME_RULE}")
            for index, identity in enumerate(policy.identities):
                self._claim(owners, identity, f"in policy {name!r}", ("policy", name, "identities", index))

    def _claim(self, owners: dict[str, str], identity: str, role: str, path: Path) -> None:
        if identity in owners:
            self._report(path, f"this identity is already {owners[identity]}; an identity can be only one thing, once")
        owners.setdefault(identity, role)


def _warnings(config: Config) -> Iterator[tuple[Path, str]]:
    yield from _unknown_identities(config.tls.proxy.identities, ("tls", "proxy", "identities"))
    for name, policy in config.policy.items():
        for kind, patterns in (("allow", policy.allow), ("deny", policy.deny)):
            for index, pattern in enumerate(patterns):
                problem, cure = problem_of(pattern)
                if problem:
                    yield ("policy", name, kind, index), f"{pattern!r} {problem}; {cure}"
        yield from _unknown_identities(policy.identities, ("policy", name, "identities"))
    files: dict[Path, str] = {("tls", name): getattr(config.tls, name) for name in ("key", "cert", "ca")}
    if config.audit.file is not None:
        files["audit", "file", "path"] = config.audit.file.path
    for path, file in files.items():
        if file and not file.startswith("/"):
            here = f"here {pathlib.Path.cwd()}"
            yield path, f"{file!r} is a path from where the server is started, {here}; write the whole path"


def _unknown_identities(identities: tuple[str, ...], base: Path) -> Iterator[tuple[Path, str]]:
    for index, identity in enumerate(identities):
        if not is_identity(identity):
            yield (*base, index), f"{identity!r} is not 64 hex digits: no client has this identity"


def _collide(address: str, other: str) -> bool:
    """Tell whether two listeners can't use both addresses."""
    (host, _, port), (other_host, _, other_port) = address.rpartition(":"), other.rpartition(":")
    hosts = {host.lower(), other_host.lower()}
    if int(port) != int(other_port) or int(port) == 0:
        return False
    any_ipv4 = "0.0.0.0" in hosts and not any(each.startswith("[") for each in hosts)  # noqa: S104 # compared only
    return len(hosts) == 1 or "" in hosts or any_ipv4


def _loc(detail: ErrorDetails) -> Path:
    return tuple(part for part in detail["loc"] if part != "[key]")


def is_literal(path: Path) -> bool:
    """Return whether `${NAME}` is ordinary text at `path`: in patterns and the version (vectors/config.json)."""
    return path == ("version",) or (len(path) > 2 and path[0] == "policy" and path[2] in {"allow", "deny"})  # noqa: PLR2004 # policy, name, list


def _without_nulls(value: Any) -> Any:
    """Return `value` without the empty members: an empty field counts as missing."""
    if isinstance(value, dict):
        return {name: _without_nulls(member) for name, member in value.items() if member is not None}
    if isinstance(value, list):
        return ["" if item is None else _without_nulls(item) for item in value]
    return value


def _renamed(path: Path, kind: str) -> str:
    """Return the new name of an old field, or an empty string for any other field."""
    if kind != "extra_forbidden":
        return "keystore" if path == ("keys",) and kind != "missing" else ""
    field = dotted(path)
    for old, new in _RENAMED.items():
        pattern = re.escape(old).replace(r"\*", "([^.]+)")
        if match := re.fullmatch(pattern, field):
            return new.replace("*", match.group(1)) if match.groups() else new
    return ""
