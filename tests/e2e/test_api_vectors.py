"""The API answers as the vectors say: routes, behaviour at the edges, examples and errors."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from kes_core.keys.secret import HMACKey, KeyType, SecretKey
from kes_core.keys.stored import KeyVersion, Timestamp
from tests.helpers.certificates import make_credentials
from tests.helpers.server import Server, send_raw, start_server
from tests.helpers.vectors import vectors

ROUTES = vectors("api_routes")
ZERO_IDENTITY = "3ecfcdf38fcbe141ae26a1030f81e96b753365a46760ae6b578698a97c59fd22"
OTHER = "0426fa9a04bc2756b92fbe8a97e1a1e07b53ecf04ed33da22c33e5c9faeb8cbb"
ZERO = KeyVersion(
    SecretKey(bytes(32), KeyType.AES256),
    HMACKey(bytes(32)),
    Timestamp.parse("2023-11-14T22:13:20.123456789Z"),
    ZERO_IDENTITY,
)


def stored(name: str) -> str:
    """Return the stored form of the key of that name in the vectors."""
    encodings = vectors("key_encoding")
    found = {case["name"]: case.get("encoded") or case.get("raw") for case in encodings["encode"] + encodings["cases"]}
    text: str = found[name]
    return text


@pytest.fixture(scope="module")
def vector_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a directory that already holds the vectors' keys, as if another server had stored them."""
    directory = tmp_path_factory.mktemp("vectors")
    keys = directory / "keys"
    keys.mkdir(mode=0o700)
    entries = {
        "zero": ZERO.encode().decode("ascii"),
        "old-json": stored("json, bytes only: 32 zero bytes"),
        "broken": stored("protobuf, key of 16 bytes"),
        "no-hmac": stored("protobuf, no HMAC key"),
        "void": "",
    }
    for name, text in entries.items():
        (keys / name).write_text(text)
        (keys / name).chmod(0o600)
    policy = {
        "my-policy": {
            "allow": ["/v1/key/create/my*", "/v1/key/list/*", "/v1/status"],
            "deny": ["/v1/key/create/my-secret*"],
            "identities": [OTHER],
        },
        "empty": {},
    }
    server = start_server(directory, {"keystore": {"fs": {"path": str(keys)}}, "policy": policy})
    yield server
    assert server.stop() == 0


def request(server: Server, text: str, *, http2: bool, **options: Any) -> httpx.Response:
    """Send the request that a vector writes as `METHOD /path`, without normalising the path."""
    method, path = text.split(" ", 1)
    with server.client(http2=http2) as client:
        return send_raw(client, method, path, **options)


def test_api_lists_every_route_with_its_limits(vector_server: Server) -> None:
    with vector_server.client() as client:
        listed = {entry["path"]: entry for entry in client.get("/v1/api").json()}
    for case in ROUTES["cases"]:
        assert listed[case["path"]] == {
            "method": case["method"],
            "path": case["path"],
            "max_body": case["max_body"],
            "timeout": case["timeout_seconds"],
        }
    assert listed["/v1/key/bulk/decrypt/"]["method"] == "PUT"


EDGES = [
    case
    for case in ROUTES["behaviour"]
    # These cases need other settings (see test_authorization), or are mistakes or gaps of the Go server.
    if "skip_auth" not in case["meaning"]
    and "certificate" not in case["meaning"]
    and "bulk" not in case["meaning"]
    and "tls_alert" not in case
]


@pytest.mark.parametrize("http2", [False, True], ids=["h1", "h2"])
@pytest.mark.parametrize("case", EDGES, ids=[f"{case['request']}: {case['meaning']}" for case in EDGES])
def test_behaviour(vector_server: Server, case: dict[str, Any], http2: bool, request_body: Any) -> None:
    text = case["request"]
    options: dict[str, Any] = {}
    if "create/my-" in text:
        text += "-2" if http2 else "-1"
    if (body := request_body(case)) is not None:
        options["content"] = body
    response = request(vector_server, text, http2=http2, **options)
    assert response.status_code == case["status"], response.text
    if "accept_header" in case:
        assert response.headers["accept"] == case["accept_header"]
    if "message" in case and not text.startswith("HEAD"):
        assert response.json() == {"message": case["message"]}
    if "location" in case:
        assert response.headers["location"] == case["location"]
    elif "content_type" in case:
        assert response.headers["content-type"] == case["content_type"]
    assert "content-length" in response.headers
    if case["meaning"] == "success without content":
        assert response.headers["content-length"] == "0"
        assert "content-type" not in response.headers


