"""Keys with known bytes go through all features, and no output of the server or a command contains them."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kes_core.identity import APIKey
from kes_core.keys.secret import HMACKey, KeyType, SecretKey
from kes_core.keys.stored import KeyVersion, Timestamp
from kes_core.keys.wrapping import wrap
from kes_core.protocol import ROUTES, Argument
from tests.helpers.certificates import make_credentials
from tests.helpers.effort import choose, scaled
from tests.helpers.server import Server, start_server
from tests.helpers.wrapping import entry as wrapping_entry
from tests.helpers.wrapping import private_key, wrapping_key

pytestmark = pytest.mark.nightly

# The bytes are not text, and no other data contains three of them in a row.
KEY = bytes((number * 37 + 129) % 256 for number in range(32))
HMAC_KEY = bytes((number * 91 + 200) % 256 for number in range(32))
PLAINTEXT = b"the plaintext of a client, 7f3a91"
CONTEXT = b"the context of a client, c0ffee41"
CHAIN_KEY = "the key of the audit chain, 19d4e7"
PART = 12
"""The length of the parts to look for: a part of a key is a secret too."""


def spellings(secret: bytes) -> set[bytes]:
    """Return all forms in which a secret could appear in an output."""
    texts = {secret.hex(), secret.hex().upper(), secret.hex(" "), secret.hex(":"), repr(secret)[2:-1]}
    texts |= {", ".join(map(str, secret)), " ".join(map(str, secret)), json.dumps(secret.decode("latin-1"))[1:-1]}
    for shift in range(3):  # inside other data, base64 has three possible alignments
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            padded = encode(bytes(shift) + secret).decode()
            whole = (len(secret) + shift) // 3 * 4
            texts.add(padded[-(-shift * 4 // 3) : whole])
    return {secret, secret[::-1], secret.decode("latin-1").encode(), *(text.encode() for text in texts)}


def spellings_of_parts(secret: bytes) -> set[bytes]:
    """Return the forms of the beginning, the middle and the end of a secret."""
    starts = (0, (len(secret) - PART) // 2, len(secret) - PART)
    return {spelling for start in starts for spelling in spellings(secret[start : start + PART])}


_NUMBERS = private_key().private_numbers()
WRAPPING_KEY = spellings_of_parts(_NUMBERS.p.to_bytes(256, "big")) | spellings_of_parts(_NUMBERS.d.to_bytes(512, "big"))
SECRET = spellings_of_parts(KEY) | spellings_of_parts(HMAC_KEY) | WRAPPING_KEY
CLIENTS = spellings_of_parts(PLAINTEXT) | spellings_of_parts(CONTEXT) | spellings_of_parts(CHAIN_KEY.encode())
"""Secrets that the server may return to clients but must not log."""


def assert_clean(what: str, output: str | bytes, secrets: set[bytes] = SECRET) -> None:
    data = output if isinstance(output, bytes) else output.encode("utf-8", "surrogateescape")
    found = [secret for secret in secrets if secret in data]
    assert not found, f"{what} holds a secret"


@scaled(100)
@given(before=st.binary(max_size=20), after=st.binary(max_size=20))
def test_secret_is_found_however_it_is_written(before: bytes, after: bytes) -> None:
    """The search, on which the other tests rely, finds a key in each of Python's forms of bytes."""
    data = before + KEY + after
    for output in (
        data,
        data.hex(),
        base64.b64encode(data),
        base64.urlsafe_b64encode(data),
        repr(data),
        repr(bytearray(data)),
        repr(list(data)),
        json.dumps({"value": data.decode("latin-1")}),
        json.dumps({"value": base64.b64encode(data).decode()}),
    ):
        with pytest.raises(AssertionError, match="holds a secret"):
            assert_clean("it", output)


