"""The commands that use a server: what a script gets, and what a person sees."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.command import KES, kes, kes_here, on_a_terminal
from tests.helpers.programs import free_port
from tests.helpers.server import Server, start_server


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("user"), "user")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user: Credentials) -> Iterator[Server]:
    app = {"allow": ["/v1/key/*", "/v1/status"], "deny": ["/v1/key/delete/*"], "identities": [user.identity]}
    server = start_server(tmp_path_factory.mktemp("server"), {"policy": {"app": app, "other": {"allow": ["/version"]}}})
    yield server
    assert server.stop() == 0


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    return {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}


def test_commands_for_keys(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    def run(*arguments: str, stdin: str = "") -> str:
        return kes("key", *arguments, "-k", cwd=tmp_path, environment=environment, stdin=stdin).stdout

    assert run("create", "cli-1", "cli-2") == ""
    assert run("ls", "cli") == "Key\ncli-1\ncli-2\n"
    assert json.loads(run("ls", "cli", "--json")) == ["cli-1", "cli-2"]
    assert run("ls", "none") == ""
    assert json.loads(run("info", "cli-1", "--json"))["created_by"] == server.admin.identity
    assert f"Created by  {server.admin.identity}\n" in run("info", "cli-1")
    context = base64.b64encode(b"context").decode()
    dek = json.loads(run("dek", "cli-1", context))
    assert list(dek) == ["plaintext", "ciphertext"]
    assert json.loads(run("decrypt", "cli-1", dek["ciphertext"], context)) == {"plaintext": dek["plaintext"]}
    for arguments, stdin in ((["Hello World"], ""), (["-"], "Hello World")):
        sealed = json.loads(run("encrypt", "cli-1", *arguments, stdin=stdin))["ciphertext"]
        assert json.loads(run("decrypt", "cli-1", "-", stdin=sealed + "\n")) == {"plaintext": "SGVsbG8gV29ybGQ="}
    key = base64.b64encode(bytes(32)).decode()
    assert run("import", "cli-3", "-", "--cipher", "ChaCha20", stdin=key) == ""
    assert json.loads(run("info", "cli-3", "--json"))["algorithm"] == "ChaCha20"
    assert run("rm", "cli-1", "cli-2", "cli-3") == ""
    failed = kes("key", "info", "cli-1", "-k", cwd=tmp_path, code=1, environment=environment)
    assert failed.stderr == 'Error: failed to describe key "cli-1": key does not exist\n'
    failed = kes("key", "decrypt", "cli-1", "not base64", "-k", cwd=tmp_path, code=1, environment=environment)
    assert failed.stderr == "Error: the ciphertext is not base64\n"


def test_commands_for_versions(environment: dict[str, str], tmp_path: Path) -> None:
    def run(*arguments: str) -> str:
        return kes_here("key", *arguments, "-k", cwd=tmp_path, environment=environment).stdout

    run("create", "v-1", "v-2")
    old = json.loads(run("encrypt", "v-1", "text"))["ciphertext"]
    assert "Version" not in run("info", "v-1")
    assert "version" not in json.loads(run("info", "v-1", "--json"))
    assert run("rotate", "v-1", "v-2") == '"v-1" has version 2 now\n"v-2" has version 2 now\n'
    young = run("rotate", "v-1", "--if-older-than", "90d")
    assert young.startswith('"v-1" stays at version 2, made ')
    for age in ("1h30m", "1d"):
        facts = json.loads(run("rotate", "v-1", "--if-older-than", age, "--json"))
        assert (facts["name"], facts["version"], facts["rotated"]) == ("v-1", 2, False)
    assert "Version     2\n" in run("info", "v-1")
    listed = json.loads(run("versions", "v-1", "--json"))
    assert [version["version"] for version in listed] == [1, 2]
    assert run("versions", "v-1").splitlines()[0].split("  ")[0] == "Version"
    new = json.loads(run("rewrap", "v-1", old))["ciphertext"]
    assert base64.b64decode(new)[-28:-24] == b"\0\0\0\2"
    assert run("decrypt", "v-1", new) == run("decrypt", "v-1", old)
    assert run("ls", "v-*") == "Key\nv-1\nv-2\n"
    assert run("min-version", "v-1", "2") == ""
    assert "Decrypts from  version 2 on\n" in run("info", "v-1")
    assert json.loads(run("info", "v-1", "--json"))["min_decryption_version"] == 2
    refused = kes_here("key", "decrypt", "v-1", old, "-k", cwd=tmp_path, code=1, environment=environment)
    assert refused.stderr.endswith("the ciphertext is of a version of the key that does not decrypt any more\n")
    assert run("min-version", "v-1", "1") == ""
    assert run("disable", "v-1", "--allow-decrypt") == ""
    assert "State       decrypt-only\n" in run("info", "v-1")
    run("decrypt", "v-1", new)
    assert run("disable", "v-1", "v-2") == ""
    assert json.loads(run("info", "v-1", "--json"))["state"] == "disabled"
    refused = kes_here("key", "decrypt", "v-1", new, "-k", cwd=tmp_path, code=1, environment=environment)
    assert refused.stderr == 'Error: failed to decrypt with key "v-1": key is disabled\n'
    assert run("enable", "v-1", "v-2") == ""
    assert "state" not in json.loads(run("info", "v-1", "--json"))
    refused = kes_here("key", "rm", "v-1", "--in", "7d", "-k", cwd=tmp_path, code=1, environment=environment)
    assert refused.stderr == 'Error: failed to delete key "v-1": this server does not schedule deletions\n'
    assert run("undelete", "v-1", "v-2") == ""
    run("rm", "v-1", "v-2")
    wrong = kes_here(
        "key", "rotate", "v-1", "--if-older-than", "90", "-k", cwd=tmp_path, code=2, environment=environment
    )
    assert "a number needs a unit, as in 10s, 1m30s, 500ms or 168h; or days, as in 90d" in wrong.stderr
    failed = kes_here("key", "rotate", "v-1", "-k", cwd=tmp_path, code=1, environment=environment)
    assert failed.stderr == 'Error: failed to rotate key "v-1": key does not exist\n'


def test_of_several_keys_the_one_that_fails_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    def error(*arguments: str) -> str:
        return kes_here("key", *arguments, "-k", cwd=tmp_path, code=1, environment=environment).stderr

    kes_here("key", "create", "there", "-k", cwd=tmp_path, environment=environment)
    assert error("create", "before", "there", "after") == (
        'Error: failed to create key "there": key already exists; those before it are done\n'
    )
    assert kes_here("key", "ls", "-k", "before", cwd=tmp_path, environment=environment).stdout == "Key\nbefore\n"
    assert error("create", "there", "after") == 'Error: failed to create key "there": key already exists\n'
    assert error("rm", "before", "after") == (
        'Error: failed to delete key "after": key does not exist; those before it are done\n'
    )
    assert error("create", "there") == 'Error: failed to create key "there": key already exists\n'
    failed = kes_here("key", "info", "after", "there", "-k", cwd=tmp_path, code=1, environment=environment)
    assert failed.stderr == 'Error: failed to describe key "after": key does not exist\n'
    kes_here("key", "rm", "there", "-k", cwd=tmp_path, environment=environment)


def test_server_that_refuses_the_certificate(run_server: Callable[..., Server], tmp_path: Path) -> None:
    tls = {"key": str(tmp_path / "server.key"), "cert": str(tmp_path / "server.crt")}
    ca = make_credentials(tmp_path, "ca")
    server = run_server({"tls": tls | {"auth": "on", "ca": str(ca.cert)}})
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}
    for command in (["key", "ls"], ["key", "create", "a", "b"]):
        failed = kes_here(*command, "-k", cwd=tmp_path, code=1, environment=environment).stderr
        assert (
            "; the server refuses your certificate (tls.auth: on): present one that a CA in its tls.ca issued" in failed
        )


def test_self_made_certificate_is_trusted_by_a_variable(run_server: Callable[..., Server], tmp_path: Path) -> None:
    kes_here("identity", "new", "--ip", "127.0.0.1", "localhost", cwd=tmp_path)
    own = {"key": str(tmp_path / "private.key"), "cert": str(tmp_path / "public.crt")}
    server = run_server({"tls": own})
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}
    failed = kes_here("key", "ls", cwd=tmp_path, code=1, environment=environment).stderr
    cure = "; if the server's certificate is self-signed, set SSL_CERT_FILE to it, or skip its verification with -k\n"
    assert failed.endswith(cure)
    assert failed.count("self-signed, ") == 1
    trusting = environment | {"SSL_CERT_FILE": own["cert"]}
    assert kes_here("key", "ls", cwd=tmp_path, environment=trusting).stdout == ""


def test_password_of_the_clients_key(server: Server, tmp_path: Path) -> None:
    kes_here(
        "identity", "new", "--encrypt", "x", cwd=tmp_path, environment={"KES_PRIVATE_KEY_PASSWORD": "correct horse"}
    )
    files = {"KES_SERVER": server.url, "KES_CLIENT_KEY": "private.key", "KES_CLIENT_CERT": "public.crt"}
    failed = kes_here("key", "ls", "-k", cwd=tmp_path, code=1, environment=files).stderr
    start = "Error: the private key 'private.key' is encrypted: "
    assert failed == f"{start}a password is needed (KES_CLIENT_KEY_PASSWORD)\n"
    wrong = files | {"KES_CLIENT_KEY_PASSWORD": "wrong"}
    failed = kes_here("key", "ls", "-k", cwd=tmp_path, code=1, environment=wrong).stderr
    assert failed == f"{start}the password is wrong (KES_CLIENT_KEY_PASSWORD)\n"
    right = files | {"KES_CLIENT_KEY_PASSWORD": "correct horse"}
    found = kes_here("identity", "info", "-k", cwd=tmp_path, code=1, environment=right).stderr
    assert found == "Error: failed to describe your identity: identity does not exist\n"


def test_commands_for_policies_identities_and_status(
    server: Server, environment: dict[str, str], tmp_path: Path, user: Credentials
) -> None:
    def run(*arguments: str) -> object:
        return json.loads(kes_here(*arguments, "-k", "--json", cwd=tmp_path, environment=environment).stdout)

    assert run("policy", "ls") == ["app", "other"]
    piped = kes_here("policy", "show", "app", "-k", cwd=tmp_path, environment=environment).stdout
    assert json.loads(piped) == run("policy", "show", "app")
    shown = run("policy", "show", "app")
    assert isinstance(shown, dict)
    assert shown["deny"] == {"/v1/key/delete/*": {}}
    info = run("policy", "info", "app")
    assert isinstance(info, dict)
    assert info["created_by"] == server.admin.identity
    assert run("ls", "-p") == ["app", "other"]
    identities = sorted([server.admin.identity, user.identity])
    assert run("ls", "-i") == identities
    assert run("identity", "ls") == identities
    assert run("identity", "ls", "--long", user.identity) == [
        {"identity": user.identity, "admin": False, "policy": "app"}
    ]
    piped = kes_here("identity", "ls", "-l", user.identity, "-k", cwd=tmp_path, environment=environment).stdout
    assert piped.split() == ["Identity", "Role", "Policy", user.identity, "user", "app"]
    found = run("identity", "info", user.identity)
    assert isinstance(found, dict)
    assert found["policy"] == "app"
    me = run("identity", "info")
    assert isinstance(me, dict)
    assert me["admin"] is True
    routes = run("status", "--api")
    assert isinstance(routes, list)
    assert {"method": "GET", "path": "/version", "max_body": 0, "timeout": 10} in routes
    status = run("status")
    assert isinstance(status, dict)
    assert status["keystore_reachable"] is True
    assert status["keystore_unreachable"] is status["keystore_unavailable"] is False
    assert status.keys() > {"version", "os", "arch", "uptime"}
    assert status["num_cpu"] >= status["num_cpu_used"] >= 1
    assert status["mem_heap_used"] > status["mem_stack_used"] > 0


def test_what_a_person_sees(environment: dict[str, str], tmp_path: Path) -> None:
    def show(*arguments: str) -> str:
        return on_a_terminal(*arguments, "-k", cwd=tmp_path, environment=environment)

    show("key", "create", "seen")
    dek = show("key", "dek", "seen").splitlines()
    assert dek[0] == "{"
    assert dek[1].startswith("  plaintext : ")
    assert dek[2].startswith("  ciphertext: ")
    assert dek[3] == "}"
    assert "seen" in [line.strip() for line in show("key", "ls").splitlines()[1:]]
    assert "Algorithm   " in show("key", "info", "seen")
    assert "· /v1/key/*" in show("policy", "show", "app")
    status = show("status", "-s", "--api")
    assert "reachable" in status
    assert "/v1/key/bulk/decrypt/" in status
    assert "Memory" not in status
    assert json.loads(show("status", "--json"))["version"]


def test_where_the_client_looks_for_server_and_credentials(server: Server, user: Credentials, tmp_path: Path) -> None:
    """Protocol section 9: a flag comes first, then the first place that has a value."""
    admin = str(server.admin.api_key)
    files = {"MINIO_KES_KEY_FILE": str(user.key), "MINIO_KES_CERT_FILE": str(user.cert)}

    def identity(*arguments: str, **environment: str) -> object:
        done = kes_here("identity", "info", *arguments, "-k", "--json", cwd=tmp_path, environment=environment)
        return json.loads(done.stdout)["identity"]

    dead = f"127.0.0.1:{free_port()}"
    assert identity(KES_SERVER=server.url, MINIO_KMS_KES_ENDPOINT=dead, KES_API_KEY=admin) == server.admin.identity
    assert identity(MINIO_KES_SERVER=server.url, KES_SERVER=dead, MINIO_KES_API_KEY=admin) == server.admin.identity
    assert identity(MINIO_KMS_KES_ENDPOINT=server.url, MINIO_KMS_KES_API_KEY=admin) == server.admin.identity
    assert identity("-s", server.url, KES_SERVER=dead, **files) == user.identity
    assert identity("-a", admin, KES_SERVER=server.url, **files) == server.admin.identity
    plain = {"KES_CLIENT_KEY": str(user.key), "KES_CLIENT_CERT": str(user.cert)}
    assert identity(KES_SERVER=server.url.removeprefix("https://"), **plain) == user.identity


def test_options_that_scripts_pass_to_the_go_tool(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    plain = environment | {"KES_SERVER": server.url.replace("https://", "http://")}
    kes_here("key", "create", "scripted", "--insecure=true", cwd=tmp_path, environment=plain)
    arguments = ["key", "ls", "scripted", "-k=true", "--color", "always", "--json=false"]
    assert kes_here(*arguments, cwd=tmp_path, environment=plain).stdout == "Key\nscripted\n"
    for option in ("-e", "--enclave"):
        command = [*KES, "key", "ls", "scripted", "-k", option, "tenant-1"]
        done = subprocess.run(command, env=os.environ | plain, capture_output=True, text=True, check=True)
        assert done.stdout == "Key\nscripted\n"
        assert done.stderr == "Warning: --enclave is ignored: this server has no enclaves\n"
    refused = kes_here("key", "ls", "--insecure=false", cwd=tmp_path, environment=plain, code=1).stderr
    assert "CERTIFICATE_VERIFY_FAILED" in refused


def test_colours_in_a_pipe_are_there_if_they_are_asked_for(environment: dict[str, str], tmp_path: Path) -> None:
    def show(*arguments: str) -> str:
        return kes_here("status", "-k", *arguments, cwd=tmp_path, environment=environment).stdout

    assert "\x1b[32m●" in show("--color", "always")
    for arguments in ([], ["--color", "auto"], ["--color=never"]):
        assert show(*arguments).startswith("● The server is ready.\n")
    on_terminal = on_a_terminal("status", "-k", "--color", "never", cwd=tmp_path, environment=environment)
    assert "\x1b" not in on_terminal


def test_s_is_the_server_also_for_the_status(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    """Without a value, `-s` means `--short`, as in the Go tool."""
    dead = environment | {"KES_SERVER": f"127.0.0.1:{free_port()}"}
    assert "Memory" in kes_here("status", "-k", "-s", server.url, cwd=tmp_path, environment=dead).stdout
    for arguments in (["-k", "-s"], ["-s", "-k"], ["-k", "--short"]):
        assert "Memory" not in kes_here("status", *arguments, cwd=tmp_path, environment=environment).stdout


LIBRARIES_ALONE = """
import ssl, sys
sys.modules["httpx._main"] = None
import click, httpx, cryptography.x509
from cryptography.hazmat.primitives.asymmetric import ed25519
url, cert, key = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
context.load_cert_chain(cert, key)
with httpx.Client(verify=context, http2=True) as client:
    assert client.put(url).status_code == 200
"""


@pytest.mark.measured
def test_a_command_adds_little_to_the_servers_time(server: Server, environment: dict[str, str], tmp_path: Path) -> None:
    kes_here("key", "create", "quick", "-k", cwd=tmp_path, environment=environment)
    # The libraries alone make the same request, as a measure of the machine's speed. Both use compiled bytecode, as
    # installed programs do.
    files = [str(server.admin.cert), str(server.admin.key)]
    bare = [sys.executable, "-c", LIBRARIES_ALONE, f"{server.url}/v1/key/generate/quick", *files]
    compiled = os.environ | environment | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(tmp_path)}
    own: list[float] = []
    libraries: list[float] = []
    for _ in range(6):
        for command, seconds in (([*KES, "key", "dek", "quick", "-k"], own), (bare, libraries)):
            start = time.perf_counter()
            subprocess.run(command, env=compiled, stdout=subprocess.DEVNULL, check=True)
            seconds.append(time.perf_counter() - start)
    # Both times include the server's, which is less than a millisecond.
    assert min(own) < max(0.25, 1.3 * min(libraries)), (own, libraries)
