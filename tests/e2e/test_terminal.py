"""What a person sees on a terminal, and what a script gets instead, with a real server."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from kes_core.client import Client
from kes_core.identity import make_certificate, private_key_pem
from tests.helpers.certificates import Credentials, make_credentials, make_server_certificate
from tests.helpers.command import kes
from tests.helpers.programs import free_port, program
from tests.helpers.server import Server, start_server
from tests.helpers.terminal import Screen, run_on_screen

Show = Callable[..., Screen]


@pytest.fixture(scope="module")
def user(tmp_path_factory: pytest.TempPathFactory) -> Credentials:
    return make_credentials(tmp_path_factory.mktemp("user"), "user")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, user: Credentials) -> Iterator[Server]:
    policies = {
        "app": {"allow": ["/v1/key/*"], "deny": ["/v1/key/delete/*"], "identities": [user.identity]},
        "nothing": {},
    }
    server = start_server(tmp_path_factory.mktemp("server"), {"policy": policies, "keys": [{"name": "my-key"}]})
    yield server
    assert server.stop() == 0


@pytest.fixture
def environment(server: Server) -> dict[str, str]:
    return {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}


@pytest.fixture
def show(environment: dict[str, str], tmp_path: Path) -> Show:
    def run(*arguments: str, code: int = 0, **more: str) -> Screen:
        return run_on_screen(*arguments, "-k", cwd=tmp_path, environment=environment | more, code=code)

    return run


def table(screen: Screen) -> dict[str, str]:
    """Return names and values, and check that the values are aligned in one column."""
    rows = [match for line in screen.lines if (match := re.fullmatch(r"([A-Z]\w*( \w+)?)\s{2,}(\S.*)", line))]
    assert len({match.start(3) for match in rows}) == 1
    return {match.group(1): match.group(3) for match in rows}


def is_recent(text: str) -> bool:
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC \((just now|\d+ (second|minute)s? ago)\)", text)
    assert match is not None, text
    return dt.datetime.now(dt.UTC) - dt.datetime.fromisoformat(match.group(1) + "Z") < dt.timedelta(hours=1)


def test_status(show: Show, server: Server) -> None:
    screen = show("status")
    assert screen.lines[0] == "● The server is ready."
    assert screen.colour_of("●") == "green"
    facts = table(screen)
    about = ["Workers", "Certificate", "Policies", "Key store"]
    assert list(facts) == ["Address", "Version", "Uptime", "Latency", "OS", "CPUs", "Memory", *about]
    assert facts["Address"] == server.url
    assert facts["Workers"] == "1"
    assert re.fullmatch(r"89 days left, until \d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["Certificate"])
    assert facts["Policies"] == "2 policies for 1 identity"
    assert re.fullmatch(r"(\d+m )?\d+s", facts["Uptime"])
    assert re.fullmatch(r"\d+\.\d ms", facts["Latency"])
    assert facts["Key store"].startswith("memory, reachable, ")
    assert screen.colour_of("reachable") == "green"
    assert list(table(show("status", "-s"))) == ["Address", "Version", "Uptime", "Latency", *about]
    listing = show("status", "-s", "--api")
    assert listing.column_of("/v1/key/create/") == listing.column_of("/v1/log/audit")


def test_status_of_a_server_whose_key_store_is_gone(run_server: Any, tmp_path: Path) -> None:
    server = run_server({"keystore": {"fs": {"path": str(tmp_path / "keys")}}})
    (tmp_path / "keys").rmdir()
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}
    screen = run_on_screen("status", "-k", cwd=tmp_path, environment=environment)
    assert screen.lines[0] == "● The server runs, but its key store does not work."
    assert screen.colour_of("●") == screen.colour_of("not available") == "red"
    assert screen.is_bold("not available")


def test_status_warns_of_certificates_that_expire(run_server: Any, tmp_path: Path) -> None:
    for name in ("server", "soon"):
        key = Ed25519PrivateKey.generate()
        made = make_certificate(key, subject=name, valid_for=dt.timedelta(days=3, hours=1))
        (tmp_path / f"{name}.key").write_bytes(private_key_pem(key))
        (tmp_path / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
    server = run_server()
    with Client(server.url, key_file=tmp_path / "soon.key", cert_file=tmp_path / "soon.crt", insecure=True) as expiring:
        expiring.version()
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key)}
    screen = run_on_screen("status", "-k", cwd=tmp_path, environment=environment)
    assert screen.lines[0] == "● The server is ready, but something needs attention."
    assert screen.colour_of("●") == "yellow"
    mine, clients = screen.lines[-2:] if screen.lines[-1] else screen.lines[-3:-1]
    assert re.fullmatch(
        r"Warning      the server's certificate expires: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(in [23] days\)", mine
    )
    assert clients.strip() == "the certificate of 1 client expires within 14 days"
    assert screen.colour_of("the server's") == screen.colour_of("the certificate of") == "yellow"
    facts = json.loads(kes("status", "-k", "--json", cwd=tmp_path, environment=environment).stdout)
    assert dt.datetime.fromisoformat(facts["certificate_expires_at"]) > dt.datetime.now(dt.UTC)
    assert facts["client_certificates_expiring"] == 1


def test_identities(show: Show, server: Server, user: Credentials) -> None:
    facts = table(show("identity", "info"))
    created = facts.pop("Created")
    assert is_recent(created)
    assert facts["Identity"] == server.admin.identity
    assert facts["Role"] == "Admin: allowed everything"
    facts = table(show("identity", "info", user.identity))
    assert (facts["Role"], facts["Policy"]) == ("User", "app")
    screen = show("identity", "info", KES_API_KEY=str(user.api_key))
    assert table(screen)["Policy"] == "app"
    tail = [line for line in screen.lines if line][-4:]
    assert tail == ["Allow:", "  · /v1/key/*", "Deny:", "  · /v1/key/delete/*"]
    assert (screen.colour_of("Allow:"), screen.colour_of("Deny:")) == ("green", "red")
    listing = [line.split() for line in show("identity", "ls").lines if line]
    rows = sorted([[server.admin.identity, "admin", "-"], [user.identity, "user", "app"]])
    assert listing == [["Identity", "Role", "Policy"], *rows]


def test_policies(show: Show, server: Server) -> None:
    facts = table(show("policy", "info", "app"))
    assert is_recent(facts["Created"])
    assert (facts["Name"], facts["Created by"]) == ("app", server.admin.identity)
    listing = show("policy", "ls")
    assert [line for line in listing.lines if line] == ["Policy", "app", "nothing"]
    assert listing.is_bold("Policy")
    assert [line for line in show("policy", "show", "nothing").lines if line] == ["The policy allows nothing."]
    assert show("policy", "show", "app").lines[0] == "Allow:"


def test_keys(show: Show) -> None:
    screen = show("key", "info", "my-key")
    facts = table(screen)
    assert is_recent(facts["Created"])
    assert list(facts) == ["Name", "Algorithm", "Created", "Created by"]
    assert [line for line in show("key", "ls").lines if line] == ["Key", "my-key"]
    assert [line for line in show("ls", "my").lines if line] == ["Key", "my-key"]
    dek = show("key", "dek", "my-key").lines
    assert (dek[0], dek[-1] or dek[-2]) == ("{", "}")
    assert show("key", "create", "one-more").lines == [""]
    assert show("key", "rm", "one-more").lines == [""]


def test_errors(show: Show, user: Credentials) -> None:
    assert show("key", "info", "none", code=1).lines[0] == 'Error: failed to describe key "none": key does not exist'
    refused = show("key", "rm", "my-key", code=1, KES_API_KEY=str(user.api_key))
    assert refused.lines[0] == 'Error: failed to delete key "my-key": not authorized: insufficient permissions'
    dead = f"127.0.0.1:{free_port()}"
    assert "Connection refused" in "".join(show("status", code=1, KES_SERVER=dead).lines)


@pytest.mark.parametrize("setting", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_colours_are_left_out_where_they_are_not_wanted(show: Show, setting: dict[str, str]) -> None:
    for arguments in (["status"], ["policy", "show", "app"], ["identity", "info"]):
        screen = show(*arguments, **setting)
        assert not any(cell.colour for row in screen._rows for cell in row)


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["metric"],
        ["identity", "info"],
        ["identity", "ls"],
        ["policy", "info", "app"],
        ["policy", "ls"],
        ["policy", "show", "app"],
        ["key", "info", "my-key"],
        ["key", "ls"],
        ["ls"],
    ],
    ids=" ".join,
)
def test_a_script_asks_for_json(arguments: list[str], environment: dict[str, str], tmp_path: Path, show: Show) -> None:
    piped = json.loads(kes(*arguments, "-k", "--json", cwd=tmp_path, environment=environment).stdout)
    asked_for = json.loads("".join(show(*arguments, "--json").lines))
    assert type(asked_for) is type(piped)
    if isinstance(piped, dict):
        assert asked_for.keys() == piped.keys()


# Text with control sequences


TIME = "2026-01-02T03:04:05Z"
"""A valid time, without which the client would refuse the answer."""
NASTY = "a\x1b]0;owned\x07b\x1b[2Jc\u202ed\x9be"
SHOWN = r"a\x1b]0;owned\x07b\x1b[2Jc\u202ed\x9be"


class NastyServer(BaseHTTPRequestHandler):
    """Answers with names and messages that contain terminal sequences. The real server has no such names."""

    def do_GET(self) -> None:
        facts = {"created_at": TIME, "created_by": NASTY, "name": NASTY, "policy": NASTY, "identity": NASTY}
        patterns = {"allow": {NASTY: {}}, "deny": {NASTY: {}}, "algorithm": NASTY, "admin": False}
        listing = {"names": [NASTY], "identities": [NASTY], "message": NASTY, "version": NASTY, "commit": NASTY}
        numbers = dict.fromkeys(["uptime", "num_cpu", "num_cpu_used", "mem_heap_used", "mem_stack_used"], 1)
        state = {"os": NASTY, "arch": NASTY, "keystore_unavailable": True, "keystore_reason": NASTY}
        if self.path.startswith("/v1/key/"):
            listing |= {"version": "2", "state": NASTY}
        body = json.dumps(facts | patterns | listing | numbers | state | {"certificate_expires_at": TIME}).encode()
        events = {
            "/v1/log/audit": {
                "time": TIME,
                "request": {"ip": NASTY, "path": NASTY, "identity": NASTY},
                "response": {"code": 200, "time": 1},
            },
            "/v1/log/error": {"message": f"{NASTY}\n{NASTY}"},
        }
        if self.path in events:  # like the Go server, which escapes only the lowest control characters
            body = json.dumps(events[self.path], ensure_ascii=False).encode() + b"\n"
        self.send_response(403 if self.path.endswith("refused") else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        pass


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    key, cert = make_server_certificate(tmp_path_factory.mktemp("nasty"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), NastyServer) as http:
        http.socket = context.wrap_socket(http.socket, server_side=True)
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"https://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("arguments", "code", "times"),
    [
        (["status"], 0, 4),
        (["key", "ls"], 0, 1),
        (["key", "info", "x"], 0, 4),
        (["key", "info", "refused"], 1, 1),
        (["policy", "ls"], 0, 1),
        (["policy", "info", "x"], 0, 2),
        (["policy", "show", "x"], 0, 2),
        (["identity", "info"], 0, 5),
        (["identity", "ls"], 0, 2),
        (["ls", "-i"], 0, 1),
        (["log"], 1, 1),
        (["log", "--error"], 1, 2),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_no_text_of_a_server_is_obeyed_by_the_terminal(
    nasty: str, arguments: list[str], code: int, times: int, show: Show
) -> None:
    """The test's terminal rejects every sequence and control character except the few that we use."""
    screen = show(*arguments, code=code, KES_SERVER=nasty)
    assert "".join(screen.lines).count(SHOWN) == times, screen.lines


