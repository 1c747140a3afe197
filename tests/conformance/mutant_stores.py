"""Key stores that are broken on purpose, each in one way, with the clauses that must find the fault."""

from __future__ import annotations

import base64
import contextlib
from typing import ClassVar

from kes_core import EntryExistsError, EntryNotFoundError, KeyStore, KeyStoreError, Page, page_of
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.keystore import PAGE_SIZE
from kes_core.names import is_valid_name
from kes_core.testing import KeyStoreContract

PATIENT = 120.0
"""The time limit of sound plugins, in seconds: on a busy machine they need much longer than on an idle one."""


class Mutant(KeyStoreContract):
    """A contract test of a broken store class, with the clauses that the class breaks."""

    Subject: ClassVar[type[KeyStore]]
    breaks: ClassVar[str] = ""
    time_limit = 5.0

    async def make_store(self) -> KeyStore:
        return self.Subject()


# Create, get and delete


class TestSound(Mutant):
    time_limit = PATIENT
    Subject = MemoryKeyStore


class TestOverwrites(Mutant):
    breaks = (
        "create_of_taken_name_is_refused refused_create_changes_nothing concurrent_creates_have_one_winner "
        "store_works_after_cancelled_calls messages_of_errors"
    )

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            self._values[name] = value


class TestSwallowsTheRefusal(Mutant):
    breaks = "create_of_taken_name_is_refused concurrent_creates_have_one_winner messages_of_errors"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            with contextlib.suppress(EntryExistsError):
                await super().create(name, value)


class TestRefusesWithAnotherError(Mutant):
    breaks = "create_of_taken_name_is_refused concurrent_creates_have_one_winner cancelled_create"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            try:
                await super().create(name, value)
            except EntryExistsError as error:
                raise KeyStoreError(str(error)) from None


class TestTakesTheSameValueTwice(Mutant):
    breaks = "create_of_taken_name_is_refused messages_of_errors"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if self._values.get(name) != value:
                await super().create(name, value)


class TestTakesOnlyNamesOfKeys(Mutant):
    breaks = "names_of_versions"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if not is_valid_name(name):
                raise KeyStoreError("not a valid name for a key")
            await super().create(name, value)


class TestReadsNothingAtFirst(Mutant):
    """Like a store whose reads lag behind its writes."""

    breaks = (
        "calls_are_fast create_then_get refused_create_changes_nothing get_returns_bytes get_changes_nothing "
        "value_of_all_bytes empty_value large_values value_that_is_not_utf8 line_ends_and_spaces_are_kept "
        "value_is_not_interpreted every_character_of_names shortest_and_longest_names "
        "names_of_versions names_are_case_sensitive name_that_begins_another names_with_a_meaning_elsewhere "
        "deleted_key_is_not_found create_after_delete delete_keeps_other_keys "
        "concurrent_creates_have_one_winner get_during_create concurrent_creates_of_different_keys "
        "too_large_value repr_shows_no_value"
    )

    class Subject(MemoryKeyStore):
        def __init__(self) -> None:
            super().__init__()
            self._fresh: set[str] = set()

        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value)
            self._fresh.add(name)

        async def get(self, name: str) -> bytes:
            if name in self._fresh:
                self._fresh.remove(name)
                raise EntryNotFoundError(f"key {name!r} does not exist")
            return await super().get(name)


class TestRaisesKeyError(Mutant):
    breaks = "get_of_absent_key name_that_begins_another deleted_key_is_not_found concurrent_deletes messages_of_errors"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            return self._values[name]


class TestReturnsMemoryview(Mutant):
    breaks = "get_returns_bytes"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            return memoryview(await super().get(name))  # type: ignore[return-value] # the mistake


class TestGivesAwayOnce(Mutant):
    breaks = "refused_create_changes_nothing get_changes_nothing cancelled_create store_works_after_cancelled_calls"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = await super().get(name)
            if len(value) > 1:
                self._values[name] = value[:-1]
            return value


class TestForgetsToDelete(Mutant):
    breaks = (
        "deleted_key_is_not_found deleted_key_is_not_listed create_after_delete list_during_changes concurrent_deletes"
    )

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            await self.get(name)


class TestDeletesByPrefix(Mutant):
    breaks = "delete_keeps_other_keys"

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            await super().delete(name)
            for other in [other for other in self._values if other.startswith(name)]:
                del self._values[other]


