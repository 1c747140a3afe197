"""The clauses of policy engines."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import gc
import weakref
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from kes_core.policy import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.testing._running import BrokenError, HookError, check, described, fail_hook, heartbeat, settled, shown
from kes_core.testing._secrets import Secrets, texts_of_error, texts_of_records

if TYPE_CHECKING:
    import pytest

    from kes_core.testing.engines import PolicyEngineContract

__all__ = ["ENGINE_CHECKS", "EngineTrial"]

CLOSE_TIME: Final = 5.0
TIMES: Final = 20
"""How often a question is asked again, or at once."""
LONG: Final = 100_000
DELAYS: Final = (0.0, 0.0005, 0.002, 0.005)
TRIES: Final = 2


class EngineTrial:
    """An engine to be tried, and requests to ask."""

    def __init__(self, suite: PolicyEngineContract, log: pytest.LogCaptureFixture, has: Mapping[str, bool]) -> None:
        self._suite = suite
        self._has = has
        self.log = log
        self.engine: PolicyEngine
        self.longest_block = suite.longest_block
        self.samples: dict[str, PolicyRequest] = {}
        """The author's requests, by the method that returns them."""

    async def begin(self) -> None:
        """Make the engine and the requests."""
        try:
            engine = await self._suite.make_engine()
        except Exception as error:
            raise HookError("make_engine() failed") from error
        if not isinstance(engine, PolicyEngine):
            fail_hook(f"make_engine() of the test class returned a {type(engine).__name__}; expected a PolicyEngine")
        self.engine = engine
        methods = {"unknown": self._suite.unknown, "allowed": self._suite.allowed, "denied": self._suite.denied}
        for name, method in methods.items():
            if self._has.get(name, True):
                try:
                    self.samples[name] = method()
                except Exception as error:
                    raise HookError(f"{name}() failed") from error

    async def end(self) -> None:
        """Close the engine. Whether that works is the business of one clause only."""
        if hasattr(self, "engine"):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIME):
                    await self.engine.close()

    async def decide(self, request: PolicyRequest) -> Decision:
        """Ask, and return the decision."""
        return (await self.engine.authorize(request)).decision

    def credentials(self) -> list[bytes]:
        """Return the credentials of the engine."""
        try:
            return [secret.encode() for secret in self._suite.secrets()]
        except Exception as error:
            raise HookError("secrets() failed") from error


EngineCheck = Callable[[EngineTrial], Awaitable[None]]

ENGINE_CHECKS: Final[dict[str, EngineCheck]] = {}
"""How each clause is checked, by its number."""


def _check_of(clause: str) -> Callable[[EngineCheck], EngineCheck]:
    def register(function: EngineCheck) -> EngineCheck:
        ENGINE_CHECKS[clause] = function
        return function

    return register


def _odd(request: PolicyRequest) -> Iterator[tuple[str, PolicyRequest]]:
    """Yield requests as no good client makes them, each with what is odd."""
    resources = {
        "no resource": "",
        "a very long resource": "a" * LONG,
        "control characters": "a\x00b\r\nc\x1b[31m\x7f\u2028d",
        "letters that are not ASCII": "schlüssel-鍵-\U0001f511",
        "a surrogate": "a\udcffb",
        "dots and slashes": "../../v1/key//./delete/*",
        "wildcards": "*?[a-z]{a,b}(",
        "format characters": "%s%n{0}{name!r}$x",
    }
    for what, resource in resources.items():
        yield what, dataclasses.replace(request, resource=resource, path=request.api + resource)
    changes: dict[str, dict[str, Any]] = {
        "an empty path": {"path": "", "api": "", "resource": ""},
        "an unknown route": {"path": "/v9/nothing/x", "api": "/v9/nothing/", "resource": "x"},
        "an unknown method": {"method": "BREW\r\n"},
        "no method": {"method": ""},
        "no address": {"remote_address": ""},
        "a strange address": {"remote_address": "not an address\n%eth0"},
        "no certificate": {"certificate": None},
    }
    for what, change in changes.items():
        yield what, dataclasses.replace(request, **change)


