"""Clauses on how a policy engine behaves."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import datetime as dt
import gc
import time
import weakref
from collections.abc import Awaitable, Iterator
from typing import Any, Final

from kes_core.policy import CertificateFacts, PolicyRequest
from kes_core.testing._clause import clause
from kes_core.testing._engine import TIMES, EngineSuite, EngineTrial, odd
from kes_core.testing._running import BrokenError, check, described, heartbeat, shown
from kes_core.testing._secrets import Secrets, texts_of_error, texts_of_records

__all__ = ["ConductClauses"]

DELAYS: Final = (0.0, 0.0005, 0.002, 0.005)
"""Seconds after which calls are cancelled."""
TRIES: Final = 2
"""How often a call has to block the event loop to break the clause: one block may have another cause."""


def _differ(field: str, one: PolicyRequest, other: PolicyRequest) -> bool:
    return bool(getattr(one, field, None) != getattr(other, field))


class _Traced(PolicyRequest):
    """A request that allows weak references, to notice whether the engine keeps it."""

    __slots__ = ("__weakref__",)


async def _waits(call: Awaitable[object]) -> bool:
    """Return whether a call waits for anything. It is not continued."""
    coroutine: Any = call.__await__()
    try:
        coroutine.send(None)
    except Exception:  # it has ended: with a result, or with an error, which another clause examines
        return False
    coroutine.close()
    return True


def _elsewhere(sample: PolicyRequest) -> Iterator[tuple[str, PolicyRequest]]:
    """Yield the same request at other times, from other addresses, and with another certificate."""
    for days in (1, 7 * 52, -7 * 52):
        later = sample.time + dt.timedelta(days=days, hours=11)
        yield f"the time {later:%Y-%m-%d %H:%M}", dataclasses.replace(sample, time=later)
    for address in ("127.0.0.1", "198.51.100.7", "2001:db8::1"):
        yield f"the address {address}", dataclasses.replace(sample, remote_address=address)
    end = sample.time + dt.timedelta(days=30)
    for certificate in (None, CertificateFacts("CN=one", "CN=another", 7, sample.time, end, verified=True)):
        what = "no certificate" if certificate is None else "another certificate"
        yield what, dataclasses.replace(sample, certificate=certificate)


class ConductClauses(EngineSuite):
    """The engine's handling of requests, the event loop and secrets."""

    @clause()
    async def test_request_is_not_changed(self, trial: EngineTrial) -> None:
        """The request is not changed."""
        for name, sample in trial.samples.items():
            request, before = copy.deepcopy(sample), copy.deepcopy(sample)
            await trial.engine.authorize(request)
            changed = [each.name for each in dataclasses.fields(before) if _differ(each.name, request, before)]
            check(not changed, f"in the request of {name}() it changed {', '.join(changed)}")

    @clause()
    async def test_request_is_not_kept(self, trial: EngineTrial) -> None:
        """The engine keeps no reference to a request after it has answered."""
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
            check(kept == 0, f"it keeps {kept} of {TIMES} answered requests of {name}()")

    @clause()
    async def test_engine_works_after_cancelled_calls(self, trial: EngineTrial) -> None:
        """The engine continues to work after calls were cancelled."""
        before = {name: await trial.decide(request) for name, request in trial.samples.items()}
        for delay in DELAYS:
            tasks = [
                asyncio.ensure_future(trial.decide(request)) for request in trial.samples.values() for _ in range(5)
            ]
            await asyncio.sleep(delay)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        for name, request in trial.samples.items():
            after = await trial.decide(request)
            check(
                after is before[name],
                f"the request of {name}(): before {shown(before[name])}, afterwards {shown(after)}",
            )

    @clause()
    async def test_authorize_does_not_block(self, trial: EngineTrial) -> None:
        """No call blocks the event loop."""
        await trial.answer_all()
        async with heartbeat() as measure:
            for name, sample in trial.samples.items():
                for what, request in [("nothing odd", sample), *odd(sample)]:
                    gap = min([await measure(trial.engine.authorize(request)) for _ in range(TRIES)])
                    check(gap < trial.longest_block, f"the request of {name}() with {what} blocked it for {gap:.2f} s")

    @clause()
    async def test_authorize_is_fast(self, trial: EngineTrial) -> None:
        """No call takes longer than `longest_call` while nothing else happens."""
        for name, sample in trial.samples.items():
            seconds = []
            for _ in range(TRIES):
                started = time.monotonic()
                await trial.engine.authorize(sample)
                seconds.append(time.monotonic() - started)
            found, limit = min(seconds), trial.longest_call
            check(found < limit, f"the request of {name}() took {found:.2f} s, longer than {limit:g} s (longest_call)")

    @clause()
    async def test_immediate_engine_does_not_wait(self, trial: EngineTrial) -> None:
        """An engine that states `is_immediate` answers every request without waiting for anything."""
        promise: object = trial.engine.is_immediate
        check(isinstance(promise, bool), f"is_immediate is {shown(promise)}, not True or False")
        await trial.answer_all()
        for name, sample in trial.samples.items() if promise else ():
            for what, request in [("nothing odd", sample), *odd(sample)]:
                call = trial.engine.authorize(request)
                waits = await _waits(call)
                check(not waits, f"on the request of {name}() with {what} it waited")

    @clause()
    async def test_repeatable_engine_repeats_itself(self, trial: EngineTrial) -> None:
        """An engine that states `is_repeatable` decides by identity, method and path alone."""
        promise: object = trial.engine.is_repeatable
        check(isinstance(promise, bool), f"is_repeatable is {shown(promise)}, not True or False")
        await trial.answer_all()
        for name, sample in trial.samples.items() if promise else ():
            first = await trial.decide(sample)
            for what, request in _elsewhere(sample):
                found = await trial.decide(request)
                check(found is first, f"the request of {name}(): {shown(first)}, with {what} {shown(found)}")

    @clause()
    async def test_repr_is_one_line(self, trial: EngineTrial) -> None:
        """`repr()` and `str()` of the engine are one line."""
        await trial.answer_all()
        for text, what in ((repr(trial.engine), "repr()"), (str(trial.engine), "str()")):
            check(text.isprintable() and bool(text.strip()), f"{what} of the engine is {shown(text)}")

    @clause(needs="secrets", debug_log=True)
    async def test_engine_shows_no_credential(self, trial: EngineTrial) -> None:
        """The reasons, the engine's `repr()` and its log show no credential."""
        await trial.answer_all()
        secrets = Secrets(trial.credentials())
        for name, sample in trial.samples.items():
            for what, request in [("nothing odd", sample), *odd(sample)]:
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

    @clause()
    async def test_close_engine_twice(self, trial: EngineTrial) -> None:
        """`close` can be called twice."""
        await trial.decide(trial.samples["unknown"])
        for which in ("first", "second"):
            try:
                await trial.engine.close()
            except Exception as error:
                raise BrokenError(f"the {which} close raised {described(error)}") from None