@pytest.fixture
def request_body() -> Any:
    """Make the body that a vector describes."""

    def make(case: dict[str, Any]) -> bytes | Iterator[bytes] | None:
        meaning: str = case["meaning"]
        size: int = case.get("body_bytes", 0)
        if "body" in case:
            return str(case["body"]).encode()
        if "blanks over the limit" in meaning:
            return b'{"message":"AAAA"}' + b" " * (size - 18)
        if size:
            frame = b'{"plaintext":""}'
            filler = base64.b64encode(bytes(3 * 250_000))
            filler = filler[: (size - len(frame)) // 4 * 4]
            body = b'{"plaintext":"' + filler + b'"'
            return body + b" " * (size - len(body) - 1) + b"}"
        if "without a content length" in meaning:
            return iter([b'{"message":', b'"AAAA"}'])
        if "not read" in meaning:
            return b"this is not looked at"
        return None

    return make


# Other tests cover imported keys (test_keys) and a store that is down (test_store_failures).
EXAMPLES = [
    case
    for case in ROUTES["examples"]
    if "imp" not in case["request"] and "does not answer" not in case.get("note", "")
]


OWN_STATUS = {"workers", "keystore", "policies", "identities", "certificate_expires_at"}
"""What only this server says of its state (docs/protocol.md). Clients of the Go server ignore it."""


@pytest.mark.parametrize("case", EXAMPLES, ids=[f"{case['request']} {case.get('note', '')}" for case in EXAMPLES])
def test_examples(vector_server: Server, case: dict[str, Any]) -> None:
    method, path = case["request"].split(" ")
    path = path.replace(ZERO_IDENTITY, vector_server.admin.identity)
    body = case.get("body", {} if "encrypt" in path else None)
    with vector_server.client() as client:
        answer = client.request(method, path, json=body).json()
    expected = {
        name: vector_server.admin.identity if value == ZERO_IDENTITY and "describe/zero" not in path else value
        for name, value in case["response"].items()
    }
    if "identities" in expected:
        expected["identities"] = sorted([OTHER, vector_server.admin.identity])
    volatile = set(case.get("volatile", ()))
    if path == "/v1/status":
        assert answer.keys() - expected.keys() == OWN_STATUS
        answer = {name: value for name, value in answer.items() if name not in OWN_STATUS}
    assert answer.keys() == expected.keys()
    assert {name: value for name, value in answer.items() if name not in volatile} == {
        name: value for name, value in expected.items() if name not in volatile
    }
    for name in volatile & {"ciphertext", "plaintext"}:
        assert len(answer[name]) == len(expected[name])
    if "created_at" in volatile:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", answer["created_at"])


LISTINGS = [case for case in vectors("listing")["api"] if case["api"] != "/v1/key/list/" or case["status"] != 200]


@pytest.mark.parametrize("case", LISTINGS, ids=[f"{case['api']}{case['pattern']}" for case in LISTINGS])
def test_listing_of_policies_and_identities(vector_server: Server, case: dict[str, Any]) -> None:
    pattern = case["pattern"]
    with vector_server.client() as client:
        response = client.get(case["api"] + pattern)
    assert response.status_code == case["status"]
    if case["status"] != 200:
        assert response.json() == {"message": case["message"]}
        return
    member = "identities" if "identity" in case["api"] else "names"
    if member == "identities":
        known = [OTHER, vector_server.admin.identity]
        expected = sorted(name for name in known if name.startswith(pattern.removesuffix("*")))
    else:
        expected = case["names"]
    assert response.json() == {member: expected, "continue_at": case["continue_at"]}


def test_every_listed_error_message_is_the_vectors(vector_server: Server) -> None:
    """Each error that a client can cause has the message and the status of the vectors."""
    key = base64.b64encode(bytes(32)).decode()
    requests = {
        "key does not exist": ("GET", "/v1/key/describe/nothing", None),
        "key already exists": ("PUT", "/v1/key/create/zero", None),
        "policy does not exist": ("GET", "/v1/policy/read/nothing", None),
        "identity does not exist": ("GET", f"/v1/identity/describe/{'0' * 64}", None),
        "decryption failed: ciphertext is not authentic": ("PUT", "/v1/key/decrypt/zero", {"ciphertext": "AAAA"}),
        "key does not support HMAC": ("PUT", "/v1/key/hmac/old-json", {"message": ""}),
        "invalid request body": ("PUT", "/v1/key/generate/zero", {"context": "not base64"}),
        "invalid import key request body": ("PUT", "/v1/key/import/x", {"key": 7}),
        "algorithm 'AES' is not supported": ("PUT", "/v1/key/import/x", {"key": key, "cipher": "AES"}),
        "algorithm '' is not supported": ("PUT", "/v1/key/import/x", {"key": key}),
        "invalid key size for 'AES256'": ("PUT", "/v1/key/import/x", {"key": "AAAA", "cipher": "AES256"}),
        "failed to read key": ("GET", "/v1/key/describe/broken", None),
        "policy name 'a.b' is empty, too long or contains invalid characters": ("GET", "/v1/policy/read/a.b", None),
        "identity 'a.b' is empty, too long or contains invalid characters": ("GET", "/v1/identity/describe/a.b", None),
        "listing pattern 'a.b' is empty, too long or is invalid": ("GET", "/v1/key/list/a.b", None),
    }
    known = {re.sub(r"\{\w+\}", "*", case["message"]): case["status"] for case in vectors("errors")["cases"]}
    with vector_server.client() as client:
        for message, (method, path, body) in requests.items():
            response = client.request(method, path, json=body) if body else client.request(method, path)
            assert response.json() == {"message": message}
            general = re.sub(r"'[^']*'", "'*'", message)
            assert response.status_code == known[general], message


def test_slips_of_the_go_server_with_stored_keys(vector_server: Server) -> None:
    """An empty stored value is an error, and the log names the entry; a missing HMAC key is not an error."""
    with vector_server.client() as client:
        void = client.get("/v1/key/describe/void")
        assert (void.status_code, void.json()) == (502, {"message": "failed to read key"})
        assert "failed to read key" in vector_server.wait_for_log("'void'")
        data_key = client.put("/v1/key/generate/no-hmac").json()
        opened = client.put("/v1/key/decrypt/no-hmac", json={"ciphertext": data_key["ciphertext"]}).json()
        assert opened == {"plaintext": data_key["plaintext"]}
        assert client.put("/v1/key/hmac/no-hmac", json={}).status_code == 409


def test_no_client_loses_a_name(run_server: Any) -> None:
    """3,000 keys come in three pages, and `continue_at` keeps the prefix, the star and the position."""
    names = [f"key-{number:04}" for number in range(3000)]
    server = run_server({"keys": [{"name": name} for name in [*names, "other"]]})
    with server.client() as client:
        for pattern in ("key", "key-*", "k*"):
            seen: list[str] = []
            place = pattern
            pages = 0
            while place:
                page = client.get(f"/v1/key/list/{place}").json()
                seen += page["names"]
                place = page.get("continue_at", "")
                pages += 1
            assert seen == names
            assert pages == 3
        assert client.get("/v1/key/list/nothing").json() == {"names": []}


def test_curl_decrypts_what_curl_encrypted(server: Server) -> None:
    """An independent client works over both versions of HTTP."""
    curl = shutil.which("curl")
    assert curl, "curl is needed: apt install curl"
    credentials = server.admin

    def call(version: str, path: str, body: str = "") -> str:
        files = ["--key", str(credentials.key), "--cert", str(credentials.cert)]
        command = [curl, "-sS", "-k", version, *files, "-X", "PUT"]
        data = ["-d", body] if body else []
        done = subprocess.run([*command, *data, server.url + path], check=True, capture_output=True, text=True)
        return done.stdout

    for version in ("--http1.1", "--http2"):
        name = "curl" + version.strip("-").replace(".", "")
        assert call(version, f"/v1/key/create/{name}") == ""
        data_key = json.loads(call(version, f"/v1/key/generate/{name}"))
        body = json.dumps({"ciphertext": data_key["ciphertext"]})
        opened = json.loads(call(version, f"/v1/key/decrypt/{name}", body))
        assert opened["plaintext"] == data_key["plaintext"]


def test_openssl_s_client_gets_an_answer(server: Server) -> None:
    openssl = shutil.which("openssl")
    assert openssl, "openssl is needed: apt install openssl"
    files = ["-key", str(server.admin.key), "-cert", str(server.admin.cert)]
    arguments = ["-connect", f"127.0.0.1:{server.port}", *files]
    done = subprocess.run(
        [openssl, "s_client", "-quiet", *arguments],
        input=b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.stdout.startswith(b"HTTP/1.1 200"), done.stderr
    assert b'"version":"' in done.stdout


def test_a_client_with_another_certificate_is_another_identity(server: Server, tmp_path: Path) -> None:
    stranger = make_credentials(tmp_path, "stranger")
    with server.client(stranger) as client:
        response = client.get("/v1/identity/self/describe")
    assert (response.status_code, response.json()) == (404, {"message": "identity does not exist"})
