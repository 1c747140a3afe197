"""Wrapped keys, openssl, the command line, and several real servers on one key store."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner

from kes_core.cli.main import cli
from kes_core.client import Client
from kes_core.keys.wrapping import read_public_key, wrap
from tests.helpers.command import on_a_terminal
from tests.helpers.documents import blocks
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.server import Server, start_server
from tests.helpers.wrapping import VECTORS, put, wrapping_key

KEY = base64.b64decode(VECTORS["key"])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of keys, with a wrapping key of the vectors."""
    return put(tmp_path_factory.mktemp("store") / "keys")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory, keys: Path) -> Iterator[tuple[Server, Server]]:
    """Two servers on that directory; the second one has two workers."""
    settings = {"keystore": {"fs": {"path": str(keys)}}, "log": {"audit": "on"}}
    one = start_server(tmp_path_factory.mktemp("one"), settings)
    other = start_server(tmp_path_factory.mktemp("other"), settings | {"workers": 2}, admin=one.admin)
    yield one, other
    assert [one.stop(), other.stop()] == [0, 0]


def client_of(server: Server) -> Client:
    return Client(server.url, api_key=server.admin.api_key, insecure=True)


@pytest.fixture
def environment(servers: tuple[Server, Server]) -> dict[str, str]:
    return {"KES_SERVER": servers[0].url, "KES_API_KEY": str(servers[0].admin.api_key)}


def test_every_server_imports_what_is_wrapped_for_one_of_them(servers: tuple[Server, Server]) -> None:
    one, other = servers
    with client_of(one) as first, client_of(other) as second:
        found = first.wrapping_key()
        assert second.wrapping_key().id == found.id
        first.import_key("e2e-plain", KEY)
        second.import_wrapped_key("e2e-wrapped", found.wrap(KEY), found.id)
        assert first.decrypt("e2e-plain", first.encrypt("e2e-wrapped", b"text")) == b"text"
        assert not [name for name in first.list_keys() if name.startswith("kes-")]
    paths: list[tuple[str, int]] = []
    while not paths or paths[-1][0] != "/v1/key/import/e2e-wrapped":
        record = other.next_audit_record()
        paths.append((record["request"]["path"], record["response"]["code"]))
    assert paths == [("/v1/key/wrapping-key", 200), ("/v1/key/import/e2e-wrapped", 200)]


def test_of_many_imports_of_a_version_at_once_one_wins_each_time(servers: tuple[Server, Server]) -> None:
    with client_of(servers[0]) as kms:
        kms.create_key("e2e-race")
        found = kms.wrapping_key()
    barrier = threading.Barrier(8)

    def add(number: int) -> tuple[int, str]:
        with servers[number % 2].client() as http:
            body = {"wrapped_key": b64(found.wrap(bytes([number]) * 32)), "wrapping_key": found.id}
            barrier.wait()
            answer = http.put("/v1/key/import-version/e2e-race", json=body)
            return answer.status_code, answer.json().get("version") or answer.json()["message"]

    with ThreadPoolExecutor(8) as threads:
        results = list(threads.map(add, range(8)))
    added = sorted(int(text) for status, text in results if status == 200)
    assert added == list(range(2, len(added) + 2))
    lost = [text for status, text in results if status == 409]
    assert len(added) + len(lost) == 8
    assert all(text.endswith("of the key was just created by another rotation") for text in lost)
    with client_of(servers[1]) as kms:
        assert [each.version for each in kms.key_versions("e2e-race")] == [1, *added]


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_commands_of_the_page(servers: tuple[Server, Server], environment: dict[str, str], tmp_path: Path) -> None:
    """The commands for openssl work as they are on the page."""
    (script, check) = (block for block in blocks("docs/import.md", "sh") if "openssl" in block)
    kes_program = f'kes() {{ "{sys.executable}" -m kes_core.cli "$@" -k; }}\n'
    keep = script.replace("shred -u key.bin aes.bin\n", "")
    assert keep != script
    run = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", kes_program + keep + check],
        cwd=tmp_path,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split()[-2] == wrapping_key(0).id
    with client_of(servers[0]) as kms:
        kms.import_key("e2e-openssl", (tmp_path / "key.bin").read_bytes())
        assert kms.decrypt("e2e-openssl", kms.encrypt("my-key", b"text")) == b"text"