class TestFailsToDeleteNothing(Mutant):
    breaks = "delete_of_absent_key concurrent_deletes"

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            try:
                await super().delete(name)
            except EntryNotFoundError:
                raise KeyStoreError("nothing was deleted") from None


# Values and names


class TestTextMode(Mutant):
    breaks = "line_ends_and_spaces_are_kept"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value.replace(b"\r\n", b"\n"))


class TestDecodesValues(Mutant):
    breaks = "value_of_all_bytes value_that_is_not_utf8"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value.decode("utf-8", "replace").encode())


class TestTruncates(Mutant):
    breaks = "large_values get_during_create cancelled_create too_large_value"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value[:4096])


class TestDecodesBase64(Mutant):
    breaks = "value_is_not_interpreted"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = await super().get(name)
            return base64.b64decode(value) if value.endswith(b"=") else value


class TestIgnoresCase(Mutant):
    """Like some file systems: a name keeps its case, but matches names in other case."""

    breaks = "names_are_case_sensitive"

    class Subject(MemoryKeyStore):
        def _stored(self, name: str) -> str:
            return next((stored for stored in self._values if stored.lower() == name.lower()), name)

        async def create(self, name: str, value: bytes) -> None:
            await super().create(self._stored(name), value)

        async def get(self, name: str) -> bytes:
            return await super().get(self._stored(name))

        async def delete(self, name: str) -> None:
            await super().delete(self._stored(name))


class TestTakesEmptyForAbsent(Mutant):
    breaks = "empty_value create_after_delete"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = self._values.get(name)
            if not value:
                raise EntryNotFoundError(f"key {name!r} does not exist")
            return value


class TestRefusesTwoHyphens(Mutant):
    breaks = "every_character_of_names"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if "--" in name:
                raise KeyStoreError("not a valid name")
            await super().create(name, value)


class TestTakesNamesForNumbers(Mutant):
    breaks = "names_with_a_meaning_elsewhere"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name.isdecimal() and int(name) in {int(other) for other in self._values if other.isdecimal()}:
                raise EntryExistsError(f"key {name!r} already exists")
            await super().create(name, value)


class TestShortensNames(Mutant):
    breaks = "shortest_and_longest_names names_of_versions"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name[:79], value)

        async def get(self, name: str) -> bytes:
            return await super().get(name[:79])


# Listings


class ListingStore(MemoryKeyStore):
    """Lists with the method `page`."""

    def page(self, prefix: str, start: str, limit: int) -> Page:
        return page_of(self._values, prefix, start=start, limit=limit)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return self.page(prefix, start, limit)


class TestSortsByAlphabet(Mutant):
    breaks = "list_is_in_order list_page_by_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(sorted(page.names, key=str.lower), page.next)


class TestIgnoresThePrefix(Mutant):
    breaks = "list_with_prefix list_from_start list_with_limit list_next_name list_page_by_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page("", start, limit)


class TestStartsAfterTheStart(Mutant):
    breaks = "list_from_start list_next_name list_page_by_page list_of_more_than_a_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start + "!" if start else "", limit)


class TestIgnoresTheLimit(Mutant):
    breaks = "list_with_limit list_next_name list_of_more_than_a_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start, 1 << 20)


class TestTakesNoLimitForNothing(Mutant):
    breaks = "list_with_limit_of_zero list_of_more_than_a_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start, limit) if limit > 0 else Page([], "")


class TestLosesTheNameBetweenPages(Mutant):
    breaks = "list_next_name list_page_by_page list_of_more_than_a_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(page.names, page.next and page.next + "-")


class TestDoublesTheNameBetweenPages(Mutant):
    breaks = "list_next_name list_page_by_page list_of_more_than_a_page"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(page.names, page.next and page.names[-1])


class TestPromisesAnEmptyPage(Mutant):
    """Promises a next page whenever the page is full."""

    breaks = "list_next_name"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return page if page.next or len(page.names) != limit else Page(page.names, page.names[-1] + "-")


class TestListsTooMuch(Mutant):
    breaks = (
        "list_of_empty_store list_holds_every_name_once list_with_prefix list_with_limit list_next_name "
        "list_page_by_page list_of_more_than_a_page store_works_after_cancelled_calls"
    )

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return page_of([*self._values, ".lock"], prefix, start=start, limit=limit)
