"""Views of a configuration: the JSON Schema for editors, and the effective configuration without secrets."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel

from kes_core import KeyStoreBackend
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import ConfigError, Duration, Secret, Section, parse_config
from kes_core.config.views import effective, exposed_credentials, json_schema
from kes_core.plugins import Plugins, load_plugins
from tests.helpers.configurations import ADMIN, BROKEN, START, VECTORS
from tests.helpers.documents import blocks

MASK = "**********"


class Inner(Section):
    password: Secret
    wait: Duration = 5.0


class Demo(Section):
    """A section of a third party."""

    token: Secret | None = None
    inner: Inner | None = None
    retries: int = 3


async def connect(_config: Any, _context: Any) -> MemoryKeyStore:
    return MemoryKeyStore()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    """All installed plugins, and a third party's key store."""
    loaded = load_plugins()
    backends = {**loaded.backends, "demo": KeyStoreBackend("demo", Demo, connect)}
    return Plugins(loaded.infos, backends, loaded.engines, loaded.hook)


@pytest.fixture(scope="module")
def validator(plugins: Plugins) -> Draft202012Validator:
    schema = json_schema(plugins)
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def is_valid(validator: Draft202012Validator, text: str) -> bool:
    return bool(validator.is_valid(yaml.safe_load(text)))


def accepted(text: str, plugins: Plugins) -> bool:
    try:
        parse_config(text, filename="config.yml", plugins=plugins, environ={"NAME": "value", "WAIT": "3s"})
    except ConfigError:
        return False
    return True


HEAD = f"admin:\n  identity: {ADMIN}\ntls:\n  key: k\n  cert: c\n"
GOOD = [
    "keystore:\n  memory: {}\n",
    "keystore:\n  memory:\n",
    "keystore:\n  fs:\n    path: ${NAME}\n",
    "keystore:\n  demo:\n    token: 12345\n    inner:\n      password: x\n      wait: 1m30s\n",
    "keystore:\n  demo:\n    retries: ${RETRIES}\n",
    "keystore:\n  vault:\n    endpoint: https://v\n    version: v2\n    status:\n      ping: ${WAIT}\n    token: t\n",
    "keystore:\n  memory: {}\ncache:\n  expiry:\n    any: 5m\n    offline: 0s\nlog:\n  error: on\n  audit: off\n",
    "keystore:\n  memory: {}\napi:\n  /v1/ready:\n    skip_auth: true\n    timeout: 10s\n  /v1/status:\n",
    "keystore:\n  memory: {}\npolicy:\n  p:\n    allow:\n    - /v1/key/create/*\n    deny:\n    identities:\n",
    "keystore:\n  memory: {}\nkeys:\n- name: k\nplugins:\n  block: [kes-vault]\n",
]
BAD = [
    "",
    "keystore: {}\n",
    "keystore:\n  memory: {}\n  fs:\n    path: x\n",
    "keystore:\n  unknown: {}\n",
    "keystore:\n  fs: {}\n",
    "keystore:\n  fs:\n    path: x\n    pth: x\n",
    "keystore:\n  demo:\n    inner:\n      password: x\n      wait: soon\n",
    "keystore:\n  demo:\n    inner: text\n",
    "keystore:\n  vault:\n    endpoint: https://v:8200\n    version: v3\n    token: t\n",
    "keystore:\n  memory: {}\ncache:\n  expiry:\n    any: 5 minutes\n",
    "keystore:\n  memory: {}\napi:\n  /v1/ready:\n    skip_auth: maybe\n",
    "keystore:\n  memory: {}\npolicy:\n  p:\n    allow: /v1/key/create/*\n",
    "keystore:\n  memory: {}\nkeys: k\n",
    "keystore:\n  memory: {}\ncolour: blue\n",
    "keystore:\n  memory: {}\nplugins:\n  block: kes-vault\n",
]


@pytest.mark.parametrize("text", GOOD)
def test_schema_takes_what_the_server_takes(text: str, validator: Draft202012Validator, plugins: Plugins) -> None:
    assert [error.message for error in validator.iter_errors(yaml.safe_load(HEAD + text))] == []
    if "RETRIES" not in text:
        assert accepted(HEAD + text, plugins)


@pytest.mark.parametrize("text", BAD)
def test_schema_refuses_what_the_server_refuses(text: str, validator: Draft202012Validator, plugins: Plugins) -> None:
    assert not is_valid(validator, HEAD + text)
    assert not accepted(HEAD + text, plugins)


def test_schema_takes_every_valid_vector_with_a_known_key_store(
    validator: Draft202012Validator, plugins: Plugins
) -> None:
    seen = 0
    for case in VECTORS["cases"]:
        text = case.get("yaml", "")
        document = yaml.safe_load(text) if text and not case.get("should_fail") else None
        if not isinstance(document, dict) or not set(document.get("keystore") or {}) <= set(plugins.backends):
            continue
        if accepted(text, plugins):
            seen += 1
            as_json = json.loads(json.dumps(document, default=str))  # an editor sees a date as text
            assert [error.message for error in validator.iter_errors(as_json)] == [], case.get("name")
    assert seen > 0


