"""The command line without a server: identities, usage, errors, speed."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from kes_core.identity import APIKey, identity_of_certificate, identity_of_public_key
from tests.helpers.command import KES, on_a_terminal, seconds_for
from tests.helpers.command import kes_here as kes


def test_new_api_key(tmp_path: Path) -> None:
    for arguments in (["identity"], ["identity", "new"]):
        printed = kes(*arguments, cwd=tmp_path).stdout
        assert printed == f"{APIKey.parse(printed.strip())}\n"
        made = json.loads(kes(*arguments, "--json", cwd=tmp_path).stdout)
        key = APIKey.parse(made["api_key"])
        assert made == {"api_key": str(key), "identity": key.identity}
    shown = on_a_terminal("identity", cwd=tmp_path)
    assert "Your API key:" in shown
    assert "kes:v1:" in shown


def test_identity_of_api_key_and_files(tmp_path: Path) -> None:
    key = APIKey.generate()
    (tmp_path / "key").write_text(f"{key}\n")
    (tmp_path / "cert").write_bytes(key.certificate()[1])
    for arguments in ([str(key)], ["key"], ["cert"], ["of", str(key)], ["of", "key"], ["of", "cert"]):
        assert kes("identity", *arguments, cwd=tmp_path).stdout == f"{key.identity}\n"
        for asked in (["identity", *arguments, "--json"], ["identity", "--json", *arguments]):
            assert json.loads(kes(*asked, cwd=tmp_path).stdout) == {"identity": key.identity}
    assert on_a_terminal("identity", "of", "cert", cwd=tmp_path) == f"\n  Identity:  {key.identity}\n"


def test_identities_of_several_files(tmp_path: Path) -> None:
    """A line of JSON for each in a pipe, as in the Go tool of 2022 and 2023. It does not repeat an API key."""
    key, other = APIKey.generate(), APIKey.generate()
    (tmp_path / "a.crt").write_bytes(key.certificate()[1])
    lines = kes("identity", "of", "a.crt", str(other), cwd=tmp_path).stdout.splitlines()
    assert [json.loads(line) for line in lines] == [
        {"name": "a.crt", "identity": key.identity},
        {"identity": other.identity},
    ]
    shown = on_a_terminal("identity", "of", "a.crt", str(other), cwd=tmp_path)
    assert shown == f"a.crt: {key.identity}\n{other.identity}\n"
    failed = kes("identity", "of", "a.crt", "missing.crt", cwd=tmp_path, code=1)
    assert "neither an API key nor a file that can be read" in failed.stderr


def test_identity_new_as_the_guide_has_it(tmp_path: Path) -> None:
    """The guide's form of 2023 works: `kes identity new --ip "127.0.0.1" localhost`."""
    done = kes("identity", "new", "--ip", "127.0.0.1", "localhost", cwd=tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "public.crt").read_bytes())
    identity = identity_of_certificate(certificate)
    assert done.stdout == (f"\n  Private key:  private.key\n  Certificate:  public.crt\n  Identity:     {identity}\n")
    assert stat.S_IMODE((tmp_path / "private.key").stat().st_mode) == 0o600
    private_key = load_pem_private_key((tmp_path / "private.key").read_bytes(), None)
    assert identity_of_public_key(private_key.public_key()) == identity
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["localhost"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["127.0.0.1"]
    lifetime = certificate.not_valid_after_utc - certificate.not_valid_before_utc
    assert lifetime.total_seconds() == pytest.approx(720 * 3600, abs=600)


def test_identity_new_with_other_files_and_subject(tmp_path: Path) -> None:
    kes("identity", "new", "--key=client.key", "--cert=client.crt", "--expiry", "1h30m", "MyApp", cwd=tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "client.crt").read_bytes())
    assert certificate.subject.rfc4514_string() == "CN=MyApp"
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds() < 6000
    kes("identity", "new", "-f", "--dns", "a.example", "--dns", "b.example", "kms.example", cwd=tmp_path)
    certificate = x509.load_pem_x509_certificate((tmp_path / "public.crt").read_bytes())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "b.example", "kms.example"]


def test_encrypted_private_key(tmp_path: Path) -> None:
    kes("identity", "new", "--encrypt", "x", cwd=tmp_path, environment={"KES_PRIVATE_KEY_PASSWORD": "correct horse"})
    pem = (tmp_path / "private.key").read_bytes()
    load_pem_private_key(pem, b"correct horse")
    with pytest.raises(TypeError):
        load_pem_private_key(pem, None)


