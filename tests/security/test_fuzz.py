"""Every parser returns a value or raises its one kind of error for any input, in bounded time."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.effort import choose, is_nightly, scaled
from tests.helpers.fuzz_targets import TARGETS
from tests.helpers.in_process import TIME_LIMIT

pytestmark = pytest.mark.nightly

SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz.py"
SECONDS_WITH_ATHERIS = 300


@st.composite
def damaged(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Change a few places of a good input."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 8)))
        data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
    return data


def check(name: str, data: bytes) -> None:
    started = time.thread_time()
    TARGETS[name].run(data)
    assert time.thread_time() - started < TIME_LIMIT


@pytest.mark.parametrize("name", TARGETS)
def test_parser_answers_or_refuses(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    for seed in seeds:
        check(name, seed)

    @scaled(300)
    @given(data=st.one_of(damaged(seeds), st.binary(max_size=500)))
    def fuzz(data: bytes) -> None:
        check(name, data)

    fuzz()
    if is_nightly():
        command = [sys.executable, str(SCRIPT), name, "--seconds", str(choose(0, SECONDS_WITH_ATHERIS))]
        subprocess.run(command, check=True, timeout=SECONDS_WITH_ATHERIS * 3)
