"""The files of the engine: policies, schema and entities. All are checked before the engine uses any."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import cedarpy

from kes_cedar.requests import OPERATIONS, cedar_request
from kes_core import BackendError, CertificateFacts, PolicyRequest

if TYPE_CHECKING:
    from kes_cedar import CedarConfig

__all__ = ["Rules", "load_rules"]

_SCHEMA_NAME: Final = "kes.cedarschema"
_SUFFIX: Final = ".cedar"
# Strings and comments, which are skipped; semicolons, which end policies; and what nests.
_TOKEN: Final = re.compile(
    r'"(?:[^"\\]|\\.)*"|//[^\n]*|(?P<end>;)|(?P<open>[(\[{]|\bif\b)|(?P<close>[)\]}])', re.DOTALL
)
# A few hundred nested brackets overflow the stack of Cedar's parser, which would crash the process.
_MAX_NESTING: Final = 100
# In a schema these are brackets too: Set<String>.
_ANGLES: Final = str.maketrans("<>", "()")
_BLANK: Final = re.compile(r"(?:\s|//[^\n]*)*")
_POLICY_ID: Final = re.compile(r"policy([0-9]+)", re.ASCII)


class _CedarPolicy(NamedTuple):
    """One policy of a file."""

    file: Path
    line: int
    text: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Rules:
    """Parsed policies, entities and schema."""

    policies: cedarpy.PolicySet
    entities: cedarpy.Entities
    schema: cedarpy.Schema
    places: tuple[str, ...]
    """File and line of each policy, in the order in which Cedar numbers them."""

    def describe(self, policy_id: str, annotation: str | None) -> str:
        """Return the name of a policy for the log: its `@id`, if it has one, and its place."""
        place = _place(policy_id, self.places)
        return f"{annotation!r} ({place})" if annotation else f"policy at {place}"


def load_rules(config: CedarConfig, directory: Path) -> Rules:
    """Read and check the files that `config` names; relative paths start at `directory`.

    Slow with many policies: do not call it on the event loop.

    Raises:
        BackendError: A file can't be used. The message names the file, the place and the problem in one line.
    """
    schema_file = config.schema_file or _SCHEMA_NAME
    if config.schema_file is None:
        schema_text = (resources.files("kes_cedar") / _SCHEMA_NAME).read_text("utf-8")
    else:
        schema_text = _read(directory / config.schema_file)
    if _nesting(schema_text.translate(_ANGLES)) > _MAX_NESTING:
        raise _problem(schema_file, f"is nested more than {_MAX_NESTING} levels deep")
    try:
        schema = cedarpy.Schema.from_str(schema_text, release_gil=True)
    except ValueError as error:
        raise _problem(schema_file, str(error)) from None
    entities = _entities(directory / config.entities if config.entities is not None else None, schema)
    policies = [
        policy for file in _policy_files([directory / path for path in config.policies]) for policy in _policies(file)
    ]
    rules = Rules(_policy_set(policies, schema), entities, schema, tuple(policy.place for policy in policies))
    _check_schema(schema_file, rules)
    return rules


def _problem(place: str | Path, message: str) -> BackendError:
    return BackendError(f"policy engine cedar: {place}: {' '.join(message.split())}")


def _read(file: Path) -> str:
    if file.exists() and not file.is_file():
        # Reading a pipe would block.
        raise _problem(file, "is not a file")
    try:
        data = file.read_bytes()
    except OSError as error:
        raise _problem(file, f"can't be read: {error.strerror}") from None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _problem(f"{file}:{line}", "is not UTF-8") from None


def _policy_files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        try:
            files = sorted(file for file in path.iterdir() if file.suffix == _SUFFIX and file.is_file())
        except OSError as error:
            raise _problem(path, f"can't be read: {error.strerror}") from None
        if not files:
            raise _problem(path, f"the directory has no file whose name ends in {_SUFFIX}")
        yield from files


def _policies(file: Path) -> Iterator[_CedarPolicy]:
    """Split a file into policies. Cedar's errors have no line, so each policy is parsed alone."""
    text = _read(file)
    begin = _end_of_blank(text, 0)
    if begin == len(text):
        # The file is more likely being written than empty on purpose.
        raise _problem(file, "has no policy")
    ends = [match.end() for match in _TOKEN.finditer(text) if match["end"]]
    for end in [*ends, len(text)]:
        if begin == len(text):
            return
        policy = _CedarPolicy(file, text.count("\n", 0, begin) + 1, text[begin:end])
        if _nesting(policy.text) > _MAX_NESTING:
            raise _problem(policy.place, f"is nested more than {_MAX_NESTING} levels deep; split it into policies")
        try:
            count = len(cedarpy.PolicySet.from_str(policy.text))
        except ValueError as error:
            raise _problem(policy.place, str(error)) from None
        if count != 1:
            raise _problem(policy.place, "is a template, which nothing links; write a policy without ?principal")
        yield policy
        begin = _end_of_blank(text, end)