def test_passphrase_without_a_terminal(tmp_path: Path) -> None:
    done = subprocess.run(
        [*KES, "identity", "new", "--encrypt", "x"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if "KES" not in name},
        input="secret\nsecret\n",
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        start_new_session=True,  # so it has no terminal
    )
    expected = "there is no terminal to ask for the passphrase: set KES_PRIVATE_KEY_PASSWORD"
    assert (done.returncode, done.stdout, done.stderr.strip()) == (1, "", f"Error: {expected}")
    assert list(tmp_path.iterdir()) == []


def test_identity_new_prints_the_api_key_of_the_files(tmp_path: Path) -> None:
    """The API key comes before the identity, which scripts expect at the end. An encrypted key is never printed."""
    names = ["--key", "client.key", "--cert", "client.crt"]
    words = kes("identity", "new", *names, "--dns", "a.example,b.example", cwd=tmp_path).stdout.split()
    key = APIKey.parse(words[words.index("API") + 2])
    certificate = x509.load_pem_x509_certificate((tmp_path / "client.crt").read_bytes())
    assert key.identity == identity_of_certificate(certificate) == words[-1]
    private_key = load_pem_private_key((tmp_path / "client.key").read_bytes(), None)
    assert identity_of_public_key(private_key.public_key()) == key.identity
    alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert alternatives.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    made = json.loads(kes("identity", "new", "-f", *names, "--json", cwd=tmp_path).stdout)
    assert APIKey.parse(made["api_key"]).identity == made["identity"]
    password = {"KES_PRIVATE_KEY_PASSWORD": "correct horse"}
    assert "kes:v1:" not in kes("identity", "new", "-f", *names, "--encrypt", cwd=tmp_path, environment=password).stdout


