"""The configuration file: the vectors, and the exact message for each kind of error."""

from __future__ import annotations

import types
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import Config, ConfigError, Duration, Required, Secret, Section, Switch, load, parse_config
from kes_core.hookspecs import KeyStoreBackend
from kes_core.keystore import KeyStore
from kes_core.plugins import PluginInfo, Plugins, load_plugins
from kes_core.units import parse_duration
from tests.helpers.configurations import (
    ADMIN,
    AS_IN,
    BROKEN,
    INSTALLED,
    MISSING,
    START,
    UNITS,
    VECTORS,
)

DEFAULT_HEADER = "X-Tls-Client-Cert"
OTHERS = {"vault", "aws", "gcp", "azure", "fortanix", "gemalto", "entrust"}
"""Key stores whose sections are tested in their own packages."""


class DirectorySection(Section):
    path: Required


class AnySection(BaseModel):
    model_config = ConfigDict(extra="allow")


class DemoSection(Section):
    """A section with every kind of field that a plugin may use."""

    endpoint: str
    token: Secret | None = None
    wait: Duration = 5.0
    fast: Switch = False
    retries: int = 3
    tags: tuple[str, ...] = ()


async def connect(_config: Any, _context: Any) -> KeyStore:
    return MemoryKeyStore()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    """The core's plugins, and key stores with simple sections."""
    loaded = load_plugins([])
    sections: dict[str, type[BaseModel]] = {"fs": DirectorySection, "memory": Section, "demo": DemoSection}
    sections |= dict.fromkeys(OTHERS, AnySection)
    backends = {name: KeyStoreBackend(name, model, connect) for name, model in sections.items()}
    broken = PluginInfo("cloud", "kes-cloud", "1.0", error="plugin 'cloud' of kes-cloud 1.0: can't be imported: boom")
    return replace(loaded, backends=types.MappingProxyType(backends), infos=(broken,))


def read(text: str, plugins: Plugins, environ: Mapping[str, str] | None = None, **overrides: str) -> Config:
    fields = {name.replace("__", "."): value for name, value in overrides.items()}
    return parse_config(text, filename="config.yml", plugins=plugins, environ=environ or {}, overrides=fields)


def expected_client_certificate(config: Config) -> str:
    skips = any(api.skip_auth for api in config.api.values())
    if config.tls.auth:
        return "verify_if_given" if skips else "require_and_verify"
    return "request" if skips else "require"


