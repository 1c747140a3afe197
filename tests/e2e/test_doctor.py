"""`kes doctor` as users run it; its explanations agree with a real server."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import yaml

from kes_core.config import Config, load
from kes_core.doctor.decision import Requester, explain
from kes_core.plugins import Plugins, load_plugins
from kes_core.protocol import ROUTES
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.command import KES, kes, on_a_terminal, run_here
from tests.helpers.server import Server, send_raw, start_server, write_config
from tests.helpers.wrapping import put

ADMIN = "c84cc9b91ae2399b043da7eca616048d4b4200edf2ff418d8af3835911db945d"


def doctor(*arguments: str, cwd: Path, code: int = 0) -> list[dict[str, str]]:
    """Run `kes doctor`, and return its findings."""
    done = run_here("doctor", *arguments, "--json", cwd=cwd)
    assert (done.returncode, done.stderr) == (code, ""), done
    answer = json.loads(done.stdout)
    findings: list[dict[str, str]] = answer["findings"]
    levels = [finding["level"] for finding in findings]
    assert answer["summary"] == {level: levels.count(level) for level in ("error", "warning", "note", "ok")}
    assert all(finding["cure"] for finding in findings if finding["level"] in {"error", "warning"})
    assert all(list(finding) == ["level", "subject", "message", "cure"] for finding in findings)
    assert code == ("error" in {finding["level"] for finding in findings})
    return findings


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a server's key and certificate, made as a user makes them."""
    folder, files = tmp_path_factory.mktemp("made"), ["--key", "server.key", "--cert", "server.crt"]
    kes("identity", "new", "--ip", "127.0.0.1", *files, "localhost", cwd=folder)
    return folder


@pytest.fixture
def directory(tmp_path: Path, certificate: Path) -> Path:
    """A folder with all files that a server needs."""
    shutil.copytree(certificate, tmp_path, dirs_exist_ok=True)
    write_config(tmp_path, ADMIN, {"keystore": {"fs": {"path": str(tmp_path / "keys")}}, "version": "v1"})
    return tmp_path


def test_server_that_can_start(directory: Path) -> None:
    findings = doctor(cwd=directory)
    subjects = [finding["subject"] for finding in findings]
    assert {"configuration", "certificate", "key store", "cache"} <= set(subjects)
    assert findings[0] == {"level": "ok", "subject": "configuration", "message": "config.yml is valid", "cure": ""}
    assert not (directory / "keys").exists()  # the doctor changes nothing


def test_configuration_with_problems(directory: Path) -> None:
    config = directory / "other.yml"
    config.write_text((directory / "config.yml").read_text().replace("address:", "adress:") + "keys:\n- name: .\n")
    found = doctor("--config", "other.yml", cwd=directory, code=1)
    assert [finding["subject"] for finding in found] == ["configuration", "configuration"]
    assert found[0]["message"] == "other.yml:1: adress: unknown field"
    assert found[0]["cure"].startswith("did you mean 'address'? Allowed: ")
    assert doctor("other.yml", cwd=directory, code=1) == found  # as `kes config check other.yml`
    (missing,) = doctor("--config", "none.yml", cwd=directory, code=1)
    assert missing["message"] == "none.yml: can't be read: No such file or directory"


def test_for_people(directory: Path) -> None:
    shown = on_a_terminal("doctor", cwd=directory)
    assert "\x1b[32m\x1b[1m✓\x1b[0m config.yml is valid" in shown
    assert "→" in shown
    assert "0 errors, 0 warnings, " in shown
    (directory / "server.key").chmod(0o644)
    assert f"chmod 0600 {directory / 'server.key'}" in " ".join(on_a_terminal("doctor", cwd=directory).split())
    assert json.loads(on_a_terminal("doctor", "--json", cwd=directory))["findings"]


def test_lines_fit_the_terminal(directory: Path) -> None:
    """Text is wrapped between words and indented, and a path stays in one piece. A pipe gets whole lines."""
    message = "cache.expiry.offline is off: when the key store can't be reached, requests fail as soon as keys expire"
    narrow = {"COLUMNS": "60", "NO_COLOR": "1"}
    shown = on_a_terminal("doctor", cwd=directory, environment=narrow).splitlines()
    assert [line for line in shown if len(line) > 60 and str(directory) not in line] == []
    assert message not in "\n".join(shown)
    assert message in " ".join(" ".join(shown).split())
    at = next(number for number, line in enumerate(shown) if line.startswith("  · cache.expiry.offline"))
    assert shown[at + 1].startswith("    ")
    assert message in kes("doctor", cwd=directory).stdout