def test_nothing_is_overwritten_and_nothing_half_done_is_left(tmp_path: Path) -> None:
    (tmp_path / "public.crt").write_text("mine")
    done = kes("identity", "new", "x", cwd=tmp_path, code=1)
    assert done.stderr == "Error: 'public.crt' exists already; -f overwrites it\n"
    assert [file.name for file in tmp_path.iterdir()] == ["public.crt"]
    assert (tmp_path / "public.crt").read_text() == "mine"
    done = kes("identity", "new", "--cert", "missing/public.crt", "x", cwd=tmp_path, code=1)
    assert done.stderr == "Error: 'missing/public.crt' can't be written: No such file or directory\n"
    assert [file.name for file in tmp_path.iterdir()] == ["public.crt"]
    done = kes("identity", "new", "--key", "a", "--cert", "a", "x", cwd=tmp_path, code=1)
    assert "can't both be written to 'a'" in done.stderr
    kes("identity", "new", "-f", "x", cwd=tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["private.key", "public.crt"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["identity", "new", "--expiry", "5", "x"], 2, "'5' is not a duration: a number needs a unit"),
        (["identity", "new", "--expiry", "0s", "x"], 2, "for some time at least"),
        (["identity", "new", "--ip", "1.2.3", "x"], 2, "'1.2.3' is not a valid IP address"),
        (["identity", "new", "--dns", "a b", "x"], 2, "'a b' is not a valid host name"),
        (["identity", "new", "x" * 65], 2, "at most 64 characters"),
        (["identity", "of"], 2, "Missing argument"),
        (
            ["identity", "of", "missing"],
            1,
            "is neither an API key nor a file that can be read: No such file or directory",
        ),
        (["server"], 2, "Missing option '--config', or '--dev'"),
        (["server", "--dev", "--config", "x"], 2, "--dev and --config exclude each other"),
        (["server", "--config", "missing.yml"], 1, "missing.yml: can't be read: No such file or directory"),
        (["server", "--dev", "--auth", "maybe"], 2, "'maybe' is not one of 'on', 'off'"),
        (["server", "--dev", "--auth", "on"], 2, "--dev and --auth on exclude each other"),
        (["server", "--dev", "--addr", "127.0.0.1"], 2, "command line: address: '127.0.0.1' has no port"),
        (["server", "--dev", "--addr", "127.0.0.1:99999"], 2, "has no valid port"),
        (["server", "--dev", "--workers", "0"], 2, "workers: '0' is not a number of processes"),
        (["key", "create"], 2, "Missing argument 'NAME...'"),
        (["key", "import", "x", "AA", "--cipher", "DES"], 2, "'DES' is not one of 'AES256', 'ChaCha20'"),
        (["ls", "-i", "-p"], 2, "-i and -p exclude each other"),
        (["status"], 1, "no client credentials: set KES_API_KEY, or KES_CLIENT_CERT and KES_CLIENT_KEY"),
        (
            ["status", "--api-key", "kes:v1:AAAA"],
            1,
            "not an API key: expected kes:v1: followed by 44 characters of base64",
        ),
        (["status", "--server", "ftp://x", "--api-key", "KEY"], 1, "'ftp://x' is not a valid URL"),
        (["key", "ls", "--color", "blue"], 2, "'blue' is not one of 'auto', 'always', 'never'"),
        (["key", "creat", "x"], 2, "No such command 'creat'. Did you mean 'create'?"),
        (["identiy"], 2, "No such command 'identiy'. Did you mean 'identity'?"),
        (["key", "ls", "--insecure=maybe"], 2, "Option '--insecure' does not take a value"),
        (
            ["key", "ls", "--server", "bad..host", "--api-key", "KEY"],
            1,
            "'bad..host' is not a valid URL: expected a URL",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_errors_and_exit_codes(arguments: list[str], code: int, message: str, tmp_path: Path) -> None:
    arguments = [str(APIKey.generate()) if argument == "KEY" else argument for argument in arguments]
    assert message in kes(*arguments, cwd=tmp_path, code=code).stderr


def test_wrong_options_of_a_server_with_a_file(tmp_path: Path) -> None:
    """Exit code 2, for wrong usage, needs an error in the options alone."""
    (tmp_path / "config.yml").write_text("tls: {key: k, cert: c}\nadmin: {identity: x}\nkeystore: {memory: }\n")
    done = kes("server", "--config", "config.yml", "--addr", "nowhere", cwd=tmp_path, code=2)
    assert "command line: address: 'nowhere' has no port" in done.stderr
    (tmp_path / "config.yml").write_text("tls: {key: k, cert: c}\nkeystore: {memory: }\n")
    done = kes("server", "--config", "config.yml", "--addr", "nowhere", cwd=tmp_path, code=1)
    assert "command line: address: 'nowhere' has no port" in done.stderr
    assert "config.yml:1: admin: required, but missing" in done.stderr


def test_malformed_api_key_is_not_repeated(tmp_path: Path) -> None:
    almost = str(APIKey.generate())[:-2]
    assert almost[10:20] not in kes("identity", "of", almost, cwd=tmp_path, code=1).stderr
    assert almost[10:20] not in kes("status", "--api-key", almost, cwd=tmp_path, code=1).stderr


def test_credentials_exclude_each_other(tmp_path: Path) -> None:
    key = str(APIKey.generate())
    both = {"KES_API_KEY": key, "KES_CLIENT_KEY": "a", "KES_CLIENT_CERT": "b"}
    assert "both an API key and a key file are set" in kes("status", cwd=tmp_path, code=1, environment=both).stderr
    half = kes("status", cwd=tmp_path, code=1, environment={"KES_CLIENT_KEY": "a"}).stderr
    assert "a private key or its certificate is missing: give both files" in half
    missing = kes("status", cwd=tmp_path, code=1, environment={"KES_CLIENT_KEY": "a", "KES_CLIENT_CERT": "b"}).stderr
    assert "the client's private key 'a' can't be read" in missing


def test_unreachable_server(tmp_path: Path) -> None:
    key = str(APIKey.generate())
    done = kes("status", cwd=tmp_path, code=1, environment={"KES_API_KEY": key, "KES_SERVER": "127.0.0.1:1"})
    assert done.stderr == "Error: failed to get the status: https://127.0.0.1:1: [Errno 111] Connection refused\n"


def test_help_and_version(tmp_path: Path) -> None:
    for arguments in ([], ["identity"], ["identity", "new"], ["key"], ["key", "dek"], ["server"], ["status"], ["ls"]):
        text = kes(*arguments, "--help", cwd=tmp_path).stdout
        assert "Usage: " in text
        assert "issue" not in text
    for option in ("--version", "-v"):
        assert kes(option, cwd=tmp_path).stdout.startswith("kes 0.")


@pytest.mark.measured
def test_help_starts_fast() -> None:
    """The help appears within 150 ms, or on a slow machine within twice the time to import click."""
    own = seconds_for("import sys; sys.argv = ['kes', '--help']; from kes_core.cli import main; main()")
    assert own < max(0.15, 2 * seconds_for("import click"))


def test_client_side_imports_neither_server_nor_plugins() -> None:
    modules = "kes_core.client, kes_core.cli.key, kes_core.cli.identity, kes_core.cli.status, kes_core.cli.policy"
    unwanted = {"fastapi", "hypercorn", "pydantic", "pluggy", "yaml", "kes_fs", "kes_core.server", "google.protobuf"}
    code = f"import sys, {modules}\nfound = {unwanted} & set(sys.modules)\nassert not found, found\n"
    subprocess.run([sys.executable, "-c", code], check=True)