def _nesting(text: str) -> int:
    """Return the largest number of open brackets. An `if` counts as a bracket that is never closed."""
    depth = deepest = 0
    for match in _TOKEN.finditer(text):
        if match["open"]:
            depth += 1
            deepest = max(deepest, depth)
        elif match["close"]:
            depth -= 1
    return deepest


def _end_of_blank(text: str, begin: int) -> int:
    """Return the end of the white space and comments at `begin`."""
    blank = _BLANK.match(text, begin)
    return blank.end() if blank is not None else begin


def _policy_set(policies: Sequence[_CedarPolicy], schema: cedarpy.Schema) -> cedarpy.PolicySet:
    text = "\n".join(policy.text for policy in policies)
    checked = cedarpy.validate_policies(text, schema, release_gil=True)
    if not checked.validation_passed:
        first = checked.errors[0]
        place = _place(first.policy_id, [policy.place for policy in policies])
        more = f" (and {len(checked.errors) - 1} more)" if len(checked.errors) > 1 else ""
        raise _problem(place, first.error.removeprefix(f"for policy `{first.policy_id}`, ") + more)
    return cedarpy.PolicySet.from_str(text, release_gil=True)


def _place(policy_id: str, places: Sequence[str]) -> str:
    match = _POLICY_ID.fullmatch(policy_id)
    return places[int(match[1])] if match and int(match[1]) < len(places) else policy_id


def _entities(file: Path | None, schema: cedarpy.Schema) -> cedarpy.Entities:
    # Without a file the entities are the actions and their groups, which come from the schema.
    text = _read(file) if file is not None else "[]"
    try:
        json.loads(text)
    except RecursionError:
        raise _problem(str(file), "is nested too deep") from None
    except ValueError as error:
        line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise _problem(f"{file}{line}", f"is not JSON: {reason}") from None
    try:
        return cedarpy.Entities.from_json_str(text, schema, release_gil=True)
    except ValueError as error:
        raise _problem(str(file), _why_not(text, schema) or str(error)) from None


def _why_not(text: str, schema: cedarpy.Schema) -> str:
    """Return the error in entities. Cedar gives more details for a request than when it only parses them."""
    asked = cedar_request(_example(next(iter(OPERATIONS)), None))
    errors = cedarpy.is_authorized(asked, "", text, schema).diagnostics.errors
    return next((error.rpartition(f"{text}: ")[2] for error in errors if text in error), "")


def _check_schema(file: str, rules: Rules) -> None:
    """Ask about every action once: with a schema that does not fit, Cedar would refuse every request."""
    now = datetime.now(UTC)
    certificate = CertificateFacts("CN=x", "CN=x", 1, now, now, ("x",), ("192.0.2.1",))
    for api, operation in OPERATIONS.items():
        for facts in (None, certificate):
            asked = cedar_request(_example(api, facts))
            answer = cedarpy.is_authorized(asked, cedarpy.PolicySet.from_str(""), rules.entities, rules.schema)
            if answer.decision is cedarpy.Decision.NoDecision:
                reason = "; ".join(answer.diagnostics.errors)
                raise _problem(file, f"the schema does not fit requests for {operation.action}: {reason}")


def _example(api: str, certificate: CertificateFacts | None) -> PolicyRequest:
    return PolicyRequest(
        identity="0" * 64,
        method="GET",
        path=api,
        api=api,
        resource="",
        remote_address="192.0.2.1",
        time=datetime.now(UTC),
        certificate=certificate,
    )