def _odd_identities(request: PolicyRequest) -> Iterator[tuple[str, PolicyRequest]]:
    identities = {"no identity": "", "an identity of spaces": "  ", "a wildcard": "*", "a long identity": "f" * LONG}
    for what, identity in identities.items():
        yield what, dataclasses.replace(request, identity=identity)


@_check_of("PE-VERDICT-1")
async def _verdicts(trial: EngineTrial) -> None:
    for name, request in trial.samples.items():
        verdict: object = await trial.engine.authorize(request)
        check(
            isinstance(verdict, Verdict),
            f"the request of {name}() is answered with {shown(verdict)}, which is no Verdict",
        )
        decision: object = getattr(verdict, "decision", None)
        check(isinstance(decision, Decision), f"the decision on the request of {name}() is {shown(decision)}")


@_check_of("PE-VERDICT-2")
async def _reasons(trial: EngineTrial) -> None:
    for name, sample in trial.samples.items():
        for what, request in [("nothing odd", sample), *_odd(sample)]:
            verdict = await settled(trial.engine.authorize(request))
            if isinstance(verdict, Exception):
                continue  # that is the business of PE-ODD-1
            reason: object = getattr(verdict, "reason", None)
            kept = isinstance(reason, str) and bool(reason.strip()) and reason.isprintable()
            check(kept, f"on the request of {name}() with {what} it is {shown(reason)}")


@_check_of("PE-ALLOW-1")
async def _allows(trial: EngineTrial) -> None:
    verdict = await trial.engine.authorize(trial.samples["allowed"])
    check(verdict.decision is Decision.ALLOW, f"got {shown(verdict)}")


@_check_of("PE-DENY-1")
async def _denies(trial: EngineTrial) -> None:
    verdict = await trial.engine.authorize(trial.samples["denied"])
    check(verdict.decision is Decision.DENY, f"got {shown(verdict)}")


async def _never_allowed(trial: EngineTrial, what: str, request: PolicyRequest) -> None:
    verdict = await settled(trial.engine.authorize(request))  # what is raised refuses it
    check(getattr(verdict, "decision", None) is not Decision.ALLOW, f"one with {what} is allowed: {shown(verdict)}")


@_check_of("PE-UNKNOWN-1")
async def _unknown(trial: EngineTrial) -> None:
    unknown = trial.samples["unknown"]
    await _never_allowed(trial, "the path of unknown()", unknown)
    for name, sample in trial.samples.items():
        request = dataclasses.replace(unknown, method=sample.method, path=sample.path, api=sample.api)
        await _never_allowed(trial, f"the path of {name}()", dataclasses.replace(request, resource=sample.resource))


@_check_of("PE-SAME-1")
async def _same_again(trial: EngineTrial) -> None:
    for name, request in trial.samples.items():
        first = await trial.decide(request)
        for time in range(2, TIMES + 2):
            found = await trial.decide(dataclasses.replace(request))
            check(
                found is first,
                f"the request of {name}(): first {shown(first)}, when asked {time} times {shown(found)}",
            )


@_check_of("PE-SAME-2")
async def _same_at_once(trial: EngineTrial) -> None:
    requests = [(name, request) for _ in range(TIMES) for name, request in trial.samples.items()]
    alone = {name: await trial.decide(request) for name, request in trial.samples.items()}
    together = await asyncio.gather(*(trial.decide(request) for _name, request in requests))
    for (name, _request), found in zip(requests, together, strict=True):
        check(
            found is alone[name], f"the request of {name}() alone: {shown(alone[name])}, among others: {shown(found)}"
        )


@_check_of("PE-REQUEST-1")
async def _request_unchanged(trial: EngineTrial) -> None:
    for name, sample in trial.samples.items():
        request, before = copy.deepcopy(sample), copy.deepcopy(sample)
        await trial.engine.authorize(request)
        changed = [each.name for each in dataclasses.fields(before) if _differ(each.name, request, before)]
        check(not changed, f"in the request of {name}() it changed {', '.join(changed)}")


def _differ(field: str, one: PolicyRequest, other: PolicyRequest) -> bool:
    return bool(getattr(one, field, None) != getattr(other, field))