def test_python_example_of_the_page(servers: tuple[Server, Server]) -> None:
    (code,) = blocks("docs/import.md", "python")
    code = code.replace("https://127.0.0.1:7373", servers[1].url).replace("kes:v1:...", str(servers[1].admin.api_key))
    exec(compile(code.replace("my-key", "e2e-example"), "import.md", "exec"), {})
    with client_of(servers[0]) as kms:
        assert [each.version for each in kms.key_versions("e2e-example")] == [1, 2]


def command(*arguments: str, environment: dict[str, str], stdin: str | bytes = "", error: str = "") -> str:
    """Run `kes key` in this process, as a script would; return its output. With `error`, it has to fail so."""
    done = CliRunner().invoke(cli, ["key", *arguments], input=stdin, env=environment, standalone_mode=False)
    assert (str(done.exception) if done.exception is not None else "") == error
    return done.output


def test_commands(servers: tuple[Server, Server], environment: dict[str, str], tmp_path: Path) -> None:
    def run(*arguments: str, **options: Any) -> str:
        return command(*arguments, "-k", environment=environment, **options)

    pem, other_pem = str(tmp_path / "wrapping.pem"), str(tmp_path / "other.pem")
    found = run("wrapping-key")
    assert found == wrapping_key(0).public_key
    assert json.loads(run("wrapping-key", "--json"))["public_key"] == found
    shown = on_a_terminal("key", "wrapping-key", "-k", cwd=tmp_path, environment=environment)
    assert shown.endswith(found)
    assert re.match(rf"ID +{wrapping_key(0).id}\nExpires +20\d\d-", shown)
    Path(pem).write_text(found)
    key = b64(KEY)
    run("import", "cmd-plain", key)
    run("import", "cmd-1", "-", "--wrap", stdin=key)
    run("import", "cmd-2", key, "--wrap", "--wrapping-key", pem)
    wrapped = VECTORS["accepted"][0]["wrapped_key"]
    text, binary, plain = (tmp_path / name for name in ("wrapped.b64", "wrapped.bin", "plain.bin"))
    text.write_text(wrapped + "\n")
    binary.write_bytes(base64.b64decode(wrapped))
    plain.write_bytes(KEY)
    run("import", "cmd-3", "--wrapped", str(text))
    run("import", "cmd-4", "--wrapped", str(binary), "--wrapping-key", pem)
    run("import", "cmd-5", "--wrapped", "-", "--cipher", "ChaCha20", stdin=base64.b64decode(wrapped))
    with client_of(servers[0]) as kms:
        for name in ("cmd-1", "cmd-2", "cmd-3", "cmd-4"):
            assert kms.decrypt("cmd-plain", kms.encrypt(name, b"text")) == b"text"
        assert kms.describe_key("cmd-5").algorithm == "ChaCha20"
    new = b64(bytes(32))
    assert run("import", "cmd-1", new, "--wrap", "--new-version") == '"cmd-1" has version 2 now\n'
    assert run("import", "cmd-2", new, "--new-version") == '"cmd-2" has version 2 now\n'
    same = 'failed to import key "cmd-2": version 2 of the key has this key material already'
    run("import", "cmd-2", new, "--new-version", error=same)
    no_key = f'"{plain}" holds no wrapped key, which has 552 bytes; nothing was sent'
    run("import", "cmd-6", "--wrapped", str(plain), error=no_key)
    missing = tmp_path / "missing"
    run("import", "cmd-6", "--wrapped", str(missing), error=f'"{missing}" can\'t be read: No such file or directory')
    no_pem = f'"{plain}" is not a wrapping key: it holds no public key in PEM'
    run("import", "cmd-6", "--wrapped", str(binary), "--wrapping-key", str(plain), error=no_pem)
    Path(other_pem).write_text(wrapping_key(1).public_key)
    unknown = 'failed to import key "cmd-6": there is no wrapping key of this id, or it has expired'
    run("import", "cmd-6", "--wrapped", str(binary), "--wrapping-key", other_pem, error=unknown)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a KEY, or --wrapped FILE, and not both."),
        (["AAAA", "--wrapped", "file"], "Give a KEY, or --wrapped FILE, and not both."),
        (["--wrap", "--wrapped", "file"], "--wrap and --wrapped exclude each other."),
        (["AAAA", "--wrapping-key", "file"], "--wrapping-key needs --wrap or --wrapped."),
    ],
)
def test_options_that_contradict_each_other(arguments: list[str], message: str) -> None:
    command("import", "name", *arguments, environment={}, error=message)


