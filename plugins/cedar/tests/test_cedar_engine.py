"""Decisions of the Cedar engine on real policies."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kes_cedar.engine import CedarPolicyEngine
from kes_cedar.requests import OPERATIONS
from kes_core import BackendError, CertificateFacts, Decision, Verdict
from kes_core.plugins import load_plugins
from kes_core.protocol import ROUTES, Auth

Ask = Callable[..., Verdict]
OpenEngine = Callable[..., CedarPolicyEngine]

ALICE, BOB = "a" * 64, "b" * 64
PERMIT_ALL = "permit(principal, action, resource);"


def entity(kind: str, name: str, *parents: tuple[str, str], **tags: str) -> dict[str, Any]:
    return {
        "uid": {"type": f"KES::{kind}", "id": name},
        "attrs": {},
        "parents": [{"type": f"KES::{parent}", "id": of} for parent, of in parents],
        "tags": tags,
    }


def certificate(**facts: Any) -> CertificateFacts:
    now = dt.datetime.now(dt.UTC)
    values = {"not_before": now, "not_after": now + dt.timedelta(days=1), **facts}
    return CertificateFacts("CN=app,O=Example", "CN=ca", 2**127, **values)


def test_plugin_comes_in_through_its_entry_point() -> None:
    info = next(info for info in load_plugins().infos if info.name == "cedar")
    assert (info.distribution, info.engines, info.error) == ("kes-cedar", ("cedar",), None)


def test_every_route_that_needs_a_policy_has_an_action_in_the_schema() -> None:
    assert set(OPERATIONS) == {route.path for route in ROUTES if route.auth is Auth.POLICY}
    schema = (resources.files("kes_cedar") / "kes.cedarschema").read_text()
    declared = re.findall(r"^  action ([\w, ]+) in ", schema, re.MULTILINE)
    names = [name.strip() for line in declared for name in line.split(",")]
    assert sorted(names) == sorted(operation.action for operation in OPERATIONS.values())


@pytest.mark.parametrize("api", OPERATIONS)
def test_every_action_can_be_permitted_alone(open_engine: OpenEngine, ask: Ask, api: str) -> None:
    operation = OPERATIONS[api]
    name = "server" if operation.resource == "Server" else "my-key"
    resource = f'KES::{operation.resource}::"{name}"'
    engine = open_engine(f'permit(principal, action == KES::Action::"{operation.action}", resource == {resource});')
    allowed = [other for other in OPERATIONS if ask(engine, other).decision is Decision.ALLOW]
    assert allowed == [api]


def test_reason_names_the_policy_and_its_place(open_engine: OpenEngine, ask: Ask, tmp_path: Path) -> None:
    engine = open_engine(
        '// A comment; with a semicolon.\n@id("read; all")\n'
        'permit(principal, action in KES::Action::"Read", resource);\n\n'
        'forbid(principal, action,\n  resource == KES::Key::"x");\n'
    )
    file = tmp_path / "policies.cedar"
    assert ask(engine, "/v1/key/describe/") == (Decision.ALLOW, f"'read; all' ({file}:2)")
    assert ask(engine, "/v1/key/describe/", "x") == (Decision.DENY, f"forbidden by policy at {file}:5")
    assert ask(engine, "/v1/key/delete/") == (Decision.ABSTAIN, "no policy matches")


def test_default_deny(open_engine: OpenEngine, ask: Ask) -> None:
    engine = open_engine('permit(principal, action == KES::Action::"HMAC", resource);', default="deny")
    assert ask(engine) == (Decision.DENY, "no policy matches, and the default is deny")
    assert ask(engine, "/v1/key/hmac/").decision is Decision.ALLOW


def test_groups_and_tags_come_from_the_entities(open_engine: OpenEngine, ask: Ask) -> None:
    engine = open_engine(
        """
        permit(principal in KES::Group::"staff", action in KES::Action::"UseKey", resource)
        when { principal.hasTag("tenant") && resource.hasTag("tenant") }
        when { principal.getTag("tenant") == resource.getTag("tenant") };
        """,
        [
            entity("Identity", ALICE, ("Group", "developers"), tenant="a"),
            entity("Identity", BOB, tenant="a"),
            entity("Group", "developers", ("Group", "staff")),
            entity("Key", "key-a", tenant="a"),
            entity("Key", "key-b", tenant="b"),
        ],
    )
    allowed = {
        (who[0], key)
        for who in (ALICE, BOB, "c" * 64)
        for key in ("key-a", "key-b", "unknown")
        if ask(engine, resource=key, identity=who).decision is Decision.ALLOW
    }
    assert allowed == {("a", "key-a")}


@pytest.mark.parametrize(
    ("address", "decision"),
    [
        ("10.1.2.3", Decision.DENY),
        ("::ffff:10.1.2.3", Decision.DENY),
        ("::ffff:a01:203", Decision.DENY),
        ("11.1.2.3", Decision.ALLOW),
        ("2001:db8::1", Decision.ALLOW),
        ("fe80::1%eth0", Decision.ALLOW),
        ("", Decision.DENY),
        ("nonsense", Decision.DENY),
    ],
)
def test_rule_on_the_address(open_engine: OpenEngine, ask: Ask, address: str, decision: Decision) -> None:
    engine = open_engine(
        f"{PERMIT_ALL} forbid(principal, action, resource)"
        'when { context.remote_address.isInRange(ip("10.0.0.0/8")) };'
    )
    assert ask(engine, remote_address=address).decision is decision


def test_rule_on_the_time(open_engine: OpenEngine, ask: Ask) -> None:
    engine = open_engine(
        """
        permit(principal, action, resource)
        when { context.time >= datetime("2026-03-01") && context.time.toTime() < duration("18h") };
        """
    )

    def allowed(moment: str) -> bool:
        return ask(engine, time=dt.datetime.fromisoformat(moment)).decision is Decision.ALLOW

    assert not allowed("2026-02-28T23:59:59.999999+00:00")
    assert allowed("2026-03-01T00:00:00+00:00")
    assert allowed("2026-03-01T17:59:59.999+00:00")
    assert not allowed("2026-03-01T18:00:00+00:00")
    assert allowed("2026-03-01T18:00:00+02:00")  # 16:00 in UTC


def test_rule_on_the_certificate(open_engine: OpenEngine, ask: Ask) -> None:
    engine = open_engine(
        """
        permit(principal, action, resource) when {
          context has certificate && context.certificate.verified &&
          context.certificate.dns_names.contains("app.example.com") && context.certificate.subject like "*O=Example" &&
          context.certificate.ip_addresses.contains(ip("192.0.2.7")) && context.time < context.certificate.not_after
        };
        """
    )
    facts = {"dns_names": ("app.example.com",), "ip_addresses": ("192.0.2.7", "2001:db8::1")}
    assert ask(engine, certificate=certificate(verified=True, **facts)).decision is Decision.ALLOW
    assert ask(engine, certificate=None).decision is Decision.ABSTAIN
    assert ask(engine, certificate=certificate(**facts)).decision is Decision.ABSTAIN
    assert ask(engine, certificate=certificate(verified=True)).decision is Decision.ABSTAIN
    ended = {"not_after": dt.datetime(2020, 1, 1, tzinfo=dt.UTC), **facts}
    assert ask(engine, certificate=certificate(verified=True, **ended)).decision is Decision.ABSTAIN
    for_ever = {"not_after": dt.datetime(9999, 12, 31, 23, 59, 59, tzinfo=dt.UTC), **facts}
    assert ask(engine, certificate=certificate(verified=True, **for_ever)).decision is Decision.ALLOW


def test_policy_that_fails_refuses_even_what_another_permits(open_engine: OpenEngine, ask: Ask, tmp_path: Path) -> None:
    """Cedar skips a policy that fails. Skipping a `forbid` would grant what it forbids."""
    schema = (resources.files("kes_cedar") / "kes.cedarschema").read_text()
    own = tmp_path / "own.cedarschema"
    own.write_text(schema.replace("entity Key in [KeyGroup]", "entity Key in [KeyGroup] { level: Long }"))
    engine = open_engine(
        f'{PERMIT_ALL} forbid(principal, action == KES::Action::"Encrypt", resource) when {{ resource.level > 3 }};',
        [{**entity("Key", "known"), "attrs": {"level": 1}}, {**entity("Key", "high"), "attrs": {"level": 4}}],
        schema=str(own),
    )
    assert ask(engine, "/v1/key/encrypt/", "known").decision is Decision.ALLOW
    assert ask(engine, "/v1/key/encrypt/", "high").decision is Decision.DENY
    decision, reason = ask(engine, "/v1/key/encrypt/", "unknown")
    assert decision is Decision.DENY
    assert reason.startswith("Cedar failed: ")
    assert ask(engine, "/v1/key/hmac/", "unknown").decision is Decision.ALLOW


def test_expression_that_is_too_long_for_cedar_refuses(open_engine: OpenEngine, ask: Ask) -> None:
    chain = 'context.name == "x" || ' * 20_000
    engine = open_engine(f"{PERMIT_ALL} permit(principal, action, resource) when {{ {chain} true }};")
    decision, reason = ask(engine)
    assert decision is Decision.DENY
    assert reason.startswith("Cedar failed: ")


def test_route_without_an_action_is_refused(open_engine: OpenEngine, ask: Ask) -> None:
    decision, reason = ask(open_engine(PERMIT_ALL), "/v2/key/new/")
    assert (decision, reason) == (
        Decision.DENY,
        "Cedar can't be asked: this version of kes-cedar has no action for '/v2/key/new/'",
    )


HOSTILE = st.one_of(
    st.text(st.characters()),
    st.lists(
        st.sampled_from(['"', "\\", "\n", ";", "//", "my-key", '"}', "::", "*", "KES::Key::", "\0", "\udcff"])
    ).map("".join),
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=HOSTILE, identity=HOSTILE)
def test_names_are_values_and_never_cedar(open_engine: OpenEngine, ask: Ask, name: str, identity: str) -> None:
    engine = open_engine(
        f"""
        permit(principal == KES::Identity::"{ALICE}", action, resource == KES::Key::"my-key")
        when {{ context.name == "my-key" && context.path == "/v1/key/generate/my-key" }};
        """
    )
    assert (ask(engine, resource=name, identity=ALICE).decision is Decision.ALLOW) == (name == "my-key")
    assert ask(engine, identity=identity).decision is not Decision.ALLOW
    assert ask(engine, identity=ALICE).decision is Decision.ALLOW


BROKEN = {
    "permit(principal, action, resource)": "{file}:1: unexpected end of input",
    f'{PERMIT_ALL}\n// "\n\n@id("x")\npermit(principal, action) when {{ true }};': "{file}:4: ",
    f'{PERMIT_ALL}\nforbid(principal, action, resource) when {{ "; }};': "{file}:2: invalid token",
    f'{PERMIT_ALL}\n\npermit(principal, action == KES::Action::"Generate", resource);': "{file}:3: unrecognized action "
    '`KES::Action::"Generate"`',
    'permit(principal == KES::User::"x", action, resource);': "{file}:1: unrecognized entity type `KES::User`",
    "permit(principal, action, resource) when { context.colour == 1 };": "{file}:1: attribute `colour` in context",
    "permit(principal, action, resource) when { context.certificate.verified };": "{file}:1: unable to guarantee",
    "permit(principal == ?principal, action, resource);": "{file}:1: is a template, which nothing links; write",
    "": "{file}: has no policy",
    "// nothing; yet\n": "{file}: has no policy",
    f"permit(principal, action, resource) when {{ {'(' * 5000}true{')' * 5000} }};": "{file}:1: is nested more",
    f"permit(principal, action, resource) when {{ {'if true then 1 else ' * 9999}1 }};": "{file}:1: is nested more",
}


@pytest.mark.parametrize("policies", BROKEN, ids=range(len(BROKEN)))
def test_broken_policies_are_named_with_their_line(open_engine: OpenEngine, tmp_path: Path, policies: str) -> None:
    with pytest.raises(BackendError) as raised:
        open_engine(policies)
    expected = BROKEN[policies].format(file=tmp_path / "policies.cedar")
    assert str(raised.value).startswith(f"policy engine cedar: {expected}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("entities", "expected"),
    [
        ("[\n\n{", ":3: is not JSON: "),
        ("{}", ": error during entity deserialization: invalid type: map, expected a sequence"),
        ("[" * 100_000, ": "),
        (
            json.dumps([{**entity("Key", "k"), "attrs": {"x": 1}}]),
            ": error during entity deserialization: attribute `x` on",
        ),
        (json.dumps([entity("User", "k")]), ": error during entity deserialization: entity `KES::User::"),
        (json.dumps([entity("Key", "k"), entity("Key", "k", a="b")]), ': duplicate entity entry `KES::Key::"k"`'),
    ],
    ids=["json", "no-list", "deep", "attribute", "type", "twice"],
)
def test_broken_entities_are_named(open_engine: OpenEngine, tmp_path: Path, entities: str, expected: str) -> None:
    file = tmp_path / "own.json"
    file.write_text(entities)
    with pytest.raises(BackendError) as raised:
        open_engine(PERMIT_ALL, None, entities=str(file))
    assert str(raised.value).startswith(f"policy engine cedar: {file}{expected}")
    assert "\n" not in str(raised.value)


def test_schema_that_does_not_fit_is_refused_at_once(open_engine: OpenEngine, tmp_path: Path) -> None:
    file = tmp_path / "own.cedarschema"
    schema = (resources.files("kes_cedar") / "kes.cedarschema").read_text()
    file.write_text(schema.replace("    api: String,\n", ""))
    with pytest.raises(
        BackendError, match=r"own\.cedarschema: the schema does not fit requests for CheckReady: .*`api`"
    ):
        open_engine(PERMIT_ALL, schema=str(file))
    file.write_text(schema.replace("verified: Bool", f"verified: Bool, more?: {'Set<' * 20_000}Long{'>' * 20_000}"))
    with pytest.raises(BackendError, match=r"own\.cedarschema: is nested more than 100 levels deep"):
        open_engine(PERMIT_ALL, schema=str(file))
    file.write_text("entity X")
    with pytest.raises(BackendError, match=r"own\.cedarschema: error parsing schema: "):
        open_engine(PERMIT_ALL, schema=str(file))


def test_directories_and_files_that_can_not_be_read(open_engine: OpenEngine, ask: Ask, tmp_path: Path) -> None:
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "README.md").write_text("not a policy")
    with pytest.raises(BackendError, match=r"the directory has no file whose name ends in \.cedar"):
        open_engine(PERMIT_ALL, policies=str(directory))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BackendError, match="pipe: is not a file"):
        open_engine(PERMIT_ALL, policies=str(tmp_path / "pipe"))
    with pytest.raises(BackendError, match=r"missing\.cedar: can't be read: No such file or directory"):
        open_engine(PERMIT_ALL, policies=["missing.cedar"])
    (directory / "b.cedar").write_bytes(b"// \xff\n" + PERMIT_ALL.encode())
    with pytest.raises(BackendError, match=r"b\.cedar:1: is not UTF-8"):
        open_engine(PERMIT_ALL, policies=str(directory))
    (directory / "b.cedar").write_text('forbid(principal, action, resource == KES::Key::"x");')
    (directory / "a.cedar").write_text(PERMIT_ALL)
    engine = open_engine(PERMIT_ALL, policies=str(directory))
    assert ask(engine) == (Decision.ALLOW, f"policy at {directory / 'a.cedar'}:1")
    assert ask(engine, resource="x") == (Decision.DENY, f"forbidden by policy at {directory / 'b.cedar'}:1")
