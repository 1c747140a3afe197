"""A request through a front end's door gets what the same request over HTTP gets: answer, record and metrics."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kes_core import KeyUseError
from kes_core.access.sender import ProvenClient
from kes_core.encoding import decode_base64, encode_base64
from kes_core.testing import FrontendHost

REAL = ("enabled", "rotated", "disabled", "refused")
OPERATIONS = ("generate", "encrypt", "decrypt", "describe", "versions")
STRANGER = "7f" * 32


class Question(NamedTuple):
    """A request, whichever way it goes."""

    operation: str
    name: str
    who: str
    """ "client", "admin" or "stranger"."""
    data: bytes
    """The plaintext."""
    associated_data: bytes
    damage: str
    """What is wrong with a ciphertext: "", "altered", "cut", or "associated data"."""


QUESTIONS = st.builds(
    Question,
    operation=st.sampled_from(OPERATIONS),
    name=st.sampled_from([*REAL, "none"]),  # a door checks names earlier than HTTP
    who=st.sampled_from(["client", "client", "client", "admin", "stranger"]),
    data=st.binary(max_size=40),
    associated_data=st.binary(max_size=10),
    damage=st.sampled_from(["", "", "altered", "cut", "associated data"]),
)


class Outcome(NamedTuple):
    """What somebody sees of a request."""

    status: int
    answer: Any
    """The error message, the plaintext, or facts about the key."""
    record: Any
    """The audit record, without times and what has to differ."""
    counted: Mapping[str, int]
    """What the metrics have counted: statuses, and decisions by layer."""


class Way:
    """A server with keys in several states, and a way to it."""

    def __init__(self, host: FrontendHost) -> None:
        self.host = host
        self.app = host._app

    async def prepare(self) -> None:
        """Make the keys."""
        for name in REAL:
            await self.host.create_key(name)
        await self.host.rotate_key("rotated")
        await self.host.disable_key("disabled")
        await self.host.set_policy(allow=["/v1/key/*"], deny=[f"/v1/key/{each}/refused" for each in OPERATIONS])

    def identity(self, question: Question) -> str:
        return {"client": self.host.identity, "admin": self.host.admin, "stranger": STRANGER}[question.who]

    async def ciphertext(self, question: Question) -> tuple[bytes, bytes]:
        """Return a ciphertext of the question's key and its associated data. Either may be wrong, as the question says.

        A key that does not exist has ciphertexts of another one.
        """
        key = await self.app.server_state.cache.get(question.name if question.name in REAL else "enabled")
        sealed = key.key.encrypt(question.data, question.associated_data)
        if question.damage == "altered":
            sealed = sealed[:-1] + bytes([sealed[-1] ^ 1])
        if question.damage == "cut":
            sealed = sealed[:-1]
        return sealed, question.associated_data + (b"!" if question.damage == "associated data" else b"")

    async def opened(self, name: str, ciphertext: bytes, associated_data: bytes) -> bytes:
        key = await self.app.server_state.cache.get(name)
        return key.key.decrypt(ciphertext, associated_data)

    async def outcome(self, question: Question) -> Outcome:
        """Return what somebody sees who asks this question."""
        sealed, associated_data = await self.ciphertext(question)
        before = self.counters()
        status, answer = await self.ask(question, sealed, associated_data)
        counted, record = self.counters() - before, self.host.records[-1]
        request = {name: value for name, value in record["request"].items() if name not in {"frontend", "ip"}}
        response = {name: value for name, value in record["response"].items() if name != "time"}
        return Outcome(status, answer, (request, response), counted)

    def counters(self) -> Counter[str]:
        numbers = self.app.metrics.snapshot()
        return Counter(numbers["codes"] | numbers["decisions"])

    async def ask(self, question: Question, sealed: bytes, associated_data: bytes) -> tuple[int, Any]:
        """Ask; return the status and the answer."""
        raise NotImplementedError


class ByDoor(Way):
    async def ask(self, question: Question, sealed: bytes, associated_data: bytes) -> tuple[int, Any]:
        try:
            return 200, await self.answer(question, sealed, associated_data)
        except KeyUseError as error:
            return error.status, str(error)

    async def answer(self, question: Question, sealed: bytes, associated_data: bytes) -> Any:
        me, name, keys = self.identity(question), question.name, self.host.keys
        match question.operation:
            case "generate":
                made = await keys.generate(me, name, associated_data=associated_data)
                assert await self.opened(name, made.ciphertext, associated_data) == made.plaintext
                return made.version
            case "encrypt":
                encrypted = await keys.encrypt(me, name, question.data, associated_data=associated_data)
                return encrypted.version, await self.opened(name, encrypted.ciphertext, associated_data)
            case "decrypt":
                return await keys.decrypt(me, name, sealed, associated_data=associated_data)
            case "describe":
                found = await keys.describe(me, name)
                return found.name, found.algorithm, found.version, found.state
            case _:
                return [(each.version, each.algorithm) for each in await keys.versions(me, name)]


class ByHTTP(Way):
    async def ask(self, question: Question, sealed: bytes, associated_data: bytes) -> tuple[int, Any]:
        context = encode_base64(associated_data)
        members = {
            "generate": {"context": context},
            "encrypt": {"plaintext": encode_base64(question.data), "context": context},
            "decrypt": {"ciphertext": encode_base64(sealed), "context": context},
        }.get(question.operation)
        status, body = await self.request(question, "GET" if members is None else "PUT", json.dumps(members).encode())
        if status != 200:
            return status, body["message"]
        match question.operation:
            case "generate":
                opened = await self.opened(question.name, decode_base64(body["ciphertext"]), associated_data)
                assert opened == decode_base64(body["plaintext"])
                return status, int(body.get("version", 1))
            case "encrypt":
                opened = await self.opened(question.name, decode_base64(body["ciphertext"]), associated_data)
                return status, (int(body.get("version", 1)), opened)
            case "decrypt":
                return status, decode_base64(body["plaintext"])
            case "describe":
                return status, (
                    body["name"],
                    body["algorithm"],
                    int(body.get("version", 1)),
                    body.get("state", "enabled"),
                )
            case _:
                return status, [(int(each["version"]), each["algorithm"]) for each in body["versions"]]

    async def request(self, question: Question, method: str, body: bytes) -> tuple[int, Any]:
        """Send a request over HTTP, without the network; return the status and the JSON value of the answer."""
        path = f"/v1/key/{question.operation}/{question.name}"
        client = ProvenClient(self.identity(question), "", None, verified=True, presented=True, address="192.0.2.1")
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [],
            "client": ("192.0.2.1", 50000),
            "extensions": {"kes.client": client},
        }
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return sent[0]["status"], json.loads(b"".join(each.get("body", b"") for each in sent[1:]))


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[asyncio.Runner, Way, Way]]:
    """Two servers with the same keys and policies, one asked by its door and one over HTTP."""
    with asyncio.Runner() as runner:
        hosts = [FrontendHost(tmp_path_factory.mktemp("host")) for _ in range(2)]
        for host in hosts:
            runner.run(host.__aenter__())
        door, http = ByDoor(hosts[0]), ByHTTP(hosts[1])
        for way in (door, http):
            runner.run(way.prepare())
        yield runner, door, http
        for host in hosts:
            runner.run(host.__aexit__(None, None, None))


@given(question=QUESTIONS)
def test_door_answers_as_http(ways: tuple[asyncio.Runner, Way, Way], question: Question) -> None:
    runner, door, http = ways
    assert runner.run(door.outcome(question)) == runner.run(http.outcome(question))
