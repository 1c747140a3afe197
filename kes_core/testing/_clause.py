"""Turns test methods into clauses of the contract, and runs them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn, Protocol, TypeVar

import pytest

from kes_core.hookspecs import HOOKSPEC_VERSION, PluginContext
from kes_core.testing._running import BrokenError, ExcludedError, HookError, HungError, LateError, described, run
from kes_core.testing._sections import exposed_fields
from kes_core.testing.plugin import EXPOSED, PROPERTY

__all__ = ["Clause", "Suite", "Trial", "clause", "credentials_of", "is_defined", "optional"]

F = TypeVar("F", bound=Callable[..., object])
S = TypeVar("S", bound="Suite")
T = TypeVar("T", bound="Trial")


@dataclass(frozen=True, slots=True)
class Clause:
    """One promise of a plugin."""

    name: str
    """The name of its test method without `test_`. It never changes."""
    sentence: str
    """The promise: the docstring of the test method."""
    needs: str = ""
    """The optional method of the test class that the clause needs; without it the clause is not applicable."""
    since: str = "0.1.0"
    """The release of kes-core that added it."""
    patience: int = 1
    """The time limit as a multiple of `time_limit`: more for a clause that makes many calls."""
    debug_log: bool = False
    """Whether the clause examines log records of every level."""
    excluded_by: str = ""
    """The capability that excludes the clause: a field of `StoreCapabilities`, or `takes_over` of a front end."""

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"


class Trial(Protocol):
    """The store or engine that one clause tests."""

    @property
    def subject(self) -> object:
        """The store, engine or sink of the author."""

    async def begin(self) -> None:
        """Create the store or engine."""

    def check_capability(self, name: str) -> None:
        """Raise `ExcludedError` if the store states the capability `name`."""

    def pace(self) -> str:
        """Return how many calls a clause made that did not end in time, and how long they took; or nothing."""

    async def end(self, *, kept: bool) -> None:
        """Close the store or engine, after a clause that was kept or not."""


def optional(method: F) -> F:
    """Mark a method as optional: if the author does not define it, the clauses that need it are not applicable."""
    method.kes_optional = True  # type: ignore[attr-defined] # read by `is_defined`
    return method


def is_defined(suite: type, method: str) -> bool:
    """Return whether a test class defines a method that is optional in its base."""
    return not getattr(getattr(suite, method), "kes_optional", False)


class Suite:
    """The base of all test classes of the kit."""

    time_limit: ClassVar[float] = 20.0
    """Time limit of a clause in seconds. A clause that takes longer is broken."""
    longest_block: ClassVar[float] = 0.5
    """The longest time in seconds that a call may block the event loop."""
    longest_call: ClassVar[float] = 1.0
    """The longest time in seconds that one call may take while nothing else happens: a request has 15 seconds, and may
    make several calls; a policy engine has 1 second."""
    deviations: ClassVar[Mapping[str, str]] = {}
    """Clauses that the plugin is known to break, each with the reason. The run does not fail because of them, and its
    summary shows the reasons."""

    tmp_path: Path
    """An empty directory for each clause."""
    context: PluginContext
    """A context for `connect`, whose `directory` is `tmp_path`."""
    kes_log: pytest.LogCaptureFixture
    """The log records of the clause."""

    @pytest.fixture(autouse=True)
    def _kes_prepare(self, request: pytest.FixtureRequest, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        self.tmp_path, self.kes_log, self._kes_item = tmp_path, caplog, request.node
        self.context = PluginContext(directory=tmp_path)

    @optional
    def secrets(self) -> Sequence[str]:
        """Return the credentials that the tested plugin uses, each of 8 characters or more.

        Optional. The kit calls it after it has created the store or the engine.
        """
        raise NotImplementedError

    def _make_trial(self) -> Any:
        raise NotImplementedError

    def _kes_check(self, promise: Clause, check: Callable[[Any, Any], Awaitable[None]]) -> None:
        """Check one clause: return if it is kept, skip if it is not applicable, or fail with one line."""
        if promise.needs and not is_defined(type(self), promise.needs):
            self._kes_record("not applicable")
            pytest.skip(f"{promise.name} is not applicable: the test class has no method {promise.needs}()")
        trial = self._make_trial()

        async def main() -> None:
            kept = False
            try:
                await trial.begin()
                self._kes_item.user_properties.extend((EXPOSED, field) for field in exposed_fields(trial.subject))
                if promise.excluded_by:
                    trial.check_capability(promise.excluded_by)
                await check(self, trial)
                kept = True
            finally:
                await trial.end(kept=kept)

        if promise.debug_log:
            self.kes_log.set_level(logging.DEBUG)
        failure: Exception | None = None
        try:
            run(main, self.time_limit * promise.patience)
        except ExcludedError as error:
            self._kes_record(f"excluded by {error}")
            pytest.skip(f"{promise.name} is excluded by the capability {error}")
        except HookError as error:  # in the author's own code: show the traceback
            self._kes_record("not checked")
            raise (error.__cause__ or error) from None
        except LateError as error:
            failure = BrokenError(f"{error}{trial.pace()}")
        except Exception as error:
            failure = error
        if failure is not None:  # outside the handler, as pytest would show the exception before the verdict
            self._kes_broken(promise, failure)
        self._kes_record("kept in spite of a declared deviation" if promise.name in self.deviations else "kept")

    def _kes_record(self, outcome: str) -> None:
        self._kes_item.user_properties.append((PROPERTY, f"{HOOKSPEC_VERSION} {outcome}"))

    def _kes_broken(self, promise: Clause, error: Exception) -> NoReturn:
        """End the test of a broken clause: as failed, or as an expected failure if it is a known deviation."""
        found = str(error) if isinstance(error, BrokenError) else f"a call raised {described(error)}"
        if promise.name in self.deviations:
            self._kes_record(f"deviating {self.deviations[promise.name]}")
            pytest.xfail(f"{promise} — {found}")
        self._kes_record("broken, hung" if isinstance(error, HungError) else "broken")
        pytest.fail(f"{promise} — {found}", pytrace=False)


def credentials_of(suite: Suite) -> list[bytes]:
    """Return the credentials that the author named, or an empty list."""
    if not is_defined(type(suite), "secrets"):
        return []
    try:
        return [secret.encode() for secret in suite.secrets()]
    except Exception as error:
        raise HookError("secrets() failed") from error


def clause(
    *, needs: str = "", since: str = "0.1.0", patience: int = 1, debug_log: bool = False, excluded_by: str = ""
) -> Callable[[Callable[[S, T], Awaitable[None]]], Callable[[S], None]]:
    """Turn a coroutine function into a test method; its docstring is the promise that it checks.

    The test method runs the coroutine with a new trial, in a new thread with its own event loop.
    """

    def decorate(check: Callable[[S, T], Awaitable[None]]) -> Callable[[S], None]:
        name, sentence = check.__name__.removeprefix("test_"), (check.__doc__ or "").removesuffix(".")
        promise = Clause(name, sentence, needs, since, patience, debug_log, excluded_by)

        @functools.wraps(check)
        def test(self: S) -> None:
            self._kes_check(promise, check)

        del test.__wrapped__  # otherwise pytest takes `trial` for a fixture
        test.kes_clause = promise  # type: ignore[attr-defined] # read by `contract` and the pytest plugin
        return test

    return decorate
