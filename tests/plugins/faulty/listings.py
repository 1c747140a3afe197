"""Key stores with a fault in `list`."""

from __future__ import annotations

from typing import Any, ClassVar

from kes_core import Page, StoreCapabilities
from tests.plugins.faulty.bases import FaultyStore


class _Listing(FaultyStore):
    page: ClassVar[Any] = None

    async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Any:
        return self.page


class ListReturnsADictionary(_Listing):
    """`list` returns a dictionary."""

    page: ClassVar[Any] = {}


class ListReturnsNames(_Listing):
    """`list` returns only names, without `next`."""

    page: ClassVar[Any] = ["a", "b", "c"]


class ListHasBytes(_Listing):
    """`list` returns names that are bytes."""

    page: ClassVar[Any] = Page([b"a"], "")  # type: ignore[list-item]


class ListIsUnsorted(_Listing):
    """`list` returns names in the order of their creation."""

    page: ClassVar[Any] = Page(["b", "a"], "")


class ListHasDoubles(_Listing):
    """`list` returns a name twice."""

    page: ClassVar[Any] = Page(["a", "a"], "")


class ListIsTooLong(_Listing):
    """`list` ignores its limit."""

    page: ClassVar[Any] = Page([f"{number:05}" for number in range(2000)], "")


class ListIgnoresPrefix(_Listing):
    """`list` returns names that do not begin with the prefix."""

    page: ClassVar[Any] = Page(["z"], "")


class NextIsANumber(_Listing):
    """`next` is a number."""

    page: ClassVar[Any] = Page(["a"], 1)  # type: ignore[arg-type]


class NextDoesNotAdvance(_Listing):
    """`next` is the last name of the page, which then comes again."""

    page: ClassVar[Any] = Page(["a"], "a")


class ListHasEmptyPages(FaultyStore):
    """`list` returns empty pages without end."""

    async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
        return Page([], start + "a")


class ListIsEndless(FaultyStore):
    """`list` returns more names, page after page, without end and without ever waiting."""

    async def list(self, prefix: str = "", *, start: str = "", limit: int = 1024) -> Page:
        name = (start or "a") + "a"
        return Page([name], name + "a")


class PatternMatchesNothing(FaultyStore):
    """Its capabilities exclude every name."""

    capabilities = StoreCapabilities(name_pattern="[^a-zA-Z0-9_-]+")
