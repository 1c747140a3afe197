"""A request gets the same answer at once and by ASGI, and leaves the same record and the same numbers."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from kes_core.access.routing import decode_path
from kes_core.access.sender import ProvenClient
from kes_core.audit.file import FileSink
from kes_core.audit.log import AuditLog
from kes_core.builtin.static_policy import ENGINE_NAME
from kes_core.config import Section, parse_config
from kes_core.hookspecs import PluginContext, PolicyEngineType
from kes_core.plugins import load_plugins
from kes_core.policy import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.state import State, connect
from kes_core.server.wire.app import Answer, Message
from kes_core.server.workers.peers import LocalPeers

USER, OTHER = "ab" * 32, "cd" * 32
CLIENTS = {
    "user": ProvenClient(USER, "", None, verified=False, presented=True),
    "other": ProvenClient(OTHER, "", None, verified=False, presented=True),
    "nobody": ProvenClient("", "no certificate", None, verified=False, presented=False),
}


class EngineSettings(Section):
    pass


class Engine(PolicyEngine):
    """Counts what it is asked, and may wait although it promises not to."""

    is_immediate = True

    def __init__(self, *, repeatable: bool, waits: bool = False) -> None:
        self.is_repeatable = repeatable
        self.asked = 0
        self._waits = waits

    async def authorize(self, request: PolicyRequest) -> Verdict:
        self.asked += 1
        if self._waits:
            await asyncio.sleep(0)
        return Verdict(Decision.DENY if "denied" in request.path else Decision.ABSTAIN, "its rule")


class Outcome(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes
    records: list[Any]
    lines: list[Any]
    """The records in the audit file."""
    numbers: Mapping[str, Any]


class Site:
    """An application with two keys, of which one is in memory, and a policy for one of its clients."""

    def __init__(self, engine: Engine) -> None:
        async def connect_engine(_settings: EngineSettings, _context: PluginContext) -> PolicyEngine:
            return engine

        self.engine = engine
        self.runner = asyncio.Runner()
        self.metrics = Metrics()
        self.peers = LocalPeers(self.metrics)
        self.records: list[Any] = []
        self._directory = tempfile.TemporaryDirectory()
        self._file = Path(self._directory.name) / "audit.log"
        self._sinks: list[FileSink] = []
        self._kind = PolicyEngineType(name="other", config=EngineSettings, connect=connect_engine)
        state = self.runner.run(self.connect())
        self.app = KESApp(state, self.metrics, self.peers, ExpiryWatch(self.metrics))

    async def connect(self) -> State:
        policy = {"allow": ["/v1/key/*"], "deny": ["/v1/key/hmac/a*"], "identities": [USER]}
        values = {
            "admin": {"identity": "disabled"},
            "tls": {"key": "unused", "cert": "unused"},
            "keystore": {"memory": {}},
            "keys": [{"name": "my-key"}],
            "policy": {"mine": policy},
            "policy_engines": {"other": {}},
        }
        found = load_plugins()
        plugins = dataclasses.replace(found, engines={**found.engines, "other": self._kind})
        config = parse_config(yaml.safe_dump(values), filename="config.yml", plugins=plugins, environ={})
        self._sinks.append(FileSink(self._file))
        audit = AuditLog([cast("Any", self), cast("Any", self._sinks[-1])])
        return await connect(config, plugins, counters=self.metrics.store, on_key_change=self.peers.forget, audit=audit)

    def audit(self, event: Any) -> None:
        del event["time"], event["response"]["time"]
        self.records.append(event)

    def written(self) -> list[Any]:
        """Return the records in the audit file without their times, and empty the file."""
        records = [json.loads(line) for line in self._file.read_text().splitlines()]
        self._file.write_text("")
        for record in records:
            del record["time"], record["response"]["time"]
        return records

    def close(self) -> None:
        self.runner.run(self.app.server_state.close())
        self.runner.close()
        for sink in self._sinks:
            sink.finish()
        self._directory.cleanup()

    def ask(self, who: str, method: str, raw_path: bytes, body: bytes, *, at_once: bool) -> Outcome:
        self.records.clear()
        self._file.write_text("")
        before = self.numbers()
        scope: Message = {
            "type": "http",
            "method": method,
            "path": decode_path(raw_path),
            "raw_path": raw_path,
            "query_string": b"",
            "headers": [],
            "extensions": {"kes.client": CLIENTS[who]},
        }
        answer = self.runner.run(self._begin(scope, body) if at_once else self.asgi(scope, body))
        numbers = {name: value - before.get(name, 0) for name, value in self.numbers().items()}
        return Outcome(*answer, list(self.records), self.written(), numbers)

    def numbers(self) -> dict[str, int]:
        found = self.metrics.snapshot()
        counted = {
            **found["codes"],
            **found["decisions"],
            "active": found["active"],
            "times": sum(found["times"]["counts"]),
        }
        return {**counted, "hits": found["store"]["hits"], "misses": found["store"]["misses"]}

    async def _begin(self, scope: Message, body: bytes) -> Answer:
        if not self.app.may_begin(scope):
            return await self.asgi(scope, body)
        began: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        # Outside of a task, as the protocols do.
        asyncio.get_running_loop().call_soon(lambda: began.set_result(self.app.begin(scope, body)))
        answer = await began
        return answer if isinstance(answer, Answer) else cast("Answer", await answer)

    async def asgi(self, scope: Message, body: bytes) -> Answer:
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        return Answer(sent[0]["status"], sent[0]["headers"], sent[1]["body"])


@pytest.fixture(params=["repeatable", "not repeatable", "waits"], scope="module")
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    site = Site(Engine(repeatable=request.param == "repeatable", waits=request.param == "waits"))
    yield site
    site.close()


def sealed(site: Site) -> str:
    answer = site.ask("user", "PUT", b"/v1/key/encrypt/my-key", b'{"plaintext":"aGVsbG8="}', at_once=False)
    return str(json.loads(answer.body)["ciphertext"])


FREQUENT = [route.removeprefix("/v1/key/").rstrip("/").encode() for route in KESApp.frequent]
ROUTES = [*FREQUENT, b"describe", b"generate%2F"]
RANDOM = {b"generate", b"encrypt", b"bulk/generate", b"bulk/encrypt"}
NAMES = [b"my-key", b"my%2Dkey", b"absent", b"denied", b"", b"..", b"a/b", b"\xff", b"a" * 100]
MEMBERS = ["ciphertext", "plaintext", "context", "message", "Message"]
VALUES = ["aGVsbG8=", "?", "", None, 1, "CIPHERTEXT"]
OBJECTS = st.dictionaries(st.sampled_from(MEMBERS), st.sampled_from(VALUES), max_size=3)
BODIES = st.one_of(
    st.one_of(OBJECTS, st.lists(OBJECTS, max_size=3)).map(json.dumps),
    st.sampled_from(["", "{", "null", "[]", "{}", '{"ciphertext":"CIPHERTEXT"} more', "[" * 3000]),
)


def shape(body: bytes) -> Any:
    """Return the names and the lengths of what a body has, for answers that are random."""
    answer = json.loads(body)
    items = answer if isinstance(answer, list) else [answer]
    return [{name: len(value) for name, value in item.items()} for item in items]


@given(
    who=st.sampled_from(list(CLIENTS)),
    method=st.sampled_from(["PUT", "POST", "GET"]),
    route=st.sampled_from(ROUTES),
    name=st.sampled_from(NAMES),
    text=BODIES,
)
def test_both_ways_are_the_same(site: Site, who: str, method: str, route: bytes, name: bytes, text: str) -> None:
    body = text.replace("CIPHERTEXT", sealed(site)).encode()
    path = b"/v1/key/" + route + b"/" + name
    ordinary = site.ask(who, method, path, body, at_once=False)
    for _repetition in range(2):
        outcome = site.ask(who, method, path, body, at_once=True)
        if outcome.status == 200 and route in RANDOM:
            assert shape(outcome.body) == shape(ordinary.body)
            outcome = outcome._replace(body=ordinary.body)
        assert outcome == ordinary
        assert len(outcome.records) == 1
        assert outcome.lines == outcome.records


def test_known_request_takes_the_shortest_way() -> None:
    """The checks of a request are known after the first one, if the engines repeat their answers."""
    for repeatable in (True, False):
        site = Site(Engine(repeatable=repeatable))
        client = dataclasses.replace(CLIENTS["user"])

        def direct(path: bytes, site: Site = site, client: ProvenClient = client) -> object:
            return site.app.direct(client, "PUT", path, b"{}")

        async def ask(path: bytes, query: bytes = b"", site: Site = site, client: ProvenClient = client) -> None:
            scope = {"type": "http", "method": "PUT", "path": decode_path(path), "raw_path": path, "headers": []}
            answer = site.app.begin({**scope, "query_string": query, "extensions": {"kes.client": client}}, b"{}")
            if not isinstance(answer, Answer):
                await answer

        path = b"/v1/key/generate/my-key"
        assert direct(path) is None
        for other in (b"/v1/key/generate/absent/", b"/v1/key/hmac/a-key", b"/v1/key/generate/denied"):
            site.runner.run(ask(other))
            assert direct(other) is None
        site.runner.run(ask(path, b"a=b"))
        assert direct(path) is None
        site.runner.run(ask(path))
        body = direct(path)
        assert (json.loads(body).keys() == {"plaintext", "ciphertext"}) if isinstance(body, bytes) else not repeatable
        assert direct(b"/v1/key/generate/my%2Dkey") is None
        site.close()


def test_records_of_the_shortest_way_are_written_all_at_once() -> None:
    """They say what those of the ordinary way say, and `settle` writes them."""
    site = Site(Engine(repeatable=True))
    client = dataclasses.replace(CLIENTS["user"], address="192.0.2.1")
    path, bodies = b"/v1/key/decrypt/my-key", [json.dumps({"ciphertext": sealed(site)}).encode(), b"{"]
    scope: Message = {
        "type": "http",
        "method": "PUT",
        "path": path.decode(),
        "raw_path": path,
        "query_string": b"",
        "headers": [],
        "extensions": {"kes.client": client},
    }
    site.written()

    async def ask_directly() -> None:
        for body in bodies:
            answer = site.app.direct(client, "PUT", path, body)
            assert isinstance(answer, bytes | Answer)
        assert site.written() == []
        site.app.settle()

    for body in bodies:
        site.runner.run(site.asgi(scope, body))
    ordinary = site.written()
    assert [record["response"]["code"] for record in ordinary] == [200, 400]
    assert {record["request"]["policy"] for record in ordinary} == {"mine"}
    site.runner.run(ask_directly())
    assert site.written() == ordinary
    site.close()


def test_key_that_is_not_in_memory_is_read(site: Site) -> None:
    site.app.server_state.cache.forget_all()
    ciphertext = base64.b64encode(b"\0" * 60).decode()
    outcome = site.ask(
        "user", "PUT", b"/v1/key/decrypt/my-key", json.dumps({"ciphertext": ciphertext}).encode(), at_once=True
    )
    assert outcome.status == 400
    assert outcome.numbers["misses"] == 1
    assert [record["response"]["code"] for record in outcome.records] == [400]


def test_kept_permission_ends_with_the_rules() -> None:
    """Only engines that allow it are not asked again, and only until the rules change."""
    for repeatable in (True, False):
        site = Site(Engine(repeatable=repeatable))
        for number in (1, 2):
            outcome = site.ask("user", "PUT", b"/v1/key/generate/my-key", b"", at_once=True)
            assert outcome.status == 200
            assert outcome.numbers[f"{ENGINE_NAME} allow"] == 1
            assert site.engine.asked == (1 if repeatable else number)
        asked = site.engine.asked
        old = site.app.server_state
        site.app.use(site.runner.run(site.connect()))
        site.ask("user", "PUT", b"/v1/key/generate/my-key", b"", at_once=True)
        assert site.engine.asked == asked + 1
        site.runner.run(old.close())
        site.close()


def test_refusal_and_other_paths_are_decided_anew() -> None:
    site = Site(Engine(repeatable=True))
    assert site.ask("user", "PUT", b"/v1/key/generate/my-key", b"", at_once=True).status == 200
    for _repetition in range(2):
        asked = site.engine.asked
        assert site.ask("user", "PUT", b"/v1/key/generate/denied", b"", at_once=True).status == 403
        assert site.engine.asked == asked + 1
    assert site.ask("other", "PUT", b"/v1/key/generate/my-key", b"", at_once=True).status == 403
    site.close()
