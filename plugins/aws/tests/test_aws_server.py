"""Real servers on AWS: their clients, their logs, and keys that are moved there and away."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import yaml

from kes_core.keys.stored import KeyVersion
from tests.helpers.aws import EXPIRED, SECRET_KEY, THROTTLED, TOKEN, AWSProxy, Moto
from tests.helpers.command import kes
from tests.helpers.server import start_server


def data_key(client: httpx.Client, name: str) -> dict[str, str]:
    answer = client.put(f"/v1/key/generate/{name}")
    assert answer.status_code == 200, answer.text
    found: dict[str, str] = answer.json()
    return found


def test_servers_on_aws(moto: Moto, tls_proxy: tuple[AWSProxy, str], tmp_path: Path) -> None:
    """Two, over TLS to AWS, as in production, and with mutual TLS to their clients."""
    proxy, ca = tls_proxy
    keystore = {"aws": {"secretsmanager": moto.section(endpoint=proxy.url, tls={"ca": ca})}}
    config = moto.config(region=keystore["aws"]["secretsmanager"]["region"])
    aws = moto.client(config)
    aws.create_secret(Name="of-go", SecretString=KeyVersion.generate("me").encode().decode())
    (tmp_path / "other").mkdir()
    server = start_server(tmp_path, {"keystore": keystore, "log": {"error": "debug", "audit": "on"}})
    other = start_server(tmp_path / "other", {"keystore": keystore})
    try:
        # Threads share the clients, which httpx allows over HTTP/1.1 only.
        with server.client(http2=False) as client, other.client(http2=False) as client_of_other:
            serves_its_keys(client, aws)
            wins_or_loses_each_race(client, client_of_other)
            repeats_what_is_throttled(client, proxy)
            says_that_credentials_have_expired(client, proxy)
            serves_cached_keys_in_an_outage(client, proxy)
            counts_its_requests(client)
        stored = aws.get_secret_value(SecretId="my-key")["SecretString"]
    finally:
        other.kill()
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


def wins_or_loses_each_race(one: httpx.Client, other: httpx.Client) -> None:
    """Of the creates of one key at the same moment one succeeds, and both servers use its key."""
    with ThreadPoolExecutor(4) as pool:
        for number in range(5):
            name = f"race-{number}"
            racing = [pool.submit(client.put, f"/v1/key/create/{name}") for client in (one, other) * 2]
            assert sorted(answer.result().status_code for answer in racing) == [200, 400, 400, 400]
            made = data_key(one, name)
            answer = other.put(f"/v1/key/decrypt/{name}", json={"ciphertext": made["ciphertext"]})
            assert answer.json()["plaintext"] == made["plaintext"]


def repeats_what_is_throttled(client: httpx.Client, proxy: AWSProxy) -> None:
    proxy.plan("CreateSecret", THROTTLED, THROTTLED, "lose", "pass")
    assert client.put("/v1/key/create/in-a-rush").status_code == 200
    proxy.plan("ListSecrets", THROTTLED, "pass")
    assert client.get("/v1/key/list/in-a").json()["names"] == ["in-a-rush"]


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


def counts_its_requests(client: httpx.Client) -> None:
    metrics = client.get("/v1/metrics").text
    (line,) = [line for line in metrics.splitlines() if line.startswith("kes_plugin_aws_requests_total")]
    assert float(line.rpartition(" ")[2]) > 10


def test_keys_move_to_aws_and_away(moto: Moto, proxy: AWSProxy, tmp_path: Path) -> None:
    aws = {"aws": {"secretsmanager": moto.section(endpoint=proxy.url)}}
    for name, keystore in {"files": {"fs": {"path": "old"}}, "aws": aws, "back": {"fs": {"path": "new"}}}.items():
        (tmp_path / f"{name}.yml").write_text(yaml.safe_dump({"keystore": keystore}))
    (tmp_path / "old").mkdir(mode=0o700)
    keys = {f"key-{number}": KeyVersion.generate("me").encode() for number in range(10)}
    for name, value in keys.items():
        (tmp_path / "old" / name).write_bytes(value)
        (tmp_path / "old" / name).chmod(0o600)
    (tmp_path / "new").mkdir(mode=0o700)
    proxy.plan("CreateSecret", "pass", THROTTLED, "lose")

    def migrate(source: str, target: str) -> dict[str, Any]:
        done = kes("migrate", "--json", "--from", f"{source}.yml", "--to", f"{target}.yml", cwd=tmp_path)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    assert migrate("files", "aws")["copied"] == 10
    assert migrate("aws", "back")["copied"] == 10
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == keys
