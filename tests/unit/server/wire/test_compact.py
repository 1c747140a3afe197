"""What idle connections keep takes less memory, and behaves as before."""

from __future__ import annotations

import asyncio
import gc
from collections import deque

import pytest
from h2.exceptions import InvalidSettingsValueError
from h2.settings import SettingCodes, Settings
from hypothesis import given
from hypothesis import strategies as st

from kes_core.server.wire.compact import Once, compact

CODES = st.sampled_from(list(SettingCodes))
STEPS = st.lists(st.none() | st.tuples(CODES, st.integers(0, 1 << 17)), max_size=20)
"""Acknowledgements, and new values of settings."""


@given(STEPS)
def test_settings_change_as_those_of_h2(steps: list[tuple[SettingCodes, int] | None]) -> None:
    plain, small = Settings(client=False), Settings(client=False)
    compact(small)
    for step in steps:
        if step is None:
            expected, changes = plain.acknowledge(), small.acknowledge()
            values = [(code, change.original_value, change.new_value) for code, change in changes.items()]
            assert values == [(code, change.original_value, change.new_value) for code, change in expected.items()]
        else:
            refused = []
            for settings in (plain, small):
                try:
                    settings[step[0]] = step[1]
                except InvalidSettingsValueError as error:
                    refused.append(error.error_code)
            assert len(refused) in (0, 2)
        assert [small.get(code) for code in SettingCodes] == [plain.get(code) for code in SettingCodes]


def kinds(settings: Settings) -> set[type]:
    """Return the types of all that settings contain."""
    found: set[type] = set()
    left: list[object] = [settings.__dict__]
    while left:
        for item in gc.get_referents(left.pop()):
            if not isinstance(item, type):
                found.add(type(item))
                left += [item] if isinstance(item, dict | deque | list) else []
    return found


def test_settings_have_no_deque() -> None:
    """This fails if a new version of h2 keeps its settings in another way."""
    settings = Settings(client=False)
    assert deque in kinds(settings)
    compact(settings)
    assert deque not in kinds(settings)


@pytest.mark.parametrize("values", [None, {}, {SettingCodes.ENABLE_PUSH: 0}])
def test_settings_of_another_form_are_left_alone(values: object) -> None:
    settings = Settings(client=False)
    settings._settings = values  # type: ignore[assignment] # as another version of h2 may do
    compact(settings)
    assert settings._settings == values


def test_waiting_for_what_happens_once() -> None:
    async def run() -> None:
        once = Once()
        waiting = [asyncio.create_task(once.wait()) for _ in range(3)]
        await asyncio.sleep(0)
        assert not any(task.done() for task in waiting)
        waiting[0].cancel()
        once.set()
        once.set()
        await asyncio.gather(*waiting[1:])
        await once.wait()

    asyncio.run(run())


def test_what_has_happened_before_is_not_waited_for() -> None:
    once = Once()
    once.set()
    asyncio.run(asyncio.wait_for(once.wait(), 10))
