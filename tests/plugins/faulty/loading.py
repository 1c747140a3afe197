"""Plugins that can't be loaded."""

from __future__ import annotations

import dataclasses
from typing import Any

from kes_core import KeyStoreBackend, hookimpl
from tests.plugins.faulty.bases import SECRET, FaultyStore


class VersionIsMissing:
    """It does not state a version of the hook specifications."""


class VersionIsTooNew(FaultyStore):
    """It is for another version of the hook specifications."""

    kes_hookspec_version = 99


class VersionsAreTooNew(FaultyStore):
    """It is for a range of later versions."""

    kes_hookspec_version = range(2, 5)


class VersionIsText(FaultyStore):
    """The version is text."""

    kes_hookspec_version = "1"


class _Refusing:
    kes_hookspec_version = 1

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(SECRET)

    def __dir__(self) -> Any:
        raise RuntimeError(SECRET)


RefusesToBeExamined = _Refusing()
"""An object whose `__getattr__` and `__dir__` raise."""


class _Evasive:
    def __getattr__(self, name: str) -> Any:
        raise SystemExit(SECRET)


ExitsWhenItIsExamined = _Evasive()
"""An object whose `__getattr__` calls `sys.exit()`."""


class _Incomparable:
    kes_hookspec_version = 1

    def __eq__(self, other: object) -> bool:
        raise RuntimeError(SECRET)

    __hash__ = None  # type: ignore[assignment]

    @hookimpl
    def kes_no_such_hook(self) -> None:
        pass

    def __repr__(self) -> str:
        raise RuntimeError(SECRET)


CanNotBeShown = _Incomparable()
"""An object whose `__repr__` raises, with a hook that does not exist."""

IsANumber = 7
"""The entry point names a number."""


class BackendsAreMissing(FaultyStore):
    """A hook has no `return`."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        pass


class BackendsAreANumber(FaultyStore):
    """A hook returns a number."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return 7


class BackendsAreTexts(FaultyStore):
    """A hook returns names instead of key stores."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return ["faulty"]


class BackendsAreYielded(FaultyStore):
    """A hook yields key stores."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        yield KeyStoreBackend("faulty", cls.config, cls.connect)


class BackendsRaise(FaultyStore):
    """A hook raises."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        raise ZeroDivisionError(SECRET)


class BackendsWantAnArgument(FaultyStore):
    """A hook has an argument that its specification does not have."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls, config: Any) -> Any:  # type: ignore[override]
        return [KeyStoreBackend("faulty", config, cls.connect)]


class NameIsNotValid(FaultyStore):
    """A name is not one for a section."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return [KeyStoreBackend("No Good", cls.config, cls.connect)]


class NameIsANumber(FaultyStore):
    """A name is a number."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return [KeyStoreBackend(7, cls.config, cls.connect)]  # type: ignore[arg-type]


class NameIsThereTwice(FaultyStore):
    """It offers two key stores of one name."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return [KeyStoreBackend("faulty", cls.config, cls.connect) for _ in range(2)]


class NameIsOfTheCore(FaultyStore):
    """It offers a key store of a name that the core has."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return [KeyStoreBackend("memory", cls.config, cls.connect)]


class ConfigIsADictionary(FaultyStore):
    """The model of its section is not one of pydantic."""

    config = dict


class ConnectIsMissing(FaultyStore):
    """`connect` is not a function."""

    connect: Any = None


@dataclasses.dataclass(frozen=True)
class _Backend(KeyStoreBackend):
    def __init__(self) -> None:
        KeyStoreBackend.__init__(self, "faulty", FaultyStore.config, FaultyStore.connect)


class BackendIsOfAnotherKind(FaultyStore):
    """It derives a class of its own from `KeyStoreBackend`, which can't be copied."""

    @classmethod
    @hookimpl
    def kes_keystore_backends(cls) -> Any:
        return [_Backend()]


SOURCES = {
    "NeedsAnotherPackage": "import a_package_that_is_missing",
    "ImportRaises": f"raise RuntimeError('{SECRET}\\ntwo lines')",
    "ImportExits": "raise SystemExit(3)",
    "ImportIsCancelled": "import asyncio\nraise asyncio.CancelledError",
    "IsNotPython": "this is no Python",
    "IsEmpty": "",
}
"""Modules whose import fails, as source: linters would refuse the files."""