@pytest.mark.parametrize("arguments", [["log", "--json"], ["log", "--error", "--json"]], ids=" ".join)
def test_json_on_a_terminal_means_the_same(nasty: str, arguments: list[str], show: Show) -> None:
    screen = show(*arguments, code=1, KES_SERVER=nasty)
    text = "".join(screen.lines)
    event = json.loads(text[: text.index("Error: ")])
    assert NASTY in (event.get("message") or event["request"]["path"])


# Completion


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("completion")
    return {shell: kes("completion", shell, cwd=folder).stdout for shell in ("bash", "zsh", "fish")}


@pytest.fixture
def with_kes() -> dict[str, str]:
    """The environment of a shell that finds `kes`."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("kes ser", ["server"]),
        ("kes m", ["metric", "migrate"]),
        ("kes key e", ["enable", "encrypt"]),
        ("kes log --i", ["--identity", "--insecure", "--ip"]),
        ("kes completion ", ["bash", "zsh", "fish"]),
        ("kes key import x y --cipher C", ["ChaCha20"]),
    ],
)
def test_completion_in_bash(
    typed: str, expected: list[str], scripts: dict[str, str], with_kes: dict[str, str], tmp_path: Path
) -> None:
    """Bash sets these variables and calls the function that is registered for `kes`."""
    (tmp_path / "kes.bash").write_text(scripts["bash"])
    words = typed.split(" ")
    code = (
        'source "$0"; registered=$(complete -p kes); function=${registered##*-F }; function=${function%% *}; '
        f"COMP_WORDS=({' '.join(words[:-1])} '{words[-1]}'); COMP_CWORD={len(words) - 1}; "
        f"$function kes '{words[-1]}' '{words[-2]}'; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )

    command = [program("bash", "bash"), "--norc", "-c", code, str(tmp_path / "kes.bash")]
    done = subprocess.run(command, env=with_kes, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert sorted(done.stdout.split()) == sorted(expected)


def test_completion_in_fish(scripts: dict[str, str], with_kes: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "kes.fish").write_text(scripts["fish"])
    code = f"source {tmp_path / 'kes.fish'}; complete -C 'kes ser'; complete -C 'kes key e'"
    settings = with_kes | {"HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [program("fish", "fish"), "-c", code], env=settings, capture_output=True, text=True, check=True
    )
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == ["server", "enable", "encrypt"]


def test_completion_in_zsh(scripts: dict[str, str], with_kes: dict[str, str], tmp_path: Path) -> None:
    """zsh completes only on an interactive line, so the test looks at what the script gives to zsh."""
    (tmp_path / "kes.zsh").write_text(scripts["zsh"])
    code = (
        "autoload -U compinit; compinit -D; source $0; _describe() { print -l ${(P)3} }; "
        "words=(kes ser); CURRENT=2; ${_comps[kes]}"
    )
    done = subprocess.run(
        [program("zsh", "zsh"), "-f", "-c", code, str(tmp_path / "kes.zsh")],
        env=with_kes | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["server:Start a server."]
