"""Clauses on listings: order, prefixes and pages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from kes_core.keystore import PAGE_SIZE, KeyStore, Page
from kes_core.testing._running import BrokenError, check, shown
from kes_core.testing._trial import StoreTrial, fill, store_check

__all__ = ["check_page"]

# In this order by their bytes, and in another by alphabet, by length, by number and by time of creation.
NAMES: Final = ("0", "10", "9", "B", "Z-a", "_b", "a", "a-1", "a-10", "a-2", "aC", "a_1", "ab", "abc", "d", "z")
CREATED: Final = NAMES[::2] + NAMES[1::2][::-1]
STARTS: Final = ("0", "1", "9", "C", "Z-a", "Z-aa", "_", "_b", "a", "a-", "a-1", "a-11", "aa", "ab", "abcd", "c", "z")
"""Names that are there, and what lies between, before and after them."""


def check_page(page: object, names: Iterable[str], what: str) -> None:
    """See to it that a page holds exactly these names, in their order."""
    if not (isinstance(page, tuple) and len(page) == len(Page._fields)):
        raise BrokenError(f"{what} returned {shown(page)}, which is no Page")
    wanted = list(names)
    if page[0] != wanted:
        raise BrokenError(f"{what} holds {shown(page[0])}, not {shown(wanted)}{_difference(page[0], wanted)}")


def _difference(found: list[str], wanted: list[str]) -> str:
    """Return what is missing and what is too much, where the lists are too long to be compared by eye."""
    parts = []
    for word, names in (("missing", sorted(set(wanted) - set(found))), ("too much", sorted(set(found) - set(wanted)))):
        if names:
            parts.append(f"{word}: {' '.join(names[:5])}{' ...' if len(names) > 5 else ''}")  # noqa: PLR2004 # enough
    return f" ({', '.join(parts)})" if parts else ""


@store_check("KS-LIST-1")
async def _empty_store(trial: StoreTrial) -> None:
    for page, what in (
        (await trial.store.list(), "list()"),
        (await trial.store.list("a"), "list('a')"),
        (await trial.store.list(start="a", limit=1), "list(start='a', limit=1)"),
    ):
        check_page(page, [], f"{what} of an empty store")
        check(page.next == "", f"{what} of an empty store has the next name {shown(page.next)}")


@store_check("KS-LIST-2")
async def _every_name_once(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    names = (await trial.store.list()).names
    check(sorted(names) == sorted(NAMES), f"list() holds {shown(names)}{_difference(names, list(NAMES))}")
    wrong = [name for name in names if type(name) is not str]
    check(not wrong, f"list() holds {shown(wrong)}, which are no strings")


@store_check("KS-LIST-3")
async def _order(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    names = (await trial.store.list()).names
    check(names == sorted(names, key=str.encode), f"got {shown(names)}")


@store_check("KS-LIST-4")
async def _prefix(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    for prefix in ("", "a", "a-", "a-1", "aC", "abc", "A", "d", "_", "Z-", "abcd", "-", "%", "zz"):
        found = set((await trial.store.list(prefix)).names)
        wanted = {name for name in NAMES if name.startswith(prefix)}
        check(found == wanted, f"list({prefix!r}) holds {shown(sorted(found))}, not {shown(sorted(wanted))}")


@store_check("KS-LIST-5")
async def _start(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    for prefix in ("", "a", "ab"):
        for start in STARTS:
            found = set((await trial.store.list(prefix, start=start)).names)
            wanted = {name for name in NAMES if name.startswith(prefix) and name >= start}
            what = f"list({prefix!r}, start={start!r})"
            check(found == wanted, f"{what} holds {shown(sorted(found))}, not {shown(sorted(wanted))}")


@store_check("KS-LIST-6")
async def _limit(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    for prefix, count in (("", len(NAMES)), ("a", 8)):
        for limit in (1, 2, count - 1, count, count + 1, PAGE_SIZE, 10 * PAGE_SIZE):
            found = len((await trial.store.list(prefix, limit=limit)).names)
            wanted = min(limit, count)
            check(found == wanted, f"list({prefix!r}, limit={limit}) of {count} names holds {found}, not {wanted}")


@store_check("KS-LIST-7")
async def _next(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    for prefix, start in (("", ""), ("a", ""), ("a-", ""), ("", "ab"), ("a", "a_")):
        matching = [name for name in NAMES if name.startswith(prefix) and name >= start]
        for limit in range(1, len(matching) + 2):
            found = (await trial.store.list(prefix, start=start, limit=limit)).next
            wanted = matching[limit] if limit < len(matching) else ""
            what = f"list({prefix!r}, start={start!r}, limit={limit})"
            check(found == wanted, f"{what} of {shown(matching)} has next {found!r}, not {wanted!r}")


@store_check("KS-LIST-8")
async def _limit_of_nothing(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    whole = await trial.store.list(limit=PAGE_SIZE)
    for limit in (0, -1, -PAGE_SIZE):
        page = await trial.store.list(limit=limit)
        check(page == whole, f"list(limit={limit}) returned {shown(page)}, list(limit={PAGE_SIZE}) {shown(whole)}")


async def _walk(store: KeyStore, prefix: str, limit: int, enough: int) -> list[str]:
    """Go from page to page, as a client does, and no further than to `enough` pages."""
    seen: list[str] = []
    start = ""
    for _page in range(enough):
        page = await store.list(prefix, start=start, limit=limit)
        seen += page.names
        if not page.next:
            return seen
        check(page.next > start, f"list({prefix!r}, start={start!r}, limit={limit}) has next {page.next!r}: no way on")
        start = page.next
    raise BrokenError(f"list({prefix!r}, limit={limit}) has a next page after {enough} pages")


@store_check("KS-LIST-9")
async def _pages(trial: StoreTrial) -> None:
    await fill(trial.store, CREATED)
    for prefix in ("", "a", "a-"):
        wanted = [name for name in NAMES if name.startswith(prefix)]
        for limit in (1, 2, 3, 7):
            seen = await _walk(trial.store, prefix, limit, len(NAMES) + 1)
            what = f"pages of list({prefix!r}, limit={limit})"
            check(seen == wanted, f"{what} hold {shown(seen)}, not {shown(wanted)}{_difference(seen, wanted)}")


@store_check("KS-LIST-10")
async def _many(trial: StoreTrial) -> None:
    names = [f"many-{number:04}" for number in range(PAGE_SIZE + 6)]
    await fill(trial.store, names)
    page = await trial.store.list()
    check_page(page, names[:PAGE_SIZE], f"list() of {len(names)} names")
    check(page.next == names[PAGE_SIZE], f"list() of {len(names)} names has next {page.next!r}")
    check_page(await trial.store.list(limit=0), names[:PAGE_SIZE], f"list(limit=0) of {len(names)} names")
    check_page(await trial.store.list(start=page.next), names[PAGE_SIZE:], f"list(start={page.next!r})")
