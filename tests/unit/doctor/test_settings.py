"""Settings that the server accepts and the doctor criticizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_core.doctor.clients import CLIENTS, client_policy
from kes_core.doctor.settings import examine_api, examine_cache, examine_policies, examine_proxies
from kes_core.findings import Finding
from kes_core.protocol import ROUTES
from tests.helpers.certificates import make_server_certificate
from tests.helpers.doctor import ADMIN, CLIENT, config, finding_with, levels


def policies(directory: Path, *, admin: str = ADMIN, **policy: Any) -> list[Finding]:
    return list(examine_policies(config(directory, admin={"identity": admin}, policy=policy)))


def rules(directory: Path, *allow: str, deny: list[str] | None = None) -> list[Finding]:
    return policies(directory, p={"allow": list(allow), "deny": deny or [], "identities": [CLIENT]})


def test_policy_without_fault(tmp_path: Path) -> None:
    (found,) = rules(tmp_path, "/v1/key/create/my-*", "/v1/key/list/*", deny=["/v1/key/create/my-secret"])
    assert found.level == "ok"
    assert found.message == "'p' has 1 client and 3 rules, and each rule matches some API"


@pytest.mark.parametrize(
    ("pattern", "cure"),
    [
        ("/v1/key/generat/my-key*", "the closest is /v1/key/generate/my-key*"),
        ("/v1/key/generate", "a name follows in the path: /v1/key/generate/*"),
        ("/v1/key/bulk/decrypt", "a name follows in the path: /v1/key/bulk/decrypt/*"),
        ("/v1/key/list", "a name follows in the path: /v1/key/list/*"),
        ("/v1/metric", "the closest is /v1/metrics"),
        ("/v1/status/", "the closest is /v1/status"),
        ("/v1/key/create/a.b", "does not begin, a valid name"),
        ("/v1/key/create/a.*", "does not begin, a valid name"),
        ("/v1/key/*/my-key", "end it at the first *: /v1/key/*"),
        ("/v1/key/create/my%2Dkey", "write the characters themselves"),
        ("v1/key/create/*", "the closest is /v1/key/create/*"),
        ("nonsense", "`kes status --api` lists the APIs"),
        ("", "remove it"),
    ],
)
def test_rule_that_matches_no_api(tmp_path: Path, pattern: str, cure: str) -> None:
    for kind, found in (
        ("allow", rules(tmp_path, pattern)),
        ("deny", rules(tmp_path, "/v1/status", deny=[pattern])),
    ):
        (wrong,) = found
        assert wrong.level == "warning"
        assert f"{kind} rule {pattern!r} of policy 'p'" in wrong.message
        assert "match" in wrong.message
        assert cure in wrong.cure


def test_rules_that_match_some_api(tmp_path: Path) -> None:
    """Rules with each path of the API, with and without names, and with their prefixes, get no warning."""
    patterns = [route.path if route.argument is None else route.path + "my-key" for route in ROUTES]
    needless = {"/version", "/v1/identity/self/describe"}
    patterns = [pattern for pattern in patterns if pattern not in needless]
    patterns += [route.path + "*" for route in ROUTES if route.argument is not None]
    patterns += [
        "/v1/key/create/my-*",
        "/v1/key/list/",
        "/v1/key/list/my-*",
        "/v1/log/*",
        "/v1/k*",
        "/v1/key/create/_*",
    ]
    assert levels(rules(tmp_path, *patterns)) == {"ok"}


def test_rules_without_effect(tmp_path: Path) -> None:
    covered = finding_with(
        rules(tmp_path, "/v1/key/create/a*", deny=["/v1/key/*"]), "has no effect: deny rule '/v1/key/*'"
    )
    assert covered.level == "warning"
    for path in ("/version", "/v1/identity/self/describe"):
        assert finding_with(rules(tmp_path, path), "no policy is asked about this API").level == "warning"
    assert finding_with(rules(tmp_path, "/v1/*"), "allows everything, as to the admin").level == "note"


def test_identities_that_nobody_has(tmp_path: Path) -> None:
    for identity, cure in (("MyApp", "64 hex digits"),):
        found = finding_with(
            policies(tmp_path, p={"allow": ["/v1/status"], "identities": [identity]}), "no client has it"
        )
        assert (found.level, repr(identity) in found.message, cure in found.cure) == ("warning", True, True)


def test_policies_that_do_nothing(tmp_path: Path) -> None:
    assert (
        finding_with(policies(tmp_path, p={"allow": ["/v1/status"]}), "no identity has the policy 'p'").level == "note"
    )
    assert finding_with(policies(tmp_path, p={"identities": [CLIENT]}), "policy 'p' allows nothing").level == "warning"
    assert policies(tmp_path) == []
    assert finding_with(policies(tmp_path, admin="disabled"), "no client may do anything").level == "warning"


def test_proxies(tmp_path: Path) -> None:
    key, cert = make_server_certificate(tmp_path)

    def proxies(**proxy: Any) -> list[Finding]:
        tls = {"key": str(key), "cert": str(cert), "proxy": proxy}
        return list(examine_proxies(config(tmp_path, tls=tls)))

    assert proxies() == []
    assert finding_with(proxies(header={"cert": "X-Client"}), "no proxy is named").level == "warning"
    found = finding_with(proxies(identities=[CLIENT]), "can act as any client")
    assert (found.level, "'X-Tls-Client-Cert'" in found.message) == ("note", True)
    assert finding_with(proxies(identities=[CLIENT], header={"cert": "X Client"}), "name of a header").level == "error"
    assert finding_with(proxies(identities=["nginx"]), "no proxy has it").level == "warning"


def test_open_api(tmp_path: Path) -> None:
    assert list(examine_api(config(tmp_path, api={"/v1/ready": {"timeout": "1s"}}))) == []
    found = finding_with(
        examine_api(config(tmp_path, api={"/v1/metrics": {"skip_auth": True}})), "/v1/metrics: any program"
    )
    assert found.level == "note"


def test_cache(tmp_path: Path) -> None:
    def cache(**expiry: str) -> list[Finding]:
        fs = {"fs": {"path": str(tmp_path / "keys")}}
        return list(examine_cache(config(tmp_path, keystore=fs, cache={"expiry": expiry})))

    assert cache(offline="1h") == []
    off = finding_with(cache(), "cache.expiry.offline is off")
    assert (off.level, "(30s after their last use)" in off.message) == ("note", True)
    assert finding_with(cache(offline="1h", any="0s"), "cache.expiry.any is off").level == "note"
    assert finding_with(cache(offline="1h", any="1m", unused="5m"), "unused (5m) has no effect").level == "note"
    assert (
        finding_with(cache(offline="10s"), "offline (10s) is shorter than cache.expiry.unused (30s)").level == "warning"
    )
    assert list(examine_cache(config(tmp_path))) == []  # the key store is in memory


@pytest.mark.parametrize("client", sorted(CLIENTS))
def test_policies_for_clients(tmp_path: Path, client: str) -> None:
    """The policies are valid, match APIs, and name the variables that they need."""
    section = yaml.safe_load(client_policy(client, key="my-*", identities=[CLIENT]))
    assert list(section["policy"]) == [client]
    assert levels(examine_policies(config(tmp_path, **section))) == {"ok"}
    keys = [rule for rule in section["policy"][client]["allow"] if "/key/" in rule]
    assert all(rule.endswith("/my-*") for rule in keys)
    open_section = yaml.safe_load(client_policy(client, name="their-policy"))
    assert open_section["policy"]["their-policy"]["identities"] == ["${THEIR_POLICY_IDENTITY}"]
