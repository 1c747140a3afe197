"""What a test class has in common with all others: a clause is run, and what became of it is told to pytest."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, NoReturn

import pytest

from kes_core.testing._running import BrokenError, HookError, HungError, described, run
from kes_core.testing.clauses import CONTRACT_VERSION, Clause
from kes_core.testing.plugin import PROPERTY

__all__ = ["check_clause", "overrides"]

NOT_APPLICABLE: Final = "not applicable: the test class has no method {}()"


def overrides(suite: object, base: type, method: str) -> bool:
    """Tell whether a test class has a method that its base only declares."""
    return getattr(type(suite), method) is not getattr(base, method)


def check_clause(
    clause: Clause,
    item: pytest.Item,
    *,
    applicable: bool,
    limit: float,
    main: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    """Check one clause in the test `item`: pass, skip what is not applicable, or fail with one line."""

    def record(outcome: str) -> None:
        item.user_properties.append((PROPERTY, f"{CONTRACT_VERSION} {outcome}"))

    def broken(error: str, outcome: str = "broken") -> NoReturn:
        record(outcome)
        pytest.fail(f"{clause} — {error}", pytrace=False)

    if not applicable:
        record("not applicable")
        pytest.skip(f"{clause.id} is {NOT_APPLICABLE.format(clause.needs)}")
    try:
        run(main, limit * clause.patience)
    except HungError as error:
        broken(str(error), "broken, hung")
    except BrokenError as error:
        broken(str(error))
    except HookError as error:  # the author's own code: its traceback is what helps
        record("not checked")
        raise (error.__cause__ or error) from None
    except Exception as error:
        broken(f"a call raised {described(error)}")
    record("kept")