def test_server_answers_while_it_generates_a_wrapping_key(servers: tuple[Server, Server], keys: Path) -> None:
    """Without one in the key store, the server makes one."""
    answers: list[httpx.Response] = []

    def fetch() -> None:
        with servers[0].client() as http:
            answers.append(http.get("/v1/key/wrapping-key", timeout=120.0))

    def files() -> list[Path]:
        return list(keys.glob("kes-wrapping-key-*"))

    with client_of(servers[0]) as kms:
        kms.create_key("e2e-busy")
        for path in files():
            path.unlink()
        thread = threading.Thread(target=fetch)
        thread.start()
        count = 0
        while thread.is_alive() and count < 100:
            kms.generate_data_key("e2e-busy")
            count += 1
        thread.join()
    try:
        assert answers[0].status_code == 200, answers[0].text
        assert count > 20  # a blocked event loop would have answered one or two
        (made,) = files()
        assert made.name == f"kes-wrapping-key-{answers[0].json()['id']}-"
        assert made.stat().st_mode & 0o777 == 0o600
        servers[0].wait_for_log(f"made the wrapping key {answers[0].json()['id']}")
    finally:
        for path in files():
            path.unlink()
        put(keys)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenBao]:
    with OpenBao.running(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.mark.slow
def test_transit_of_openbao_imports_what_this_client_wraps(bao: OpenBao) -> None:
    bao.root.sys.enable_secrets_engine("transit", path="transit-import")
    public_key = bao.root.adapter.get("/v1/transit-import/wrapping_key")["data"]["public_key"]
    wrapped = wrap(read_public_key(public_key.encode()), KEY)
    body = {"ciphertext": b64(wrapped), "hash_function": "SHA256", "type": "aes256-gcm96", "exportable": True}
    bao.root.adapter.post("/v1/transit-import/keys/my-key/import", json=body)
    exported = bao.root.adapter.get("/v1/transit-import/export/encryption-key/my-key/1")["data"]["keys"]
    assert exported == {"1": b64(KEY)}


@pytest.mark.slow
def test_servers_on_one_openbao_share_a_wrapping_key(bao: OpenBao, tmp_path: Path) -> None:
    """The first server makes it and stops. The policy of the guide is enough for that."""
    section = {"keystore": {"vault": Tenant(bao, "v2").section()}}
    (one_directory := tmp_path / "one").mkdir()
    (other_directory := tmp_path / "other").mkdir()
    one = start_server(one_directory, section)
    other = start_server(other_directory, section, admin=one.admin)
    try:
        with one.client() as http:
            facts = http.get("/v1/key/wrapping-key", timeout=120.0).json()
        with client_of(one) as kms:
            found = kms.wrapping_key()
            assert found.id == facts["id"]
            wrapped = found.wrap(KEY)
            kms.import_key("plain", KEY)
        assert one.stop() == 0
        with client_of(other) as kms:
            assert kms.wrapping_key().id == found.id
            kms.import_wrapped_key("wrapped", wrapped, found.id)
            assert kms.decrypt("plain", kms.encrypt("wrapped", b"text")) == b"text"
            assert list(kms.list_keys()) == ["plain", "wrapped"]
            version = kms.import_key_version("wrapped", found.wrap(bytes(32)), wrapping_key=found.id)
            assert version.version == 2
    finally:
        one.kill()
        other.kill()
