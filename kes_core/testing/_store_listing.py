"""Clauses on listings: order, prefixes and pages."""

from __future__ import annotations

from typing import Final

from kes_core.keystore import PAGE_SIZE, KeyStore
from kes_core.testing._clause import clause
from kes_core.testing._running import BrokenError, check, shown
from kes_core.testing._store import StoreSuite, StoreTrial
from kes_core.testing._store_calls import check_page, difference, fill

__all__ = ["ListingClauses"]

# In byte order, which differs from the order by alphabet, by length, by number and by time of creation.
NAMES: Final = ("0", "10", "9", "B", "Z-a", "_b", "a", "a-1", "a-10", "a-2", "aC", "a_1", "ab", "abc", "d", "z")
CREATED: Final = NAMES[::2] + NAMES[1::2][::-1]
STARTS: Final = ("0", "1", "9", "C", "Z-a", "Z-aa", "_", "_b", "a", "a-", "a-1", "a-11", "aa", "ab", "abcd", "c", "z")
"""Existing names, and names before, between and after them."""


async def _walk(store: KeyStore, prefix: str, limit: int, enough: int) -> list[str]:
    """Read page after page, as a client does, but at most `enough` pages."""
    seen: list[str] = []
    start = ""
    for _page in range(enough):
        page = await store.list(prefix, start=start, limit=limit)
        seen += page.names
        if not page.next:
            return seen
        check(
            page.next > start,
            f"list({prefix!r}, start={start!r}, limit={limit}) has next {page.next!r}, which does not advance",
        )
        start = page.next
    raise BrokenError(f"list({prefix!r}, limit={limit}) has a next page after {enough} pages")


async def _fill(trial: StoreTrial) -> list[str]:
    """Create all keys of `NAMES` that the store can hold, in another order; return their names in byte order."""
    await fill(trial.store, trial.usable(CREATED))
    return sorted(trial.usable(NAMES))


class ListingClauses(StoreSuite):
    """Order, prefixes and pages."""

    @clause()
    async def test_list_of_empty_store(self, trial: StoreTrial) -> None:
        """The listing of an empty store is an empty page without a next name."""
        for page, what in (
            (await trial.store.list(), "list()"),
            (await trial.store.list("a"), "list('a')"),
            (await trial.store.list(start="a", limit=1), "list(start='a', limit=1)"),
        ):
            check_page(page, [], f"{what} of an empty store")
            check(page.next == "", f"{what} of an empty store has the next name {shown(page.next)}")

    @clause()
    async def test_list_holds_every_name_once(self, trial: StoreTrial) -> None:
        """A listing contains the name of every key exactly once, and nothing else."""
        known = await _fill(trial)
        names = (await trial.store.list()).names
        check(sorted(names) == known, f"list() holds {shown(names)}{difference(names, known)}")
        wrong = [name for name in names if type(name) is not str]
        check(not wrong, f"list() holds {shown(wrong)}, which are not strings")

    @clause(excluded_by="ordered")
    async def test_list_is_in_order(self, trial: StoreTrial) -> None:
        """Names are in ascending order of their bytes."""
        await _fill(trial)
        names = (await trial.store.list()).names
        check(names == sorted(names, key=str.encode), f"got {shown(names)}")

    @clause()
    async def test_list_with_prefix(self, trial: StoreTrial) -> None:
        """With a prefix, a listing contains exactly the names that begin with it."""
        known = await _fill(trial)
        for prefix in ("", "a", "a-", "a-1", "aC", "abc", "A", "d", "_", "Z-", "abcd", "-", "%", "zz"):
            found = set((await trial.store.list(prefix)).names)
            wanted = {name for name in known if name.startswith(prefix)}
            check(found == wanted, f"list({prefix!r}) holds {shown(sorted(found))}, not {shown(sorted(wanted))}")

    @clause()
    async def test_list_from_start(self, trial: StoreTrial) -> None:
        """A listing begins with the first name that is not less than `start`."""
        known = await _fill(trial)
        for prefix in ("", "a", "ab"):
            for start in STARTS:
                found = set((await trial.store.list(prefix, start=start)).names)
                wanted = {name for name in known if name.startswith(prefix) and name >= start}
                what = f"list({prefix!r}, start={start!r})"
                check(found == wanted, f"{what} holds {shown(sorted(found))}, not {shown(sorted(wanted))}")

    @clause()
    async def test_list_with_limit(self, trial: StoreTrial) -> None:
        """A page contains at most `limit` names, and fewer only if there are no more."""
        known = await _fill(trial)
        for prefix in ("", "a"):
            count = sum(name.startswith(prefix) for name in known)
            for limit in (1, 2, count - 1, count, count + 1, PAGE_SIZE, 10 * PAGE_SIZE):
                found = len((await trial.store.list(prefix, limit=limit)).names)
                wanted = min(limit, count)
                check(found == wanted, f"list({prefix!r}, limit={limit}) of {count} names holds {found}, not {wanted}")

    @clause()
    async def test_list_next_name(self, trial: StoreTrial) -> None:
        """`next` is the first name that did not fit on the page, and empty if all did."""
        known = await _fill(trial)
        for prefix, start in (("", ""), ("a", ""), ("a-", ""), ("", "ab"), ("a", "a_")):
            matching = [name for name in known if name.startswith(prefix) and name >= start]
            for limit in range(1, len(matching) + 2):
                found = (await trial.store.list(prefix, start=start, limit=limit)).next
                wanted = matching[limit] if limit < len(matching) else ""
                what = f"list({prefix!r}, start={start!r}, limit={limit})"
                check(found == wanted, f"{what} of {shown(matching)} has next {found!r}, not {wanted!r}")

    @clause()
    async def test_list_with_limit_of_zero(self, trial: StoreTrial) -> None:
        """A limit of 0 or less means a page of 1024 names."""
        await _fill(trial)
        whole = await trial.store.list(limit=PAGE_SIZE)
        for limit in (0, -1, -PAGE_SIZE):
            page = await trial.store.list(limit=limit)
            check(page == whole, f"list(limit={limit}) returned {shown(page)}, list(limit={PAGE_SIZE}) {shown(whole)}")

    @clause()
    async def test_list_page_by_page(self, trial: StoreTrial) -> None:
        """Following `next` from page to page returns every name once, in order."""
        known = await _fill(trial)
        for prefix in ("", "a", "a-"):
            wanted = [name for name in known if name.startswith(prefix)]
            for limit in (1, 2, 3, 7):
                seen = await _walk(trial.store, prefix, limit, len(known) + 1)
                what = f"pages of list({prefix!r}, limit={limit})"
                check(seen == wanted, f"{what} hold {shown(seen)}, not {shown(wanted)}{difference(seen, wanted)}")

    @clause(patience=6)
    async def test_list_of_more_than_a_page(self, trial: StoreTrial) -> None:
        """If there are more than 1024 keys, a page without a limit contains the first 1024."""
        names = [f"many-{number:04}" for number in range(max(2, trial.many_keys))]
        size = min(PAGE_SIZE, len(names) - 1)
        await fill(trial.store, names)
        page = await trial.store.list(limit=size)
        check_page(page, names[:size], f"list(limit={size}) of {len(names)} names")
        check(page.next == names[size], f"list(limit={size}) of {len(names)} names has next {page.next!r}")
        check_page(await trial.store.list(), names[:PAGE_SIZE], f"list() of {len(names)} names")
        check_page(await trial.store.list(limit=0), names[:PAGE_SIZE], f"list(limit=0) of {len(names)} names")
        check_page(await trial.store.list(start=page.next), names[size:], f"list(start={page.next!r})")