def test_schema_says_what_fields_are_for(plugins: Plugins) -> None:
    definitions = json_schema(plugins)["$defs"]
    assert definitions["Demo"]["description"] == "A section of a third party."
    assert set(definitions["FileSettings"]["properties"]["keystore"]["anyOf"][0]["properties"]) >= {
        "demo",
        "fs",
        "vault",
    }


def shown(text: str, plugins: Plugins) -> dict[str, Any]:
    return effective(parse_config(text, filename="c", plugins=plugins, environ={"NAME": "from-outside"}))


def test_effective_configuration_has_defaults_and_variables_and_is_a_configuration(plugins: Plugins) -> None:
    text = HEAD + "  password: hunter2\nkeystore:\n  fs:\n    path: ${NAME}\nlog:\n  error: warn+1\nkeys:\n- name: k\n"
    found = shown(text, plugins)
    assert found["address"] == "0.0.0.0:7373"
    assert found["tls"] | {"proxy": None} == {
        "key": "k",
        "cert": "c",
        "password": MASK,
        "auth": "off",
        "ca": "",
        "proxy": None,
    }
    assert found["cache"] == {"expiry": {"any": "5m", "unused": "30s", "offline": "0s"}}
    assert found["keystore"] == {"fs": {"path": "from-outside"}}
    assert (found["keys"], found["log"]) == ([{"name": "k"}], {"error": "5", "audit": "off"})
    again = shown(yaml.safe_dump(found), plugins)
    assert again == found


@given(st.text("abcXYZ019-_=+/", min_size=8, max_size=40))
def test_no_secret_is_shown(secret: str) -> None:
    loaded = load_plugins([])
    backends = {"demo": KeyStoreBackend("demo", Demo, connect)}
    plugins = Plugins(loaded.infos, backends, loaded.engines, loaded.hook)
    sections = {"keystore": {"demo": {"token": secret, "inner": {"password": secret}}}}
    document = yaml.safe_load(HEAD) | sections
    document["tls"]["password"] = secret
    found = yaml.safe_dump(shown(yaml.safe_dump(document), plugins))
    assert secret not in found
    assert found.count(MASK) == 3


def test_file_settings_of_every_installed_backend_are_in_the_schema(plugins: Plugins) -> None:
    definitions = json_schema(plugins)["$defs"]
    for backend in plugins.backends.values():
        model: type[BaseModel] = backend.config
        assert model.__name__ in definitions


def test_broken_files_that_the_schema_can_not_see_are_still_refused(
    validator: Draft202012Validator, plugins: Plugins
) -> None:
    """The schema is for editors: it may accept more than the server, but never less."""
    for text in BROKEN:
        try:
            document = yaml.safe_load(START + text)
        except yaml.YAMLError:
            continue
        if not validator.is_valid(document):
            assert not accepted(START + text, plugins)


def test_examples_in_the_documentation_are_valid(validator: Draft202012Validator) -> None:
    files = [re.findall(r"<<END\n(.*)^END$", block, re.DOTALL | re.MULTILINE) for block in blocks("README.md", "sh")]
    documents = [yaml.safe_load(text) for text in [*blocks("README.md", "yaml"), *itertools.chain(*files)]]
    whole = [document for document in documents if "admin" in document]
    assert len(whole) == 1
    for document in whole:
        assert [error.message for error in validator.iter_errors(document)] == []


class Careless(Section):
    """A section whose author has not read about secrets."""

    token: str = ""
    """The token of the service."""
    token_id: str = ""
    password_file: str = ""
    timeout: Duration = "5s"  # type: ignore[assignment] # as in a file
    """How long to wait
    for the service."""


def careless(plugins: Plugins) -> Plugins:
    backends = {**plugins.backends, "careless": KeyStoreBackend("careless", Careless, connect)}
    return Plugins(plugins.infos, backends, plugins.engines, plugins.hook)


def test_default_in_the_form_of_the_file(plugins: Plugins) -> None:
    text = "admin: {identity: x}\ntls: {key: k, cert: c}\nkeystore:\n  careless: {}\n"
    config = parse_config(text, filename="config.yml", plugins=careless(plugins), environ={})
    assert Careless().timeout == 5.0
    assert effective(config)["keystore"]["careless"]["timeout"] == "5s"
    assert exposed_credentials(config) == ["keystore.careless.token"]


def test_strings_below_fields_describe_them_in_the_schema(plugins: Plugins) -> None:
    schema = json_schema(careless(plugins))
    properties = schema["$defs"]["Careless"]["properties"]
    described = properties["timeout"]["description"]
    assert described == "How long to wait for the service. A duration, as in 10s, 1m30s, 500ms or 168h."
    assert properties["token"]["description"] == "The token of the service."
    assert "description" not in properties["token_id"]
    assert "audit_sinks" in schema["$defs"]["FileSettings"]["properties"]
