"""The section `keystore.vault`: each missing, wrong or contradictory field has its own error."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from kes_core.config import ConfigError, parse_config
from kes_core.plugins import load_plugins
from kes_vault.config import VaultConfig

HEAD = "admin: {identity: a}\ntls: {key: k, cert: c}\nkeystore:\n  vault:\n"
ROLE = "approle:\n  id: i\n  secret: s"
METHODS = "approle, kubernetes, jwt, certificate, token, token_file"

BROKEN = {
    f"{ROLE}": "4: keystore.vault.endpoint: required, but missing",
    f"endpoint: vault:8200\n{ROLE}": "5: keystore.vault.endpoint: 'vault:8200' is not the URL of a Vault server; "
    "expected one like https://127.0.0.1:8200",
    f"endpoint: https://vault/a/../b\n{ROLE}": "5: keystore.vault.endpoint: 'https://vault/a/../b' is not the URL of a "
    "Vault server; expected one like https://127.0.0.1:8200",
    f"endpoint: https://vault?x=y\n{ROLE}": "5: keystore.vault.endpoint: 'https://vault?x=y' is not the URL of a Vault "
    "server; expected one like https://127.0.0.1:8200",
    f"endpoint: https://me:pw@vault\n{ROLE}": "5: keystore.vault.endpoint: must not hold a user or a "
    "password; expected a URL like https://127.0.0.1:8200",
    "endpoint: https://v": f"4: keystore.vault: no authentication method is given; set one of {METHODS}",
    f"endpoint: https://v\ntoken: t\n{ROLE}": "4: keystore.vault: more than one authentication method is given "
    "(approle, token); keep one",
    f"endpoint: https://v\nversion: v3\n{ROLE}": "6: keystore.vault.version: input should be 'v1' or 'v2'",
    f"endpoint: https://v\nengine: a/../b\n{ROLE}": "6: keystore.vault.engine: 'a/../b' is not a path in Vault; "
    "expected one like kv or team/kv",
    f"endpoint: https://v\nprefix: a//b\n{ROLE}": "6: keystore.vault.prefix: 'a//b' is not a path in Vault; "
    "expected one like kv or team/kv",
    f"endpoint: https://v\nstatus:\n  ping: 1ms\n{ROLE}": "7: keystore.vault.status.ping: '1ms' is too short; the "
    "shortest is 100ms",
    f"endpoint: https://v\ntls:\n  ca: none.pem\n{ROLE}": "7: keystore.vault.tls.ca: 'none.pem' is not a file that can "
    "be read",
    f"endpoint: https://v\ntls:\n  key: here\n{ROLE}": "6: keystore.vault.tls: a private key and its certificate go "
    "together; 'cert' is missing",
    f"endpoint: https://v\ntransit:\n  engine: t\n{ROLE}": "6: keystore.vault.transit.key: required, but missing",
    "endpoint: https://v\napprole:\n  secret: s": "6: keystore.vault.approle.id: required, but missing",
    "endpoint: https://v\napprole:\n  id: i": "6: keystore.vault.approle: no secret is given; set 'secret' or "
    "'secret_file'",
    "endpoint: https://v\napprole:\n  id: i\n  secret: s\n  secret_file: here": "6: keystore.vault.approle: 'secret' "
    "and 'secret_file' exclude each other; give one of them",
    "endpoint: https://v\napprole:\n  id: i\n  secret_file: none": "8: keystore.vault.approle.secret_file: 'none' is "
    "not a file that can be read",
    "endpoint: https://v\napprole:\n  id: i\n  secret: s\n  retry: soon": "9: keystore.vault.approle.retry: 'soon' is "
    "not a duration, as in 10s, 1m30s, 500ms or 168h; units are h, m, s, ms, us and ns",
    "endpoint: https://v\nkubernetes:\n  role: r": "6: keystore.vault.kubernetes.jwt: required, but missing",
    "endpoint: https://v\nkubernetes:\n  jwt: ./none": "7: keystore.vault.kubernetes.jwt: the file './none' can't be "
    "read",
    "endpoint: https://v\njwt:\n  role: r": "6: keystore.vault.jwt.jwt: required, but missing",
    "endpoint: https://v\ncertificate:\n  role: r": "4: keystore.vault: the authentication method 'certificate' needs "
    "tls.key and tls.cert",
    "endpoint: https://v\ntoken_file: none": "6: keystore.vault.token_file: 'none' is not a file that can be read",
    f"endpoint: https://v\nnamspace: n\n{ROLE}": "6: keystore.vault.namspace: unknown field; did you mean 'namespace'?",
}


@pytest.mark.parametrize("section", BROKEN, ids=range(len(BROKEN)))
def test_message(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    with pytest.raises(ConfigError) as caught:
        parse_config(HEAD + textwrap.indent(section, "    "), filename="config.yml", plugins=load_plugins(), environ={})
    (problem,) = caught.value.problems
    assert str(problem).startswith(f"config.yml:{BROKEN[section]}")


def test_defaults_are_those_of_the_guide() -> None:
    config = VaultConfig.model_validate({"endpoint": "https://v/", "token": "t", "approle": None})
    assert (config.endpoint, config.engine, config.version, config.prefix) == ("https://v", "kv", "v1", "")
    assert (config.status.ping, config.timeout, config.start_timeout) == (10, 5, 30)
    assert repr(config.token) == "Secret('**********')"
    assert VaultConfig.model_validate({"endpoint": "https://v/", "token": "t", "version": ""}).version == "v1"
