"""In any order of calls, keys behave like a dictionary of keys: for each key store, through the cache and the API.

A model remembers the ciphertexts and HMACs that each key has made, but no keys. As long as the key exists, the server
must decrypt the ciphertexts and compute the same HMACs; once the key is gone, it must never decrypt them again.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from tests.helpers.effort import scaled
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.server import Server, start_server

pytestmark = pytest.mark.nightly

WIDE_V1 = 'path "{engine}/*" {{ capabilities = ["create", "read", "delete", "list"] }}'
NAMES = ("a", "a-b", "a_b", "ab", "A", "b", "_-_", "z" * 70)
OLD_KEY = base64.b64encode(bytes(range(32))).decode()


@dataclass
class Key:
    """What the model knows about an existing key."""

    algorithm: str
    sealed: list[tuple[str, str, str]] = field(default_factory=list)
    """Ciphertext, context, plaintext."""
    codes: dict[str, str] = field(default_factory=dict)
    """The HMAC of each message."""
    version: int = 1

    @property
    def newest(self) -> dict[str, str]:
        """What an answer has for a key that was rotated."""
        return {"version": str(self.version)} if self.version > 1 else {}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Keys(RuleBasedStateMachine):
    """Rules for the key API. Each run has its own prefix in a shared store."""

    client: httpx.Client
    new_prefix: Callable[[], str]

    @initialize()
    def begin(self) -> None:
        self.prefix = type(self).new_prefix()
        self.model: dict[str, Key] = {}
        self.gone: list[tuple[str, str, str]] = []
        """Name, ciphertext and context of each encryption under a deleted key."""

    def ask(self, method: str, operation: str, name: str, body: Any = None) -> httpx.Response:
        return self.client.request(method, f"/v1/key/{operation}/{self.prefix}{name}", json=body)

    @rule(name=st.sampled_from(NAMES))
    def create(self, name: str) -> None:
        self._stored(name, self.ask("PUT", "create", name), "")

    @rule(name=st.sampled_from(NAMES), cipher=st.sampled_from(["AES256", "ChaCha20"]))
    def import_(self, name: str, cipher: str) -> None:
        self._stored(name, self.ask("PUT", "import", name, {"key": OLD_KEY, "cipher": cipher}), cipher)

    def _stored(self, name: str, answer: httpx.Response, cipher: str) -> None:
        if name in self.model:
            assert (answer.status_code, answer.json()) == (400, {"message": "key already exists"})
            return
        assert (answer.status_code, answer.content) == (200, b"")
        self.model[name] = Key(cipher or self.ask("GET", "describe", name).json()["algorithm"])

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        answer = self.ask("DELETE", "delete", name)
        known = self.model.pop(name, None)
        if known is None:  # Vault does not say that the key was missing
            assert answer.status_code in {200, 404}
        else:
            assert answer.status_code == 200
            self.gone += [(name, sealed, context) for sealed, context, _plaintext in known.sealed]

    @rule(name=st.sampled_from(NAMES))
    def describe(self, name: str) -> None:
        answer = self.ask("GET", "describe", name)
        if self._is_missing(name, answer):
            return
        described = answer.json()
        assert described["name"] == self.prefix + name
        assert described["algorithm"] == self.model[name].algorithm
        newest = self.model[name].newest
        assert set(described) == {"name", "algorithm", "created_at", "created_by", *newest}
        assert described.get("version") == newest.get("version")

    @rule(name=st.sampled_from(NAMES), is_young=st.booleans())
    def rotate(self, name: str, is_young: bool) -> None:
        answer = self.ask("PUT", "rotate", name, {"if_older_than": 3600} if is_young else None)
        if not self._is_missing(name, answer):
            self.model[name].version += not is_young
            rotated = answer.json()
            assert (rotated["version"], rotated["rotated"]) == (str(self.model[name].version), not is_young)
            listed = self.ask("GET", "versions", name).json()["versions"]
            assert [int(each["version"]) for each in listed] == list(range(1, self.model[name].version + 1))

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def rewrap(self, name: str, data: st.DataObject) -> None:
        known = self.model.get(name)
        if known is None or not known.sealed:
            return
        sealed, context, plaintext = data.draw(st.sampled_from(known.sealed))
        answer = self.ask("PUT", "rewrap", name, {"ciphertext": sealed, "context": context}).json()
        assert answer == {"ciphertext": answer["ciphertext"], **known.newest}
        known.sealed.append((answer["ciphertext"], context, plaintext))

    @rule(name=st.sampled_from(NAMES), context=st.binary(max_size=8))
    def generate(self, name: str, context: bytes) -> None:
        answer = self.ask("PUT", "generate", name, {"context": b64(context)})
        if not self._is_missing(name, answer):
            made = answer.json()
            assert len(base64.b64decode(made["plaintext"])) == 32
            assert made.get("version") == self.model[name].newest.get("version")
            self.model[name].sealed.append((made["ciphertext"], b64(context), made["plaintext"]))

    @rule(name=st.sampled_from(NAMES), plaintext=st.binary(max_size=40), context=st.binary(max_size=8))
    def encrypt(self, name: str, plaintext: bytes, context: bytes) -> None:
        body = {"plaintext": b64(plaintext), "context": b64(context)}
        answer = self.ask("PUT", "encrypt", name, body)
        if not self._is_missing(name, answer):
            self.model[name].sealed.append((answer.json()["ciphertext"], b64(context), b64(plaintext)))

    @rule(name=st.sampled_from(NAMES), data=st.data())
    def decrypt(self, name: str, data: st.DataObject) -> None:
        everything = [(owner, each) for owner, key in self.model.items() for each in key.sealed]
        if not everything:
            return
        owner, (sealed, context, plaintext) = data.draw(st.sampled_from(everything))
        answer = self.ask("PUT", "decrypt", name, {"ciphertext": sealed, "context": context})
        if self._is_missing(name, answer):
            return
        if owner == name:
            assert answer.json() == {"plaintext": plaintext}
        else:  # an imported key may be the same under two names
            assert answer.status_code == 400 or answer.json() == {"plaintext": plaintext}
        other = {"ciphertext": sealed, "context": b64(base64.b64decode(context) + b"x")}
        assert self.ask("PUT", "decrypt", name, other).status_code == 400

    @precondition(lambda self: self.gone)
    @rule(data=st.data())
    def decrypt_what_is_lost(self, data: st.DataObject) -> None:
        """A key that was created again does not decrypt the ciphertexts of the deleted one."""
        name, sealed, context = data.draw(st.sampled_from(self.gone))
        answer = self.ask("PUT", "decrypt", name, {"ciphertext": sealed, "context": context})
        if not self._is_missing(name, answer) and answer.status_code == 200:
            imported = self.ask("PUT", "encrypt", name, {"plaintext": "", "context": ""})
            assert imported.status_code == 200
            assert self.is_imported(name, sealed, context)

    def is_imported(self, name: str, sealed: str, context: str) -> bool:
        """Tell whether the known key material, which may have been imported again, decrypts a ciphertext."""
        twin = f"{self.prefix}twin"
        for cipher in ("AES256", "ChaCha20"):
            self.client.put(f"/v1/key/import/{twin}", json={"key": OLD_KEY, "cipher": cipher})
            body = {"ciphertext": sealed, "context": context}
            opened = self.client.put(f"/v1/key/decrypt/{twin}", json=body).status_code == 200
            self.client.delete(f"/v1/key/delete/{twin}")
            if opened:
                return True
        return False

    @rule(name=st.sampled_from(NAMES), message=st.binary(max_size=8))
    def hmac(self, name: str, message: bytes) -> None:
        answer = self.ask("PUT", "hmac", name, {"message": b64(message)})
        if not self._is_missing(name, answer):
            code = answer.json()["hmac"]
            assert self.model[name].codes.setdefault(b64(message), code) == code

    @rule(prefix=st.sampled_from(["", "a", "a*", "z*", "none*"]))
    def list_pages(self, prefix: str) -> None:
        names: list[str] = []
        pattern = prefix
        while True:
            page = self.ask("GET", "list", pattern).json()
            names += page["names"]
            pattern = page.get("continue_at", "").removeprefix(self.prefix)
            if not pattern:
                break
        begins = self.prefix + prefix.removesuffix("*")
        assert names == sorted(self.prefix + name for name in self.model if (self.prefix + name).startswith(begins))

    def _is_missing(self, name: str, answer: httpx.Response) -> bool:
        if name in self.model:
            assert answer.status_code in {200, 400}, answer.text
            return False
        assert (answer.status_code, answer.json()) == (404, {"message": "key does not exist"})
        return True

    def teardown(self) -> None:
        for name in getattr(self, "model", {}):
            self.ask("DELETE", "delete", name)


def check(server: Server, examples: int) -> None:
    """Run the rules against a server."""
    numbers = iter(range(10**9))
    with server.client() as client:
        machine = type("Machine", (Keys,), {"client": client, "new_prefix": staticmethod(lambda: f"r{next(numbers)}_")})
        run_state_machine_as_test(machine, settings=scaled(examples))


@contextmanager
def running(directory: Path, keystore: Any) -> Iterator[Server]:
    """Run a server whose keys expire so fast that it reads them from the store as well as from memory."""
    server = start_server(directory, {"keystore": keystore, "cache": {"expiry": {"any": "50ms", "unused": "20ms"}}})
    try:
        yield server
    finally:
        assert server.stop() == 0


def test_keys_in_memory(tmp_path: Path) -> None:
    with running(tmp_path, {"memory": {}}) as server:
        check(server, 20)


def test_keys_in_files(tmp_path: Path) -> None:
    with running(tmp_path, {"fs": {"path": str(tmp_path / "keys")}}) as server:
        check(server, 20)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_keys_in_vault(bao: OpenBao, tmp_path: Path, version: str) -> None:
    tenant = Tenant(bao, version, WIDE_V1 if version == "v1" else None)
    with running(tmp_path, {"vault": tenant.section()}) as server:
        check(server, 10)
