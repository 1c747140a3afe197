"""Clauses on secrets: a store's texts contain neither values nor credentials."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final, cast

from kes_core.boundary.stores import is_credential
from kes_core.keystore import MAX_VALUE_SIZE
from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, described, settled, shown
from kes_core.testing._secrets import Secrets, marker, texts_of_error, texts_of_records
from kes_core.testing._store import StoreSuite, StoreTrial
from kes_core.testing._store_calls import all_calls

__all__ = ["SecrecyClauses"]

DELAYS: Final = (0.0, 0.0005, 0.001)
"""Seconds after which calls are cancelled."""


def _look_at_store(trial: StoreTrial, secrets: Secrets, when: str) -> None:
    store = trial.store
    secrets.look_in(when, [("repr() of the store", repr(store)), ("str() of the store", f"{store} {store!s}")])


async def _provoke(trial: StoreTrial, value: bytes) -> list[tuple[str, BaseException]]:
    """Make calls that fail, with a secret value; return their errors."""
    store = trial.store
    await store.create("key", value)
    calls = [(f"{what} of an existing key", call) for what, call in all_calls(store, value).items()]
    calls += [
        ("create('key') of a deleted key", lambda: store.create("key", value)),
        ("create('key') of the same value", lambda: store.create("key", value)),
        ("get('absent')", lambda: store.get("absent")),
        ("delete('absent')", lambda: store.delete("absent")),
        ("create of too large a value", lambda: store.create("large", value * (1 + MAX_VALUE_SIZE // len(value)))),
        # The names are invalid, so the store may do anything, but must not show the value.
        ("create('')", lambda: store.create("", value)),
        ("create('not/valid')", lambda: store.create("../not/valid", value)),
    ]
    errors = [(what, result) for what, call in calls if isinstance(result := await settled(call()), BaseException)]
    for delay in DELAYS:
        task = asyncio.ensure_future(store.create("cancelled", value))
        await asyncio.sleep(delay)
        task.cancel()
        await asyncio.wait([task])
    return errors


def _look_at_errors(errors: list[tuple[str, BaseException]], secrets: Secrets) -> None:
    for what, error in errors:
        secrets.look_in(f"the error of {what}", texts_of_error(error))


def _look_at_log(trial: StoreTrial, secrets: Secrets) -> None:
    secrets.look_in("the log", texts_of_records(trial.log.records))


def _value() -> tuple[bytes, Secrets]:
    secret = marker()
    return secret * 8, Secrets([secret])


class SecrecyClauses(StoreSuite):
    """A store's texts contain neither values nor credentials."""

    @clause(debug_log=True)
    async def test_repr_shows_no_value(self, trial: StoreTrial) -> None:
        """`repr()` and `str()` of the store show no value."""
        value, secrets = _value()
        await trial.store.create("key", value)
        _look_at_store(trial, secrets, "after create")
        await trial.store.get("key")
        _look_at_store(trial, secrets, "after get")

    @clause(debug_log=True)
    async def test_errors_show_no_value(self, trial: StoreTrial) -> None:
        """Neither an error nor its cause shows a value."""
        value, secrets = _value()
        _look_at_errors(await _provoke(trial, value), secrets)

    @clause(debug_log=True)
    async def test_log_shows_no_value(self, trial: StoreTrial) -> None:
        """No log record, at any level, shows a value."""
        value, secrets = _value()
        await _provoke(trial, value)
        await trial.store.close()
        _look_at_log(trial, secrets)

    @clause(needs="secrets", debug_log=True)
    async def test_store_shows_no_credential(self, trial: StoreTrial) -> None:
        """The store's `repr()`, its errors and its log show no credential."""
        value, _secrets = _value()
        secrets = Secrets(trial.credentials())
        _look_at_store(trial, secrets, "at first")
        errors = await _provoke(trial, value)
        _look_at_store(trial, secrets, "after calls")
        await trial.store.close()
        _look_at_errors(errors, secrets)
        _look_at_log(trial, secrets)

    @clause()
    async def test_credentials_are_facts(self, trial: StoreTrial) -> None:
        """`credentials` returns `Credential` objects at once: plain names and numbers, and no secret."""
        secrets = Secrets(trial.credentials())
        for when in ("at first", "after a call"):
            started = time.monotonic()
            try:
                found: object = trial.subject.credentials()
            except Exception as error:
                raise BrokenError(f"{when}, it raised {described(error)}") from None
            seconds = time.monotonic() - started
            check(seconds < trial.longest_block, f"{when}, it blocked the event loop for {seconds:.2f} s")
            check(isinstance(found, list | tuple), f"{when}, it returned {shown(found)}, not a list or a tuple")
            secrets.look_in(when, [("what it returned", repr(found))])
            for each in cast("Sequence[object]", found):
                check(is_credential(each), f"{when}, it returned {shown(each)}: not a Credential with a plain name")
            await trial.store.create(f"key-{len(when)}", b"value")

    @clause(needs="make_unreachable", debug_log=True)
    async def test_outage_shows_no_secret(self, trial: StoreTrial) -> None:
        """While the store is unreachable, its errors and its log show neither values nor credentials."""
        secret = marker()
        await trial.store.create("key", secret * 8)
        secrets = Secrets([secret, *trial.credentials()])
        async with trial.unreachable():
            calls = all_calls(trial.store, secret * 8).items()
            results = [(what, await settled(call())) for what, call in calls]
            _look_at_store(trial, secrets, "while it is unreachable")
        _look_at_errors([(what, result) for what, result in results if isinstance(result, BaseException)], secrets)
        _look_at_log(trial, secrets)
