"""Real servers on AWS: their clients, their logs, and keys that are moved there and away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
import yaml

from kes_core.keys.stored import KeyVersion
from tests.helpers.aws import EXPIRED, SECRET_KEY, THROTTLED, TOKEN, AWSProxy, Moto, write_ca
from tests.helpers.command import kes
from tests.helpers.server import Server, start_failing, start_server


@pytest.fixture
def tls_proxy(moto: Moto) -> Iterator[tuple[AWSProxy, trustme.CA]]:
    ca = trustme.CA()
    with AWSProxy(moto, ca).running() as running:
        yield running, ca
        assert running.is_over()


def section(moto: Moto, proxy: AWSProxy, ca: trustme.CA, directory: Path, **fields: Any) -> dict[str, Any]:
    own = moto.section(endpoint=proxy.url, tls={"ca": write_ca(ca, directory)}, **fields)
    return {"aws": {"secretsmanager": own}}


def data_key(client: httpx.Client, name: str) -> dict[str, str]:
    answer = client.put(f"/v1/key/generate/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def test_server_on_aws(moto: Moto, tls_proxy: tuple[AWSProxy, trustme.CA], tmp_path: Path) -> None:
    """Over TLS to AWS, as in production, and with mutual TLS to its clients."""
    proxy, ca = tls_proxy
    keystore = section(moto, proxy, ca, tmp_path)
    config = moto.config(region=keystore["aws"]["secretsmanager"]["region"])
    aws = moto.client(config)
    aws.create_secret(Name="of-go", SecretString=KeyVersion.generate("me").encode().decode())
    server = start_server(tmp_path, {"keystore": keystore, "log": {"error": "debug", "audit": "on"}})
    try:
        with server.client() as client:
            serves_its_keys(client, aws)
            repeats_what_is_throttled(client, proxy)
            says_that_credentials_have_expired(client, proxy)
            serves_cached_keys_in_an_outage(client, proxy)
        stored = aws.get_secret_value(SecretId="my-key")["SecretString"]
    finally:
        assert server.stop() == 0
    log = "\n".join(server.errors)
    for secret in (SECRET_KEY, TOKEN, stored):
        assert secret not in log


def serves_its_keys(client: httpx.Client, aws: Any) -> None:
    assert client.put("/v1/key/create/my-key").status_code == 200
    again = client.put("/v1/key/create/my-key")
    assert (again.status_code, again.json()) == (400, {"message": "key already exists"})
    for name in ("my-key", "of-go"):
        made = data_key(client, name)
        answer = client.put(f"/v1/key/decrypt/{name}", json={"ciphertext": made["ciphertext"]})
        assert answer.json()["plaintext"] == made["plaintext"]
    assert client.get("/v1/key/list/").json()["names"] == ["my-key", "of-go"]
    assert client.delete("/v1/key/delete/of-go").status_code == 200
    assert [secret["Name"] for secret in aws.list_secrets(IncludePlannedDeletion=True)["SecretList"]] == ["my-key"]
    assert client.get("/v1/ready").status_code == 200


def repeats_what_is_throttled(client: httpx.Client, proxy: AWSProxy) -> None:
    proxy.plan("CreateSecret", THROTTLED, THROTTLED, "lose", "pass")
    assert client.put("/v1/key/create/in-a-rush").status_code == 200
    proxy.plan("ListSecrets", THROTTLED, "pass")
    assert client.get("/v1/key/list/").json()["names"] == ["in-a-rush", "my-key"]


def says_that_credentials_have_expired(client: httpx.Client, proxy: AWSProxy) -> None:
    proxy.always("*", EXPIRED)
    answer = client.put("/v1/key/create/too-late")
    assert (answer.status_code, answer.json()["reason"]) == (502, "forbidden")
    ready = client.get("/v1/ready")
    assert (ready.status_code, ready.json()["reason"]) == (502, "forbidden")
    proxy.always("*", None)
    assert client.get("/v1/ready").status_code == 200


def serves_cached_keys_in_an_outage(client: httpx.Client, proxy: AWSProxy) -> None:
    data_key(client, "my-key")
    proxy.always("*", "cut")
    data_key(client, "my-key")
    answer = client.get("/v1/ready")
    assert (answer.status_code, answer.json()["reason"]) == (504, "unreachable")
    proxy.always("*", None)
    assert client.get("/v1/ready").status_code == 200


def test_two_servers_race_on_creates(moto: Moto, tmp_path: Path) -> None:
    """Of two creates of one key at the same moment one succeeds, and both servers use its key."""
    keystore = {"aws": {"secretsmanager": moto.section()}}
    servers: list[Server] = []
    try:
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            servers.append(start_server(tmp_path / name, {"keystore": keystore}))
        with servers[0].client() as one, servers[1].client() as other, ThreadPoolExecutor(8) as pool:
            for number in range(8):
                name = f"key-{number}"
                racing = [pool.submit(client.put, f"/v1/key/create/{name}") for client in (one, other) * 2]
                assert sorted(answer.result().status_code for answer in racing) == [200, 400, 400, 400]
                made = data_key(one, name)
                answer = other.put(f"/v1/key/decrypt/{name}", json={"ciphertext": made["ciphertext"]})
                assert answer.json()["plaintext"] == made["plaintext"]
    finally:
        for server in servers:
            server.kill()


def test_server_that_does_not_start(moto: Moto, tls_proxy: tuple[AWSProxy, trustme.CA], tmp_path: Path) -> None:
    proxy, ca = tls_proxy
    keystore = section(moto, proxy, ca, tmp_path)
    untrusted = {"aws": {"secretsmanager": keystore["aws"]["secretsmanager"] | {"tls": {}}}}
    code, error = start_failing(tmp_path, {"keystore": untrusted})
    assert code == 1
    assert f"the certificate of AWS at {proxy.url} is not trusted: if a proxy of yours opens the TLS" in error
    proxy.always("*", EXPIRED)
    code, error = start_failing(tmp_path, {"keystore": keystore})
    assert code == 1
    assert "the credentials for AWS have expired (ExpiredTokenException)" in error
    assert "Traceback" not in error


def test_keys_move_to_aws_and_away(moto: Moto, proxy: AWSProxy, tmp_path: Path) -> None:
    aws = {"aws": {"secretsmanager": moto.section(endpoint=proxy.url)}}
    for name, keystore in {"files": {"fs": {"path": "old"}}, "aws": aws, "back": {"fs": {"path": "new"}}}.items():
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({"keystore": keystore}))
    (tmp_path / "old").mkdir(mode=0o700)
    keys = {f"key-{number}": KeyVersion.generate("me").encode() for number in range(10)}
    for name, value in keys.items():
        (tmp_path / "old" / name).write_bytes(value)
        (tmp_path / "old" / name).chmod(0o600)
    proxy.plan("CreateSecret", "pass", THROTTLED, "lose")

    def migrate(source: str, target: str) -> dict[str, Any]:
        done = kes("migrate", "--json", "--from", f"{source}.yml", "--to", f"{target}.yml", cwd=tmp_path)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    assert migrate("files", "aws")["copied"] == 10
    assert migrate("files", "aws")["identical"] == 10
    assert migrate("aws", "back")["copied"] == 10
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == keys