def test_server_that_runs_is_no_obstacle(directory: Path, run_server: Callable[..., Server]) -> None:
    """The doctor sees that the server itself has its port, and that another server does not."""
    server = run_server({"keystore": {"fs": {"path": str(directory / "keys")}}}, directory=directory)
    config = yaml.safe_load(server.config_path.read_text()) | {"address": f"127.0.0.1:{server.port}"}
    server.config_path.write_text(yaml.safe_dump(config))
    runs = next(finding for finding in doctor(cwd=directory) if finding["subject"] == "address")
    assert (runs["level"], runs["message"].partition(",")[0]) == ("ok", "address: the server runs")
    kes("identity", "new", "--key", "b.key", "--cert", "b.crt", "--ip", "127.0.0.1", "localhost", cwd=directory)
    config["tls"] = {"key": str(directory / "b.key"), "cert": str(directory / "b.crt")}
    server.config_path.write_text(yaml.safe_dump(config))
    other = next(finding for finding in doctor(cwd=directory, code=1) if finding["subject"] == "address")
    assert other["message"].startswith(f"address: another server listens on 127.0.0.1:{server.port}")


def test_warnings_count_if_asked_to(directory: Path) -> None:
    kes("doctor", "--strict", cwd=directory)
    (directory / "server.key").chmod(0o604)
    assert "0 errors, 1 warning, " in kes("doctor", cwd=directory).stdout
    done = subprocess.run([*KES, "doctor", "--strict"], cwd=directory, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")
    assert "0 errors, 1 warning, " in done.stdout


def test_explanation_for_people(directory: Path) -> None:
    (directory / "app.key").write_text(kes("identity", cwd=directory).stdout)
    arguments = ["doctor", "--client", "app.key", "--path", "/v1/key/generate/my-key"]
    shown = on_a_terminal(*arguments, cwd=directory, code=1)
    assert "denied: the identity is in no policy (403)" in shown
    assert "1 error, 0 warnings, 0 notes" in shown


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--identity", "1" * 64], 2, "Missing option '--path'"),
        (["--identity", "1" * 64, "--client", "f", "--path", "/"], 2, "exclude each other"),
        (["--identity", "MyApp", "--path", "/"], 1, "'MyApp' is not an identity, which has 64 hex digits"),
        (["--client", "none", "--path", "/"], 1, "'none' can't be read: No such file or directory"),
        (["store-policy"], 1, "'fs' has no access control of its own that needs a policy"),
        (["store-policy", "--config", "none.yml"], 1, "none.yml: can't be read"),
        (["client-policy", "ceph"], 2, "'ceph' is not known; known are minio, sdk, prometheus, probe"),
        (["client-policy", "minio", "--key", "a*b"], 2, "--key 'a*b' is neither the name of a key"),
        (["client-policy", "minio", "--name", "-"], 2, "--name '-' is not valid"),
        (["client-policy", "minio", "--identity", "a b"], 2, "--identity 'a b' is not valid"),
    ],
)
def test_wrong_calls(directory: Path, arguments: Sequence[str], code: int, text: str) -> None:
    assert text in kes("doctor", *arguments, cwd=directory, code=code).stderr


def test_policy_for_a_client_in_a_server(directory: Path, run_server: Callable[..., Server]) -> None:
    """The printed policy works unchanged and is minimal: it allows the client's work and nothing else."""
    client = make_credentials(directory, "minio")
    arguments = ["client-policy", "minio", "--key", "minio-*", "--identity", client.identity]
    section = yaml.safe_load(kes("doctor", *arguments, cwd=directory).stdout)
    server = run_server(section, directory=directory)
    with server.client(client) as http:
        assert http.put("/v1/key/create/minio-key").status_code == 200
        sealed = http.put("/v1/key/generate/minio-key").json()
        answer = http.put("/v1/key/decrypt/minio-key", json={"ciphertext": sealed["ciphertext"]})
        assert answer.json()["plaintext"] == sealed["plaintext"]
        assert http.get("/v1/key/list/minio-*").json()["names"] == ["minio-key"]
        assert http.get("/v1/status").status_code == 200
        for method, path in (
            ("PUT", "/v1/key/create/other"),
            ("DELETE", "/v1/key/delete/minio-key"),
            ("PUT", "/v1/key/import/minio-key"),
            ("GET", "/v1/policy/list/"),
            ("GET", "/v1/key/list/*"),
        ):
            assert http.request(method, path).status_code == 403, path


# In comparison with a real server