class _Traced(PolicyRequest):
    """A request of which can be told whether somebody keeps it."""

    __slots__ = ("__weakref__",)


@_check_of("PE-REQUEST-2")
async def _request_not_kept(trial: EngineTrial) -> None:
    for name, sample in trial.samples.items():
        fields = {each.name: getattr(sample, each.name) for each in dataclasses.fields(sample)}
        references: list[weakref.ref[_Traced]] = []
        for _ in range(TIMES):
            request = _Traced(**fields)
            references.append(weakref.ref(request))
            await trial.engine.authorize(request)
        del request
        await asyncio.sleep(0)
        gc.collect()
        kept = sum(reference() is not None for reference in references)
        check(kept == 0, f"of {TIMES} answered requests of {name}() it keeps {kept}")


async def _answered(trial: EngineTrial, what: str, request: PolicyRequest) -> Verdict:
    try:
        verdict = await trial.engine.authorize(request)
    except Exception as error:
        raise BrokenError(f"with {what} it raised {described(error)}") from None
    check(isinstance(verdict, Verdict), f"with {what} it returned {shown(verdict)}, which is no Verdict")
    return verdict


@_check_of("PE-ODD-1")
async def _odd_is_answered(trial: EngineTrial) -> None:
    for sample in trial.samples.values():
        for what, request in [*_odd(sample), *_odd_identities(sample)]:
            await _answered(trial, what, request)


@_check_of("PE-ODD-2")
async def _odd_is_not_allowed(trial: EngineTrial) -> None:
    for name, sample in trial.samples.items():
        stranger = dataclasses.replace(sample, identity=trial.samples["unknown"].identity, certificate=None)
        odd = list(_odd_identities(stranger))
        if name == "unknown":
            odd += _odd(stranger)
        for what, request in odd:
            await _never_allowed(trial, what, request)


@_check_of("PE-CANCEL-1")
async def _works_on(trial: EngineTrial) -> None:
    before = {name: await trial.decide(request) for name, request in trial.samples.items()}
    for delay in DELAYS:
        tasks = [asyncio.ensure_future(trial.decide(request)) for request in trial.samples.values() for _ in range(5)]
        await asyncio.sleep(delay)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for name, request in trial.samples.items():
        after = await trial.decide(request)
        check(
            after is before[name], f"the request of {name}(): before {shown(before[name])}, afterwards {shown(after)}"
        )


@_check_of("PE-LOOP-1")
async def _loop_is_free(trial: EngineTrial) -> None:
    async with heartbeat() as measure:
        for name, sample in trial.samples.items():
            for what, request in [("nothing odd", sample), *_odd(sample)]:
                gap = min([await measure(trial.engine.authorize(request)) for _ in range(TRIES)])
                check(gap < trial.longest_block, f"the request of {name}() with {what} held it up for {gap:.2f} s")


@_check_of("PE-REPR-1")
async def _repr_is_a_line(trial: EngineTrial) -> None:
    for text, what in ((repr(trial.engine), "repr()"), (str(trial.engine), "str()")):
        check(text.isprintable() and bool(text.strip()), f"{what} of the engine is {shown(text)}")


@_check_of("PE-SECRET-1")
async def _credentials_are_not_shown(trial: EngineTrial) -> None:
    secrets = Secrets(trial.credentials())
    for name, sample in trial.samples.items():
        for what, request in [("nothing odd", sample), *_odd(sample)]:
            where = f"the request of {name}() with {what}"
            try:
                verdict = await trial.engine.authorize(request)
            except Exception as error:
                secrets.look_in(where, texts_of_error(error))
            else:
                secrets.look_in(where, [("the reason", str(verdict.reason))])
    secrets.look_in("the engine", [("repr()", repr(trial.engine)), ("str()", str(trial.engine))])
    await trial.engine.close()
    secrets.look_in("the log", texts_of_records(trial.log.records))


@_check_of("PE-CLOSE-1")
async def _closed_twice(trial: EngineTrial) -> None:
    await trial.decide(trial.samples["unknown"])
    for time in ("first", "second"):
        try:
            await trial.engine.close()
        except Exception as error:
            raise BrokenError(f"the {time} close raised {described(error)}") from None