def as_in_vectors(config: Config, expected: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in the form of the vectors, which have empty values for missing fields."""
    tls, expiry = config.tls, config.cache.expiry
    cache = {"any": 300.0, "unused": 30.0, "offline": 0.0}
    header = tls.proxy.header.cert
    return {
        "address": expected["address"] and config.address,
        "admin": {"identity": config.admin.identity},
        "api": {
            path: {"skip_auth": api.skip_auth, "timeout_seconds": api.timeout or 0} for path, api in config.api.items()
        },
        "cache": {
            f"{rule}_seconds": 0
            if (value := getattr(expiry, rule)) == default and not expected["cache"][f"{rule}_seconds"]
            else value
            for rule, default in cache.items()
        },
        "keys": [key.name for key in config.keys],
        "log": {"error_level": config.log.error, "audit_level": config.log.audit},
        "policy": {
            name: {"allow": list(p.allow), "deny": list(p.deny), "identities": list(p.identities)}
            for name, p in config.policy.items()
        },
        "tls": {
            "ca": tls.ca,
            "cert": tls.cert,
            "client_auth": expected_client_certificate(config),
            "key": tls.key,
            "password": tls.password.get() if tls.password else "",
            "proxy": {
                "header_cert": header
                if header != "X-Tls-Client-Cert" or expected["tls"]["proxy"]["header_cert"]
                else "",
                "identities": list(tls.proxy.identities),
            },
        },
    }


GOOD = [case for case in VECTORS["cases"] if not case.get("should_fail")]
BAD = [case for case in VECTORS["cases"] if case.get("should_fail") and case["name"].split()[0] not in OTHERS]


@pytest.mark.parametrize("case", GOOD, ids=[case["name"] for case in GOOD])
def test_valid_files_of_the_vectors(case: dict[str, Any], plugins: Plugins) -> None:
    config = read(case["yaml"], plugins, case.get("env"))
    expected = dict(case["expected"])
    keystore = expected.pop("keystore")
    # The audit log is off by default. In the Go server it is on, contrary to its documentation.
    if "audit" not in case["yaml"]:
        expected["log"] = {**expected["log"], "audit_level": 9}
    found = as_in_vectors(config, expected)
    if ":" not in str(expected["address"]) and expected["address"]:
        expected["address"] = ":" + expected["address"]  # only a port
    assert found == expected
    assert config.keystore.backend.name == keystore["type"].split(".")[0]
    if keystore["type"] == "fs":
        assert isinstance(config.keystore.config, DirectorySection)
        assert config.keystore.config.path == keystore["path"]


@pytest.mark.parametrize("case", BAD, ids=[case["name"] for case in BAD])
def test_invalid_files_of_the_vectors(case: dict[str, Any], plugins: Plugins) -> None:
    with pytest.raises(ConfigError) as caught:
        read(case["yaml"], plugins, case.get("env"))
    for problem in caught.value.problems:
        assert problem.line >= 1
        assert problem.message


def test_defaults(plugins: Plugins) -> None:
    text = f"admin: {{identity: {ADMIN}}}\ntls: {{key: k, cert: c}}\nkeystore: {{memory: }}"
    config = read(text, plugins)
    defaults = VECTORS["defaults"]
    expiry = config.cache.expiry
    assert (config.host, config.port) == ("0.0.0.0", 7373)
    assert config.address == defaults["address"]
    # Unlike in the Go server, a missing `unused` does not set `any`.
    assert (expiry.any, expiry.unused, expiry.offline) == (300.0, 30.0, 0.0)
    assert (config.log.error, config.log.audit) == (0, 9)
    assert not config.tls.auth
    assert read(text + "\ncache: {expiry: {any: 1h}}", plugins).cache.expiry.unused == 30.0


# The text after the valid start above, from line 9 on, and the whole message.


@pytest.mark.parametrize("text", BROKEN)
def test_message_for_a_broken_file(text: str, plugins: Plugins) -> None:
    with pytest.raises(ConfigError) as caught:
        read(START + text + "\n", plugins, {"KES_SET": "secret-value"})
    assert str(caught.value) == BROKEN[text]


KEYSTORES = {
    "": f"config.yml:1: keystore: required: name the one key store to use; installed: {INSTALLED}",
    "keystore: {}": f"config.yml:6: keystore: required: name the one key store to use; installed: {INSTALLED}",
    "keystore: fs": "config.yml:6: keystore: must be a mapping",
    "keystore: {fs: {path: a}, demo: {}}": "config.yml:6: keystore: more than one key store (fs, demo); keep one",
    "keystore: {fs: {path: a}, vault: null, demo: {}}": (
        "config.yml:6: keystore: more than one key store (fs, demo); keep one"
    ),
    "keystore: {mysql: }": f"config.yml:6: keystore.mysql: no installed plugin provides it, and no known package does; "
    f"installed: {INSTALLED}",
    "keystore: {vualt: }": "config.yml:6: keystore.vualt: no installed plugin provides it, and no known package does; "
    f"installed: {INSTALLED}; did you mean 'vault'?",
    "keystore: {cloud: }": "config.yml:6: keystore.cloud: the plugin that should provide it was skipped: "
    "plugin 'cloud' of kes-cloud 1.0: can't be imported: boom",
    "keystore: {fs: }": "config.yml:6: keystore.fs.path: required, but missing",
    "keystore: {fs: {path: ''}}": "config.yml:6: keystore.fs.path: '' is empty, but required",
    "keystore: {demo: {}}": "config.yml:6: keystore.demo.endpoint: required, but missing",
    "keystore:\n  demo:\n    endpoint: a\n    tokn: b": "config.yml:9: keystore.demo.tokn: unknown field; did you mean "
    "'token'? Allowed: endpoint, token, wait, fast, retries, tags",
    "keystore:\n  demo:\n    endpoint: a\n    wait: soon": f"config.yml:9: keystore.demo.wait: 'soon' is not a "
    f"duration, {AS_IN}; {UNITS}",
    "keystore:\n  demo:\n    endpoint: a\n    retries: many": "config.yml:9: keystore.demo.retries: input should be a "
    "valid integer, unable to parse string as an integer",
    "keystore:\n  demo:\n    endpoint: a\n    token: [b]": "config.yml:9: keystore.demo.token: must be a plain value",
    "keystore:\n  demo: x": "config.yml:7: keystore.demo: must be a mapping with the fields endpoint, token, wait, "
    "fast, retries, tags",
}


@pytest.mark.parametrize("text", KEYSTORES)
def test_message_for_a_broken_key_store(text: str, plugins: Plugins) -> None:
    start = START.partition("keystore:")[0]
    with pytest.raises(ConfigError) as caught:
        read(start + text + "\n", plugins)
    assert str(caught.value) == KEYSTORES[text]


@pytest.mark.parametrize("text", MISSING)
def test_message_for_an_incomplete_file(text: str, plugins: Plugins) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text, plugins)
    assert str(caught.value) == MISSING[text]


@pytest.mark.parametrize(
    ("address", "probe"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("127.0.0.1:7373", "127.0.0.1:7374"),
        ("127.0.0.1:7373", "127.0.0.2:7373"),
        ("0.0.0.0:7373", "[::1]:7373"),
    ],
)
def test_two_listeners_with_addresses_of_their_own(address: str, probe: str, plugins: Plugins) -> None:
    config = read(START + f"address: {address}\nprobe: {{address: '{probe}'}}\n", plugins)
    assert config.probe is not None
    assert (config.address, config.probe.address) == (address, probe)


def test_all_problems_are_reported_in_order(plugins: Plugins) -> None:
    text = START + "log:\n  audit: loud\ncache:\n  expiry:\n    any: 10\ncolour: blue\n"
    with pytest.raises(ConfigError) as caught:
        read(text, plugins)
    assert [(p.line, p.path) for p in caught.value.problems] == [
        (10, "log.audit"),
        (13, "cache.expiry.any"),
        (14, "colour"),
    ]


def test_flags_win_and_are_named_in_messages(plugins: Plugins) -> None:
    text = f"admin: {{identity: {ADMIN}}}\nkeystore: {{memory: }}"
    config = read(text, plugins, tls__key="k", tls__cert="c", address="127.0.0.1:1")
    assert (config.tls.key, config.tls.cert, config.address) == ("k", "c", "127.0.0.1:1")
    with pytest.raises(ConfigError) as caught:
        read(text, plugins, tls__key="k", tls__cert="c", address="nowhere")
    assert str(caught.value).startswith("command line: address: 'nowhere' has no port")


def test_plugins_sections_have_typed_values(plugins: Plugins) -> None:
    section = "{endpoint: 0123, token: '${TOKEN}', wait: 1m, fast: yes, retries: 7, tags: [a, '1']}"
    text = START.partition("keystore:")[0] + f"keystore: {{demo: {section}}}"
    settings = read(text, plugins, {"TOKEN": "s3cret"}).keystore.config
    assert isinstance(settings, DemoSection)
    assert settings.token is not None
    assert settings.token.get() == "s3cret"
    assert "s3cret" not in repr(settings)
    assert (settings.endpoint, settings.wait, settings.fast, settings.retries) == ("0123", 60.0, True, 7)
    assert settings.tags == ("a", "1")
    assert DemoSection.model_json_schema()["properties"]["wait"]["type"] == "string"


def test_merge_keys_and_aliases(plugins: Plugins) -> None:
    text = START + (
        "policy:\n  a: &a\n    allow: [/v1/status]\n  b:\n    <<: *a\n    deny: [/v1/key/*]\n  c:\n    <<: [*a]\n"
    )
    policy = read(text, plugins).policy
    assert policy["b"].allow == ("/v1/status",)
    assert policy["b"].deny == ("/v1/key/*",)
    assert policy["c"].allow == ("/v1/status",)


def test_alias_bomb_is_refused(plugins: Plugins) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match="more than 500000 values"):
        read("\n".join(lines), plugins)


def test_file_that_can_not_be_read(plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing.yml: can't be read: No such file or directory"):
        load(tmp_path / "missing.yml", plugins=plugins)
    (tmp_path / "latin.yml").write_bytes(b"a: b\nc: \xe9\n")
    with pytest.raises(ConfigError, match=r"latin.yml:2: not valid YAML: not UTF-8"):
        load(tmp_path / "latin.yml", plugins=plugins)


@given(st.text(max_size=300))
def test_no_text_makes_reading_raise_another_error(text: str) -> None:
    plugins = Plugins((), {}, {}, None)
    with pytest.raises(ConfigError):
        read(text, plugins)


@given(
    st.lists(
        st.tuples(st.integers(0, 9999), st.sampled_from(["h", "m", "s", "ms", "us", "ns"])), min_size=1, max_size=4
    )
)
def test_durations_add_up(parts: list[tuple[int, str]]) -> None:
    units = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
    text = "".join(f"{number}{unit}" for number, unit in parts)
    assert parse_duration(text) == pytest.approx(sum(number * units[unit] for number, unit in parts))


@given(st.text(max_size=12))
def test_what_is_no_duration_is_an_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        assert str(error).startswith("is ")  # noqa: PT017 # either may happen
