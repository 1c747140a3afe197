"""The Cedar engine in a real server: with static policies, after reloads, with broken files, and as in the README."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kes_cedar.requests import OPERATIONS
from tests.helpers.certificates import Credentials, make_credentials
from tests.helpers.server import Server, write_config

RunServer = Callable[..., Server]
README = Path(__file__).parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README.read_text(), re.DOTALL | re.MULTILINE)


def status(server: Server, who: Credentials, method: str, path: str) -> int:
    with server.client(who) as client:
        return client.request(method, path).status_code


@pytest.fixture
def app(tmp_path: Path) -> Credentials:
    return make_credentials(tmp_path, "app")


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    """A file with policies that a test may change."""
    file = tmp_path / "policies.cedar"
    file.write_text('@id("all") permit(principal, action, resource);')
    return file


def engine(policies: Path, **fields: Any) -> dict[str, Any]:
    return {"policy_engines": {"cedar": {"policies": [str(policies)], **fields}}}


def test_example_of_the_readme(run_server: RunServer, tmp_path: Path) -> None:
    tenant, operator = make_credentials(tmp_path, "tenant"), make_credentials(tmp_path, "operator")
    (config,), (rules,), (entities,) = blocks("yaml"), blocks("cedar"), blocks("json")
    identities = [entity["uid"]["id"] for entity in json.loads(entities) if "Identity" in entity["uid"]["type"]]
    for shown, real in zip(identities, (tenant.identity, operator.identity), strict=True):
        entities = entities.replace(shown, real)
    (tmp_path / "policies").mkdir()
    (tmp_path / "policies" / "keys.cedar").write_text(rules)
    (tmp_path / "entities.json").write_text(entities)
    server = run_server(yaml.safe_load(config.replace("/etc/kes", str(tmp_path))))

    key = "tenant-a-archive"
    assert status(server, tenant, "PUT", f"/v1/key/create/{key}") == 403
    assert status(server, operator, "PUT", f"/v1/key/create/{key}") == 200
    assert status(server, tenant, "PUT", f"/v1/key/generate/{key}") == 200
    assert status(server, operator, "PUT", f"/v1/key/generate/{key}") == 403
    assert status(server, tenant, "GET", "/v1/key/list/tenant-a-*") == 200
    assert status(server, tenant, "GET", "/v1/key/list/") == 403
    assert status(server, operator, "GET", "/v1/metrics") == 200
    assert status(server, tenant, "GET", "/v1/metrics") == 403
    assert status(server, operator, "PUT", "/v1/key/create/other") == 200
    assert status(server, operator, "DELETE", "/v1/key/delete/other") == 200
    assert status(server, operator, "DELETE", f"/v1/key/delete/{key}") == 403
    line = server.wait_for_log("nobody-deletes-production-keys")
    assert f"{tmp_path}/policies/keys.cedar:17)" in line
    assert status(server, server.admin, "DELETE", f"/v1/key/delete/{key}") == 200


def test_table_of_the_readme() -> None:
    schema = (Path(__file__).parents[1] / "kes_cedar" / "kes.cedarschema").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| `KES::(\w+)` \| `(\S+)` \|$", README.read_text(), re.MULTILINE)
    assert {route: (action, resource) for action, _group, resource, route in rows} == OPERATIONS
    for action, group, resource, _route in rows:
        declared = rf"action (?:\w+, )*{action}(?:, \w+)* in \[{group}\]\s+appliesTo {{ [^}}]*resource: {resource},"
        assert re.search(declared, schema), action
    members = schema.partition("type Request")[2].partition("};")[0]
    facts = re.findall(r"^    (\w+)\??: ", members, re.MULTILINE)
    assert (
        re.findall(r"^\| `([a-z_]+)` \| (?:String|ipaddr|datetime|record)", README.read_text(), re.MULTILINE) == facts
    )


def test_forbid_and_static_deny_both_win(run_server: RunServer, policies: Path, app: Credentials) -> None:
    policies.write_text(
        'permit(principal, action, resource); forbid(principal, action, resource == KES::Key::"forbidden");'
    )
    static = {"policy": {"p": {"allow": ["/v1/*"], "deny": ["/v1/key/create/denied"], "identities": [app.identity]}}}
    server = run_server({**engine(policies), **static})
    assert status(server, app, "PUT", "/v1/key/create/free") == 200
    assert status(server, app, "PUT", "/v1/key/create/forbidden") == 403
    assert status(server, app, "PUT", "/v1/key/create/denied") == 403
    server.wait_for_log("static: denied by policy")


@pytest.mark.parametrize(("default", "expected"), [("abstain", 200), ("deny", 403)])
def test_what_no_policy_matches(
    run_server: RunServer, policies: Path, app: Credentials, default: str, expected: int
) -> None:
    policies.write_text('permit(principal, action == KES::Action::"HMAC", resource);')
    static = {"policy": {"p": {"allow": ["/v1/status"], "identities": [app.identity]}}}
    server = run_server({**engine(policies, default=default), **static})
    assert status(server, app, "GET", "/v1/status") == expected
    assert status(server, app, "GET", "/v1/metrics") == 403


def test_reload_takes_over_new_policies_and_refuses_broken_ones(
    run_server: RunServer, policies: Path, app: Credentials
) -> None:
    server = run_server(engine(policies))
    assert status(server, app, "GET", "/v1/status") == 200
    policies.write_text("forbid(principal, action, resource);\n\npermit(principal, action, nothing);")
    server.signal(signal.SIGHUP)
    line = json.loads(server.wait_for_log("is not reloaded"))["message"]
    assert f"policy engine cedar: {policies}:3: " in line
    assert status(server, app, "GET", "/v1/status") == 200
    policies.write_text("forbid(principal, action, resource);")
    server.signal(signal.SIGHUP)
    server.wait_for_log("is reloaded")
    assert status(server, app, "GET", "/v1/status") == 403


def test_certificate_and_address_of_a_real_client(run_server: RunServer, policies: Path, app: Credentials) -> None:
    policies.write_text(
        """
        permit(principal, action == KES::Action::"ReadStatus", resource == KES::Server::"server") when {
          context.remote_address == ip("127.0.0.1") && context has certificate &&
          context.time < context.certificate.not_after && context.method == "GET"
        };
        permit(principal, action == KES::Action::"ReadMetrics", resource)
        when { context has certificate && context.certificate.verified };
        """
    )
    server = run_server(engine(policies))
    assert status(server, app, "GET", "/v1/status") == 200
    assert status(server, app, "GET", "/v1/metrics") == 403


@pytest.mark.parametrize("path", ["/v1/key/describe/%FF", "/v1/key/describe/x%22;%0A", "/v1/key/describe/%F0%9F%94%91"])
def test_hostile_names_are_answered_like_others(
    run_server: RunServer, policies: Path, app: Credentials, path: str
) -> None:
    policies.write_text('permit(principal, action, resource == KES::Key::"x");')
    server = run_server(engine(policies))
    assert status(server, app, "GET", path) == 403
    assert not [line for line in server.errors if "Traceback" in line or '"error"' in line.lower()]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"policies": "FILE"}, "policy engine cedar: {file}:1: unexpected end of input"),
        ({"policies": "missing.cedar"}, "/missing.cedar: can't be read: No such file or directory"),
        ({"policies": []}, "policy_engines.cedar.policies: names no file"),
        ({"policies": ""}, "is empty; expected the path of a file"),
        ({}, "policy_engines.cedar.policies: required, but missing"),
        ({"policies": "FILE", "polices": "x"}, "policy_engines.cedar.polices: unknown field; did you mean 'policies'?"),
        ({"policies": "FILE", "default": "allow"}, "policy_engines.cedar.default: "),
    ],
    ids=["broken", "missing", "none", "empty", "absent", "unknown", "default"],
)
def test_start_with_what_is_wrong_is_one_line(
    tmp_path: Path, policies: Path, section: dict[str, Any], message: str
) -> None:
    policies.write_text("permit(principal, action, resource)")
    text = json.dumps(section).replace("FILE", str(policies))
    config = write_config(tmp_path, "0" * 64, {"policy_engines": {"cedar": json.loads(text)}})
    done = subprocess.run(
        [sys.executable, "-m", "kes_core.cli", "server", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode != 0
    assert message.format(file=policies) in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
