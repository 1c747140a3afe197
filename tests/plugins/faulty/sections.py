"""Key stores with a fault in their section of the configuration file. The file has `keystore: {faulty: {}}`."""

from __future__ import annotations

import threading
from typing import Any

from pydantic import ConfigDict, field_serializer, field_validator

from kes_core.config import Duration, Section
from tests.plugins.faulty.bases import SECRET, FaultyStore


class DefaultIsInvalid(FaultyStore):
    """A default is not valid."""

    class config(Section):  # noqa: N801 # an attribute
        timeout: Duration = "soon"  # type: ignore[assignment]


class ValidatorRaises(FaultyStore):
    """A validator raises an exception of another library, with a secret in its text."""

    class config(Section):  # noqa: N801 # as above
        url: str = "x"

        @field_validator("url")
        @classmethod
        def _check(cls, value: str) -> str:
            raise KeyError(SECRET, value)


class ValidatorSaysTooMuch(FaultyStore):
    """A validator raises a proper error of several lines."""

    class config(Section):  # noqa: N801 # as above
        url: str = "x"

        @field_validator("url")
        @classmethod
        def _check(cls, value: str) -> str:
            raise ValueError(f"{value!r} is not a URL:\nexpected https://...")


class SerializerRaises(FaultyStore):
    """A serializer raises."""

    class config(Section):  # noqa: N801 # as above
        url: str = "x"

        @field_serializer("url")
        def _show(self, value: str) -> str:
            raise KeyError(SECRET, value)


class TypeIsNotSupported(FaultyStore):
    """A field has a type that pydantic can't describe or show."""

    class config(Section):  # noqa: N801 # as above
        model_config = ConfigDict(arbitrary_types_allowed=True)
        lock: Any = threading.Lock()
        thread: threading.Thread | None = None


class CredentialIsText(FaultyStore):
    """A field for a password is text."""

    class config(Section):  # noqa: N801 # as above
        password: str = ""
