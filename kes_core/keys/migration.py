"""Copy keys from one key store to another of any kind, each with all its versions.

A key that the target already has, byte for byte, counts as copied. So an interrupted migration needs no record of its
progress: when it runs again, it continues. After a migration without failures, the target can use every matching key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from kes_core.keys.copying import KeyCopies, Outcome, read_entries, retried
from kes_core.keys.writing import KeyWriter, OnConflict
from kes_core.keystore import KeyStore
from kes_core.names import is_hidden_entry

__all__ = ["Migration"]

_CURES: Final = (": --merge keeps it, --force replaces it", "; --force replaces it")


class Migration(KeyCopies):
    """Copies keys from `source` to `target`. With `dry_run` it writes nothing and reports what it would do."""

    def __init__(
        self, source: KeyStore, target: KeyStore, *, on_conflict: OnConflict = OnConflict.FAIL, dry_run: bool = False
    ) -> None:
        super().__init__(source, target)
        self._source = source
        self._writer = KeyWriter(target, on_conflict=on_conflict, dry_run=dry_run, cures=_CURES)

    async def names(self, pattern: str) -> list[str]:
        """Return the names of the source's keys that match `pattern`: a name, or a prefix followed by `*`.

        Wrapping keys are not among them: the servers on the target make their own.
        """
        prefix = pattern.removesuffix("*")
        found: list[str] = []
        start = ""
        while True:
            page = await retried(lambda: self._source.list(prefix, start=start))  # noqa: B023 # called at once
            found += [name for name in page.names if not is_hidden_entry(name)]
            if not page.next:
                break
            start = page.next
        return found if pattern.endswith("*") else [name for name in found if name == pattern]

    async def run(
        self, names: list[str], on_key: Callable[[str, Outcome], None] = lambda _name, _outcome: None
    ) -> None:
        """Copy the keys with these names, as `copy_all`."""
        await self.copy_all(names, self._copy, on_key)

    async def _copy(self, name: str) -> Outcome:
        key = await read_entries(self._source, name)
        return await self._writer.write(key) if key is not None else Outcome.SKIPPED
