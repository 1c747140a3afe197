"""Key stores that are broken on purpose, each in one way, with the clauses that have to find it."""

from __future__ import annotations

import base64
import contextlib
from typing import ClassVar

from kes_core import KeyExistsError, KeyNotFoundError, KeyStore, KeyStoreError, Page, page_of
from kes_core.keystore import PAGE_SIZE
from kes_core.memory import MemoryKeyStore
from kes_core.testing import KeyStoreContract


class Mutant(KeyStoreContract):
    """What is tested: a store class, and the clauses that it breaks."""

    Subject: ClassVar[type[KeyStore]]
    breaks: ClassVar[str] = ""
    time_limit = 5.0

    async def make_store(self) -> KeyStore:
        return self.Subject()


# Create, get and delete


class TestSound(Mutant):
    Subject = MemoryKeyStore


class TestOverwrites(Mutant):
    breaks = "KS-CREATE-2 KS-CREATE-3 KS-RACE-1 KS-CANCEL-2 KS-ERROR-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            self._values[name] = value


class TestSwallowsTheRefusal(Mutant):
    breaks = "KS-CREATE-2 KS-RACE-1 KS-ERROR-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            with contextlib.suppress(KeyExistsError):
                await super().create(name, value)


class TestRefusesWithAnotherError(Mutant):
    breaks = "KS-CREATE-2 KS-RACE-1 KS-CANCEL-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            try:
                await super().create(name, value)
            except KeyExistsError as error:
                raise KeyStoreError(str(error)) from None


class TestTakesTheSameValueTwice(Mutant):
    breaks = "KS-CREATE-2 KS-ERROR-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if self._values.get(name) != value:
                await super().create(name, value)


class TestReadsNothingAtFirst(Mutant):
    """As a store whose readers are behind its writers."""

    breaks = (
        "KS-CREATE-1 KS-CREATE-3 KS-GET-1 KS-GET-3 KS-BYTES-1 KS-BYTES-2 KS-BYTES-3 KS-BYTES-4 KS-BYTES-5 "
        "KS-BYTES-6 KS-NAME-1 KS-NAME-2 KS-NAME-3 KS-NAME-4 KS-NAME-5 KS-DELETE-1 KS-DELETE-4 KS-DELETE-5 "
        "KS-RACE-1 KS-RACE-2 KS-RACE-3 KS-ERROR-1 KS-SECRET-1"
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
                raise KeyNotFoundError(f"key {name!r} does not exist")
            return await super().get(name)


class TestRaisesKeyError(Mutant):
    breaks = "KS-GET-2 KS-NAME-4 KS-DELETE-1 KS-RACE-5 KS-ERROR-2"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            return self._values[name]


class TestReturnsMemoryview(Mutant):
    breaks = "KS-GET-1"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            return memoryview(await super().get(name))  # type: ignore[return-value] # the mistake


class TestGivesAwayOnce(Mutant):
    breaks = "KS-CREATE-3 KS-GET-3 KS-CANCEL-1 KS-CANCEL-2"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = await super().get(name)
            if len(value) > 1:
                self._values[name] = value[:-1]
            return value


class TestForgetsToDelete(Mutant):
    breaks = "KS-DELETE-1 KS-DELETE-2 KS-DELETE-4 KS-RACE-4 KS-RACE-5"

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            await self.get(name)


class TestDeletesByPrefix(Mutant):
    breaks = "KS-DELETE-5"

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            await super().delete(name)
            for other in [other for other in self._values if other.startswith(name)]:
                del self._values[other]


class TestFailsToDeleteNothing(Mutant):
    breaks = "KS-DELETE-3 KS-RACE-5"

    class Subject(MemoryKeyStore):
        async def delete(self, name: str) -> None:
            try:
                await super().delete(name)
            except KeyNotFoundError:
                raise KeyStoreError("nothing was deleted") from None


# Values and names


class TestTextMode(Mutant):
    breaks = "KS-BYTES-5"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value.replace(b"\r\n", b"\n"))