class Damaged:
    """Damaged entries that contain a key: an error about them could show it."""

    def __init__(self, stored: bytes) -> None:
        members = {"bytes": base64.b64encode(KEY).decode(), "algorithm": "AES256", "created_at": "", "created_by": ""}
        changes: Mapping[str, Mapping[str, Any]] = {
            "long": {"bytes": base64.b64encode(KEY + b"x").decode()},
            "short": {"bytes": base64.b64encode(KEY[:-1]).decode()},
            "padded": {"bytes": base64.b64encode(KEY).decode() + "="},
            "cipher": {"algorithm": base64.b64encode(KEY).decode()},
            "date": {"created_at": KEY.hex()},
            "list": {"bytes": list(KEY)},
            "by": {"created_by": list(KEY)},
        }
        self.entries = {name: json.dumps({**members, **change}).encode() for name, change in changes.items()}
        self.entries |= {
            "cut": stored[: len(stored) // 2],
            "twice": stored * 2,
            "raw": KEY,
            "bare": base64.b64encode(KEY),
            "hex": KEY.hex().encode(),
            "unclosed": json.dumps(members).encode()[:-1],
        }


class Place:
    """A server with all logs on and at the level debug, and a key store with the known keys."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        keys = directory / "keys"
        keys.mkdir(mode=0o700)
        known = KeyVersion(SecretKey(KEY, KeyType.AES256), HMACKey(HMAC_KEY), Timestamp(0, 1), "0" * 64)
        self.stored = known.encode()
        self.damaged = Damaged(self.stored).entries
        wrapping_name, wrapping_value = wrapping_entry(days_left=13)
        for name, value in {"known": self.stored, **self.damaged, wrapping_name: wrapping_value}.items():
            (keys / name).write_bytes(value)
            (keys / name).chmod(0o600)
        self.stranger = make_credentials(directory, "stranger")
        self.audit_file = directory / "audit.log"
        overrides = {
            "keystore": {"fs": {"path": str(keys)}},
            "log": {"error": "debug", "audit": "on"},
            "audit": {"file": {"path": str(self.audit_file), "chain": "on", "key": CHAIN_KEY}},
            "api": {"/v1/ready": {"skip_auth": "on"}},
        }
        self.server: Server = start_server(directory, overrides)

    def logs(self) -> str:
        """Return everything that the server has logged so far."""
        audit = [self.server.audit.get() for _ in range(self.server.audit.qsize())]
        return "\n".join([*self.server.errors, *audit, self.audit_file.read_text()])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("canary"))
    yield place
    assert place.server.stop() == 0
    assert_clean("the log of the whole run", place.logs(), SECRET | CLIENTS)


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def wrapped_keys() -> Iterator[bytes]:
    """Yield the known key, wrapped rightly and wrongly."""
    right = wrap(private_key().public_key(), KEY)
    yield right
    yield right[:-1] + bytes([right[-1] ^ 1])
    yield wrap(private_key(1).public_key(), KEY)
    yield wrap(private_key().public_key(), KEY[:-1])


def bodies(client: httpx.Client) -> list[Any]:
    """Return valid and invalid bodies for every route that takes one."""
    plaintext, context = encoded(PLAINTEXT), encoded(CONTEXT)
    sealed = client.put("/v1/key/encrypt/known", json={"plaintext": plaintext, "context": context}).json()["ciphertext"]
    good: list[dict[str, Any]] = [
        {"key": encoded(KEY), "cipher": "AES256"},
        {"key": encoded(KEY), "cipher": "ChaCha20"},
        {"key": encoded(KEY + b"x"), "cipher": "AES256"},
        {"key": encoded(KEY)[:-1], "cipher": "AES256"},
        {"key": encoded(KEY), "cipher": "none"},
        {"key": list(KEY), "cipher": "AES256"},
        {"context": context},
        {"plaintext": plaintext, "context": context},
        {"ciphertext": sealed, "context": context},
        {"ciphertext": sealed, "context": plaintext},
        {"ciphertext": encoded(KEY), "context": encoded(KEY)},
        {"message": plaintext},
        *(
            {"wrapped_key": encoded(each), "wrapping_key": wrapping_key().id, "cipher": "AES256"}
            for each in wrapped_keys()
        ),
    ]
    return [*good, good, [good[8]], KEY.hex(), None]


def test_no_answer_and_no_log_holds_a_key(place: Place) -> None:
    names = ["known", "imported-1", "imported-2", "absent", *place.damaged]
    with place.server.client() as client:
        imported = {"key": encoded(KEY), "cipher": "ChaCha20"}
        assert client.put("/v1/key/import/imported-1", json=imported).status_code == 200
        assert client.get("/v1/key/describe/known").status_code == 200
        assert client.get("/v1/key/describe/long").status_code == 502
        everything = bodies(client)
        for route in ROUTES:
            if not route.timeout or route.method == "DELETE":
                continue
            targets = [route.path + name for name in names] if route.argument is Argument.NAME else [route.path]
            for target in targets:
                chosen = everything if target.endswith("known") else everything[:: choose(5, 1)]
                for body in chosen if route.max_body else [None]:
                    answer = client.request(route.method, target, json=body)
                    assert answer.status_code != 500, (target, body)
                    assert_clean(f"the answer to {target}", answer.content + str(answer.headers).encode())
        for name in ("imported-1", *place.damaged):
            assert_clean("the answer to a deletion", client.delete(f"/v1/key/delete/{name}").content)
            (place.directory / "keys" / name).write_bytes(place.damaged.get(name, place.stored))
    with place.server.client(place.stranger) as client:
        refused = client.put("/v1/key/import/other", json=imported)
        assert refused.status_code == 403
        assert_clean("a refusal", refused.content)
    assert "damaged" in place.logs()
    assert_clean("the log", place.logs(), SECRET | CLIENTS)


def test_no_log_stream_holds_a_key(place: Place) -> None:
    with place.server.client() as client, place.server.client() as other:
        for log in ("error", "audit"):
            with client.stream("GET", f"/v1/log/{log}") as stream:
                events = stream.iter_lines()
                for name in ("known", *place.damaged):
                    body = {"plaintext": encoded(PLAINTEXT), "context": encoded(CONTEXT)}
                    other.put(f"/v1/key/encrypt/{name}", json=body)
                event = ""
                while "unclosed" not in event:  # the last entry
                    event = next(events)
                    assert_clean(f"the {log} log", event, SECRET | CLIENTS)


def test_no_command_shows_a_key(place: Place) -> None:
    """Commands, run as operators run them, show no key, whether it is readable or damaged."""
    server, directory = place.server, place.directory
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}
    target = yaml.safe_load(server.config_path.read_text())
    target["keystore"]["fs"]["path"] = str(directory / "copies")
    (directory / "target.yml").write_text(yaml.safe_dump(target))
    migrate = ["migrate", "--from", "config.yml", "--to", "target.yml"]
    commands = [
        ["key", "info", "known"],
        *(["key", "info", name] for name in [*place.damaged][: choose(4, len(place.damaged))]),
        ["key", "ls"],
        ["key", "import", "known", "-"],
        ["key", "import", "damaged", "-"],
        ["key", "dek", "known", encoded(CONTEXT)],
        ["ls"],
        ["status", "--json"],
        ["doctor", "--config", "config.yml"],
        ["config", "show", "config.yml"],
        migrate,
        [*migrate, "--merge"],
        ["audit", "verify", "audit.log"],
        ["plugins"],
    ]
    for arguments in commands:
        given = encoded(KEY + b"x") if "damaged" in arguments else encoded(KEY)
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kes_core.cli",
                *arguments,
                *(["-k"] if arguments[0] in {"key", "ls", "status"} else []),
            ],
            input=given,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=directory,
            env={**os.environ, **environment},
        )
        assert "Traceback" not in done.stderr, done.stderr
        output = done.stdout + done.stderr
        assert_clean(f"the output of {arguments}", output, SECRET | spellings_of_parts(CHAIN_KEY.encode()))
        assert str(server.admin.api_key) not in output


def test_no_error_of_python_holds_a_key() -> None:
    """Objects with keys show none of them in a log line or in a traceback with the values of variables."""
    version = KeyVersion(SecretKey(KEY, KeyType.AES256), HMACKey(HMAC_KEY), Timestamp(0, 1), "")
    api_key = APIKey(KEY)
    for value in (version, version.key, version.hmac_key, api_key):
        for shown in (repr(value), f"{value!s}" if value is not api_key else "", f"{[value]}", f"{ {'key': value} }"):
            assert_clean(f"a {type(value).__name__}", shown)
    for name, entry in Damaged(version.encode()).entries.items():
        with pytest.raises(ValueError) as caught:  # noqa: PT011 # any subclass
            KeyVersion.decode(entry)
        assert_clean(f"the error about {name}", repr(caught.value) + repr(caught.value.__cause__))


def test_server_that_crashes_leaves_no_core_dump(place: Place, tmp_path: Path) -> None:
    """A core dump would contain every cached key."""
    server = start_server(tmp_path, {"keystore": {"fs": {"path": str(place.directory / "keys")}}})
    with server.client() as client:
        assert client.get("/v1/key/describe/known").status_code == 200
    limits = Path(f"/proc/{server.process.pid}/limits").read_text()
    (core,) = (line.split() for line in limits.splitlines() if line.startswith("Max core file size"))
    assert core[4:6] == ["0", "0"]
    server.signal(signal.SIGABRT)
    server.process.wait()
    for file in tmp_path.rglob("*"):
        if file.is_file():
            assert_clean(str(file), file.read_bytes())
    assert_clean("the log of a crash", "\n".join(server.errors))
