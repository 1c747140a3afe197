"""How much work the security tests do: a minute in every run, much more with `-m nightly`.

Both run the same code. `tests/conftest.py` loads the hypothesis profile; tests without hypothesis get their numbers
from `choose`.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings

__all__ = ["choose", "is_nightly", "load_profile", "scaled"]

_NIGHTLY_FACTOR = 100
_EXAMPLES = 50
"""The same in each run, as it is not random: a regression that they do not find is for the long form."""

_COMMON = settings(
    deadline=None,  # the machine may be busy; tests that limit time measure it themselves
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.register_profile("ci", _COMMON, max_examples=_EXAMPLES, derandomize=True)
settings.register_profile("nightly", _COMMON, max_examples=100 * _NIGHTLY_FACTOR, derandomize=False)


def load_profile(*, nightly: bool) -> None:
    """Load the hypothesis profile for this run of the tests."""
    settings.load_profile("nightly" if nightly else "ci")


def is_nightly() -> bool:
    """Tell whether this run is the long form."""
    return settings.get_current_profile_name() == "nightly"


def choose(ci: int, nightly: int) -> int:
    """Return the number for this run of the tests."""
    return nightly if is_nightly() else ci


def scaled(ci: int) -> settings:
    """Return settings with `ci` examples, and a hundred times as many in the long form."""
    return settings(max_examples=choose(ci, ci * _NIGHTLY_FACTOR))
