"""Each check that can refuse a request, and its reason."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID

from kes_core.doctor.decision import Requester, explain
from kes_core.findings import Finding
from kes_core.identity import APIKey
from tests.helpers.certificates import Pair, make_certificate, make_server_certificate, write_pair
from tests.helpers.doctor import ADMIN, CLIENT, PLUGINS, config

PATH = "/v1/key/generate/my-key"
POLICY = {
    "my-app": {
        "allow": ["/v1/key/generate/my-*", "/v1/key/list/*"],
        "deny": ["/v1/key/generate/my-secret*"],
        "identities": [CLIENT],
    },
    "decrypters": {"allow": ["/v1/key/decrypt/*"], "identities": []},
}


def ask(
    directory: Path, asker: Requester | str, path: str = PATH, *, method: str = "", **overrides: Any
) -> list[Finding]:
    settings = config(directory, **{"policy": POLICY, **overrides})
    client = Requester(asker) if isinstance(asker, str) else asker
    return list(asyncio.run(explain(settings, PLUGINS, client, path, method=method, address="10.1.2.3")))


def refusal(*arguments: Any, **options: Any) -> tuple[str, str, str]:
    """Return the check that refuses a request, its reason and its cure; all earlier checks must pass."""
    *passed, last = ask(*arguments, **options)
    assert {finding.level for finding in passed} <= {"ok", "note"}
    assert last.level == "error"
    return last.subject, last.message, last.cure


def allowance(*arguments: Any, **options: Any) -> str:
    """Return the reason why a request is allowed."""
    found = ask(*arguments, **options)
    assert [finding.subject for finding in found] == ["tls", "route", "certificate", "policy", "decision"]
    assert found[-1].message.startswith("allowed: ")
    return found[3].message


def test_rules(tmp_path: Path) -> None:
    assert allowance(tmp_path, CLIENT) == "allowed: rule '/v1/key/generate/my-*' of policy 'my-app'"
    assert allowance(tmp_path, ADMIN) == "allowed: this is the admin, who may do everything"
    layer, reason, cure = refusal(tmp_path, CLIENT, "/v1/key/generate/other")
    assert layer == "policy"
    assert reason == ("denied: no allow rule of policy 'my-app' matches; the closest is '/v1/key/generate/my-*' (403)")
    assert cure.startswith("add '/v1/key/generate/other', or a rule like it that ends in *, to policy.my-app.allow")
    _layer, reason, cure = refusal(tmp_path, CLIENT, "/v1/key/generate/my-secret-1")
    assert reason == "denied by policy 'my-app': its deny rule '/v1/key/generate/my-secret*' matches (403)"
    assert "policy.my-app.deny" in cure


def test_identity_in_no_policy(tmp_path: Path) -> None:
    stranger = "1" * 64
    layer, reason, cure = refusal(tmp_path, stranger)
    assert (layer, reason) == ("policy", "denied: the identity is in no policy (403)")
    assert cure == "add the identity to policy.my-app.identities, and reload (kill -HUP)"
    assert "no policy allows this path yet" in refusal(tmp_path, stranger, "/v1/key/delete/my-key")[2]
    assert "kes doctor client-policy" in refusal(tmp_path, stranger, policy={})[2]
    assert "in no policy" in refusal(tmp_path, ADMIN, admin={"identity": "disabled"})[1]


@pytest.mark.parametrize(
    ("path", "method", "layer", "reason"),
    [
        ("/v1/key/generat/my-key", "", "route", "there is no API '/v1/key/generat/my-key' (404)"),
        ("/v1/key/generate", "", "route", "a name is missing; the client is sent to /v1/key/generate/ (307)"),
        (
            "/v1//key/generate/my-key",
            "",
            "route",
            "empty parts or dots; the client is sent to /v1/key/generate/my-key (307)",
        ),
        ("v1/key/generate/my-key", "", "route", "is not a path"),
        (PATH, "GET", "method", "/v1/key/generate/ takes PUT, not GET"),
        (
            "/v1/key/generate/my-.",
            "",
            "name",
            "key name 'my-.' is empty, too long or contains",
        ),
        ("/v1/key/list/a*b", "", "name", "listing pattern 'a*b' is empty, too long or is invalid (400)"),
    ],
)
def test_requests_that_no_client_may_make(tmp_path: Path, path: str, method: str, layer: str, reason: str) -> None:
    found = refusal(tmp_path, CLIENT, path, method=method)
    assert found[0] == layer
    assert reason in found[1]
    assert found[2]


def test_spellings_of_the_same_request(tmp_path: Path) -> None:
    url = f"https://127.0.0.1:7373{PATH}?x=1"
    for path, method in ((PATH, "post"), (PATH, "PUT"), (url, ""), ("/v1/key/generate/my%2Dkey", "")):
        assert allowance(tmp_path, CLIENT, path, method=method).startswith("allowed: rule ")
    assert allowance(tmp_path, CLIENT, "/v1/key/list/").endswith("'/v1/key/list/*' of policy 'my-app'")


def test_without_certificate(tmp_path: Path) -> None:
    layer, reason, _cure = refusal(tmp_path, Requester.anonymous())
    assert (layer, reason) == ("tls", "denied: the handshake fails, since the client presents no certificate")
    api = {"/v1/ready": {"skip_auth": True}}
    assert (
        allowance(tmp_path, Requester.anonymous(), "/v1/ready", api=api) == "allowed: no policy is needed for this API"
    )
    assert (
        allowance(tmp_path, Requester.anonymous(), "/version", api=api) == "allowed: no policy is needed for this API"
    )
    layer, reason, _cure = refusal(tmp_path, Requester.anonymous(), api=api)
    assert (layer, reason) == ("certificate", "denied: tls: client certificate is required (400)")


def test_certificates_that_are_no_client(tmp_path: Path) -> None:
    authority, one, two = make_certificate("A CA", ca=True), make_certificate("one"), make_certificate("two")
    write_pair(tmp_path, authority, name="ca")
    assert "client certificate is required" in refusal(tmp_path, Requester.from_file(tmp_path / "ca.crt"))[1]
    write_pair(tmp_path, one, two, name="both")
    assert "more than one client certificate" in refusal(tmp_path, Requester.from_file(tmp_path / "both.crt"))[1]


def test_verified_certificates(tmp_path: Path) -> None:
    """With `tls.auth: on`, the doctor explains why a certificate is refused, which the handshake does not."""
    ca, stranger = (
        make_certificate("A CA", ca=True, names=(), usages=None),
        make_certificate("Another", ca=True, names=(), usages=None),
    )
    write_pair(tmp_path, ca, name="ca")
    key, cert = make_server_certificate(tmp_path)
    tls = {"key": str(key), "cert": str(cert), "auth": "on", "ca": str(tmp_path / "ca.crt")}

    def client(pair: Pair) -> Requester:
        write_pair(tmp_path, pair, name="client")
        return Requester.from_file(tmp_path / "client.crt")

    good = client(make_certificate("app", issuer=ca))
    policy = {"p": {"allow": ["/v1/*"], "identities": [good.identity]}}
    assert allowance(tmp_path, good, tls=tls, policy=policy) == "allowed: rule '/v1/*' of policy 'p'"
    for pair, why in (
        (
            make_certificate("app", issuer=stranger),
            "issued by 'CN=Another', is refused: it is not issued by a CA in tls.ca",
        ),
        (make_certificate("app"), "it is self-signed"),
        (make_certificate("app", issuer=ca, begins=-9, days=-1), "has expired on"),
        (
            make_certificate("app", issuer=ca, usages=[ExtendedKeyUsageOID.SERVER_AUTH]),
            "is not meant for TLS clients (extended key usage)",
        ),
    ):
        layer, reason, _cure = refusal(tmp_path, client(pair), tls=tls)
        assert layer == "tls"
        assert why in reason
    assert "it is self-signed" in refusal(tmp_path, key_file(tmp_path), tls=tls)[1]
    assert ask(tmp_path, CLIENT, tls=tls)[0].level == "note"  # the doctor knows only the identity


def key_file(directory: Path) -> Requester:
    api_key = APIKey.generate()
    (directory / "api.key").write_text(f"{api_key}\n")
    asker = Requester.from_file(directory / "api.key")
    assert asker.identity == api_key.identity
    return asker


def test_files_that_are_no_client(tmp_path: Path) -> None:
    write_pair(tmp_path, make_certificate("app"), name="app")
    (tmp_path / "text").write_text("kes:v1:secret")
    for name, problem in (
        ("none", "can't be read: No such file"),
        ("text", "holds neither a certificate nor an API key"),
        ("app.key", "holds no valid certificate: give the certificate (not the private key)"),
    ):
        with pytest.raises(ValueError, match=re.escape(problem)) as caught:
            Requester.from_file(tmp_path / name)
        assert "secret" not in str(caught.value)


def test_proxy(tmp_path: Path) -> None:
    proxy = "2" * 64
    key, cert = make_server_certificate(tmp_path)
    tls = {"key": str(key), "cert": str(cert), "proxy": {"identities": [proxy]}}
    layer, reason, cure = refusal(tmp_path, proxy, tls=tls)
    assert (layer, "need the header X-Tls-Client-Cert" in reason) == ("certificate", True)
    assert "tls.proxy.identities" in cure


def test_other_policy_engines_are_asked(tmp_path: Path) -> None:
    """As in the server, engines see the facts of the request; one denial refuses it, and one engine has to allow it."""
    file = tmp_path / "policies.cedar"
    engines = {"cedar": {"policies": str(file)}}
    stranger = "1" * 64
    file.write_text(
        '@id("office") permit(principal, action, resource) when { context.remote_address == ip("10.1.2.3") };'
    )
    assert "cedar: " in allowance(tmp_path, stranger, policy_engines=engines)
    assert "office" in allowance(tmp_path, stranger, policy_engines=engines)
    file.write_text('@id("never") forbid(principal, action == KES::Action::"GenerateKey", resource);')
    *_, static, last = ask(tmp_path, CLIENT, policy_engines=engines)
    assert static.message == "allowed: rule '/v1/key/generate/my-*' of policy 'my-app'"
    assert "denied by the policy engine 'cedar': forbidden by" in last.message
    assert "never" in last.message
    file.write_text('forbid(principal, action == KES::Action::"Decrypt", resource);')
    _layer, reason, _cure = refusal(tmp_path, stranger, policy_engines=engines)
    assert reason == "denied: the identity is in no policy; cedar: no policy matches (403)"
    file.unlink()
    assert "the server does not start" in refusal(tmp_path, CLIENT, policy_engines=engines)[1]
