"""Objects show their secrets only through the one method for it."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest

from kes_core.config import Secret, Section
from kes_core.identity import APIKey
from kes_core.keys.secret import HMACKey, KeyType, SecretKey
from kes_core.keys.stored import KeyVersion

CANARY = "canary-6f1d0c-as-the-key's-bytes"
KEY = CANARY.encode()


class Settings(Section):
    password: Secret
    token: Secret = Secret(CANARY)


HOLDERS = [
    Secret(CANARY),
    Settings.model_validate({"password": CANARY}),
    SecretKey(KEY, KeyType.AES256),
    HMACKey(KEY),
    KeyVersion.imported(KEY, KeyType.AES256, ""),
    APIKey(KEY),
]


def forms(value: Any) -> str:
    """Return an object as debuggers, serializers and formatters show it."""
    texts = [repr(value), str(value), f"{value}", "%s %r" % (value, value), json.dumps(value, default=repr)]  # noqa: UP031 # one more way to show it
    if hasattr(value, "__dict__"):
        texts.append(repr(vars(value)))
    if isinstance(value, Section):
        texts += [value.model_dump_json(), repr(value.model_dump()), repr(value.model_dump(mode="json"))]
    return "\n".join(texts)


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
def test_nothing_shows_a_secret(holder: Any) -> None:
    shown = forms(holder)
    assert CANARY not in shown
    assert repr(KEY)[2:-1] not in shown
    assert KEY.hex() not in shown


@pytest.mark.parametrize("holder", HOLDERS, ids=lambda holder: type(holder).__name__)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_secret_is_pickled(holder: Any, protocol: int) -> None:
    with pytest.raises(TypeError, match="can't be pickled"):
        pickle.dumps(holder, protocol)


def test_copy_of_a_secret_is_the_same_object() -> None:
    settings = Settings.model_validate({"password": CANARY})
    copies = [copy.copy(settings), copy.deepcopy(settings), settings.model_copy(deep=True)]
    assert all(each.password is settings.password for each in copies)
    assert settings.password.get() == settings.password.get_secret_value() == CANARY
    assert vars(settings.password) == {}