@dataclass
class Site:
    """A server with every kind of client. `clients` maps each name to a client and the doctor's arguments for it."""

    server: Server
    clients: dict[str, tuple[Credentials | None, list[str]]]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    names = ("admin", "app", "stranger", "proxy")
    credentials = {name: make_credentials(directory, name) for name in names}
    (directory / "office.cedar").write_text(
        'permit(principal, action == KES::Action::"DescribeKey", resource);'
        'forbid(principal, action == KES::Action::"HMAC", resource);'
    )
    overrides = {
        "tls": {
            "key": str(directory / "server.key"),
            "cert": str(directory / "server.crt"),
            "proxy": {"identities": [credentials["proxy"].identity]},
        },
        "api": {"/v1/metrics": {"skip_auth": True}},
        "policy": {
            "app": {
                "allow": ["/v1/key/*", "/v1/identity/*"],
                "deny": ["/v1/key/delete/*"],
                "identities": [credentials["app"].identity],
            }
        },
        "policy_engines": {"cedar": {"policies": str(directory / "office.cedar")}},
        "keystore": {"fs": {"path": str(put(directory / "keys"))}},
        "keys": [{"name": "my-key"}],
    }
    clients: dict[str, tuple[Credentials | None, list[str]]] = {
        name: (held, ["--client", str(held.cert)]) for name, held in credentials.items()
    }
    clients["nobody"] = (None, [])
    server = start_server(directory, overrides, admin=credentials["admin"])
    yield Site(server, clients)
    assert server.stop() == 0


def requests() -> list[tuple[str, str]]:
    """Return a request to each API that answers at once, and some malformed ones."""
    routes = [route for route in ROUTES if route.timeout]
    paths = [(route.method, route.path + ("my-key" if route.argument is not None else "")) for route in routes]
    return [
        *(request for request in paths if "/delete/" not in request[1]),
        ("DELETE", "/v1/key/delete/no-such-key"),
        ("POST", "/v1/key/generate/my-key"),
        ("GET", "/v1/key/generate/my-key"),
        ("PUT", "/v1/key/generate/my%2Dkey"),
        ("PUT", "/v1/key/generate/my.key"),
        ("PUT", "/v1/key/generate"),
        ("PUT", "/v1/key/generate/"),
        ("PUT", "/v1/key//generate/my-key"),
        ("GET", "/v1/key/list/a*b"),
        ("GET", "/v1/key/list/a~b"),
        ("GET", "/v1/nothing"),
    ]


LAYERS = {"route": {307, 404}, "method": {405}, "certificate": {400, 404}, "policy": {403}, "name": {400}}


def test_explanations_are_what_the_server_does(site: Site) -> None:
    """For every kind of client and request, the doctor names the check that refuses it in the server."""
    plugins = load_plugins()
    config = load(site.server.config_path, plugins=plugins).config
    wrong = []
    for name, (credentials, _arguments) in site.clients.items():
        asker = Requester.anonymous() if credentials is None else Requester.from_file(credentials.cert)
        with client_of(site.server, credentials) as http:
            for method, path in requests():
                status = send_raw(http, method, path, follow_redirects=False).status_code
                refused = explanation(config, plugins, asker, method, path)
                expected = LAYERS.get(refused, set())
                # Past the checks, a request may lack its body (400), and its key may not exist (404).
                agree = status in expected if refused else status in {200, 400, 404, 409}
                if not agree:
                    wrong.append((name, method, path, status, refused))
    assert wrong == []


def client_of(server: Server, credentials: Credentials | None) -> httpx.Client:
    if credentials is not None:
        return server.client(credentials)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return httpx.Client(base_url=server.url, verify=context)


def explanation(config: Config, plugins: Plugins, asker: Requester, method: str, path: str) -> str:
    """Return the check that refuses a request according to the doctor; empty if none does."""
    findings = asyncio.run(explain(config, plugins, asker, path, method=method))
    return "" if findings[-1].subject == "decision" else findings[-1].subject


def test_explanations_of_the_command(site: Site) -> None:
    directory = site.server.config_path.parent
    _credentials, arguments = site.clients["app"]
    path = ["--path", "/v1/key/hmac/my-key"]
    found = doctor(*arguments, *path, cwd=directory, code=1)[-1]
    assert found["message"].startswith("denied by the policy engine 'cedar': forbidden by ")
    found = doctor(*arguments, "--path", "/v1/key/generate/my-key", cwd=directory)[-2]
    assert found["message"] == "allowed: rule '/v1/key/*' of policy 'app'"
    found = doctor("--identity", "1" * 64, "--path", "/v1/key/describe/k", "--from", "10.0.0.1", cwd=directory)[-2]
    assert found["message"].startswith("allowed: cedar: ")