class TestDecodesValues(Mutant):
    breaks = "KS-BYTES-1 KS-BYTES-4"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value.decode("utf-8", "replace").encode())


class TestTruncates(Mutant):
    breaks = "KS-BYTES-3 KS-RACE-2 KS-CANCEL-1 KS-ERROR-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name, value[:4096])


class TestDecodesBase64(Mutant):
    breaks = "KS-BYTES-6"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = await super().get(name)
            return base64.b64decode(value) if value.endswith(b"=") else value


class TestIgnoresCase(Mutant):
    """As some file systems do: a name keeps its case, and equals the others."""

    breaks = "KS-NAME-3"

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
    breaks = "KS-BYTES-2 KS-DELETE-4"

    class Subject(MemoryKeyStore):
        async def get(self, name: str) -> bytes:
            value = self._values.get(name)
            if not value:
                raise KeyNotFoundError(f"key {name!r} does not exist")
            return value


class TestRefusesTwoHyphens(Mutant):
    breaks = "KS-NAME-1"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if "--" in name:
                raise KeyStoreError("not a valid name")
            await super().create(name, value)


class TestTakesNamesForNumbers(Mutant):
    breaks = "KS-NAME-5"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            if name.isdecimal() and int(name) in {int(other) for other in self._values if other.isdecimal()}:
                raise KeyExistsError(f"key {name!r} already exists")
            await super().create(name, value)


class TestShortensNames(Mutant):
    breaks = "KS-NAME-2"

    class Subject(MemoryKeyStore):
        async def create(self, name: str, value: bytes) -> None:
            await super().create(name[:79], value)

        async def get(self, name: str) -> bytes:
            return await super().get(name[:79])


# Listings


class ListingStore(MemoryKeyStore):
    """Lists by `page`."""

    def page(self, prefix: str, start: str, limit: int) -> Page:
        return page_of(self._values, prefix, start=start, limit=limit)

    async def list(self, prefix: str = "", *, start: str = "", limit: int = PAGE_SIZE) -> Page:
        return self.page(prefix, start, limit)


class TestSortsByAlphabet(Mutant):
    breaks = "KS-LIST-3 KS-LIST-9"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(sorted(page.names, key=str.lower), page.next)


class TestIgnoresThePrefix(Mutant):
    breaks = "KS-LIST-4 KS-LIST-5 KS-LIST-6 KS-LIST-7 KS-LIST-9"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page("", start, limit)


class TestStartsAfterTheStart(Mutant):
    breaks = "KS-LIST-5 KS-LIST-7 KS-LIST-9 KS-LIST-10"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start + "!" if start else "", limit)


class TestIgnoresTheLimit(Mutant):
    breaks = "KS-LIST-6 KS-LIST-7 KS-LIST-10"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start, 1 << 20)


class TestTakesNoLimitForNothing(Mutant):
    breaks = "KS-LIST-8 KS-LIST-10"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return super().page(prefix, start, limit) if limit > 0 else Page([], "")


class TestLosesTheNameBetweenPages(Mutant):
    breaks = "KS-LIST-7 KS-LIST-9 KS-LIST-10"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(page.names, page.next and page.next + "-")


class TestDoublesTheNameBetweenPages(Mutant):
    breaks = "KS-LIST-7 KS-LIST-9 KS-LIST-10"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return Page(page.names, page.next and page.names[-1])


class TestPromisesAnEmptyPage(Mutant):
    """A next page whenever the page is full."""

    breaks = "KS-LIST-7"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            page = super().page(prefix, start, limit)
            return page if page.next or len(page.names) != limit else Page(page.names, page.names[-1] + "-")


class TestListsTooMuch(Mutant):
    breaks = "KS-LIST-1 KS-LIST-2 KS-LIST-4 KS-LIST-6 KS-LIST-7 KS-LIST-9 KS-LIST-10 KS-CANCEL-2"

    class Subject(ListingStore):
        def page(self, prefix: str, start: str, limit: int) -> Page:
            return page_of([*self._values, ".lock"], prefix, start=start, limit=limit)
