"""Three servers create and delete keys as if they were one server, over files and over Vault's K/V v2.

The tests check what is promised. A server keeps keys in memory for up to `cache.expiry.any`, so it may rightly describe
a key for that long after another server has deleted it. Therefore the history of three servers has only creations and
deletions; `describe` follows when all of them are done, and no server has read a key before. A server knows at once
what it has done itself, so with one server and many clients, `describe` may come at any time.

K/V v1 is not tested here: it has no check-and-set, so two creations at the same moment can both succeed in Vault.

Vault answers 204 to the deletion of a missing key, so a deletion over Vault does not show whether the key existed.
"""

from __future__ import annotations

import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.certificates import make_credentials
from tests.helpers.effort import choose, scaled
from tests.helpers.linearizability import Call, Operation, is_linearizable
from tests.helpers.openbao import OpenBao, Tenant
from tests.helpers.server import Server, start_server

pytestmark = pytest.mark.nightly

CREATED = Operation(needs=False, leaves=True)
EXISTED = Operation(needs=True, leaves=None)
DELETED = Operation(needs=True, leaves=False)
MISSED = Operation(needs=False, leaves=None)
DESCRIBED = Operation(needs=True, leaves=None)
REMOVED = Operation(needs=None, leaves=False)
"""A deletion in Vault, which does not show whether the key existed."""
UNKNOWN_CREATE = Operation(needs=None, leaves=True)
"""A creation that could not read its key back, so that its effect is unknown."""

SERVERS = 3
CLIENTS = 6


class Recorder:
    """Makes calls and records the history of each key."""

    def __init__(self, *, deletes_blindly: bool) -> None:
        self.histories: defaultdict[str, list[Call]] = defaultdict(list)
        self._deleted = REMOVED if deletes_blindly else DELETED
        self._lock = threading.Lock()

    def make(self, client: httpx.Client, operation: str, name: str) -> None:
        method = {"create": "PUT", "delete": "DELETE", "describe": "GET"}[operation]
        began = time.monotonic()
        answer = client.request(method, f"/v1/key/{operation}/{name}")
        ended = time.monotonic()
        outcome = (operation, answer.status_code)
        meanings = {
            ("create", 200): CREATED,
            ("create", 400): EXISTED,
            ("delete", 200): self._deleted,
            ("delete", 404): MISSED,
            ("describe", 200): DESCRIBED,
            ("describe", 404): MISSED,
        }
        # If another server deletes the new key before the creation has read it back, the result is unknown: 502.
        if outcome == ("create", 502):
            call = Call(began, float("inf"), UNKNOWN_CREATE)
        else:
            assert outcome in meanings, (outcome, answer.text)
            call = Call(began, ended, meanings[outcome])
        with self._lock:
            self.histories[name].append(call)

    def work(
        self, clients: Sequence[httpx.Client], names: Sequence[str], operations: Sequence[str], calls: int
    ) -> None:
        """Let all clients make calls at the same time."""
        start = threading.Barrier(len(clients))

        def run(number: int) -> None:
            chance = random.Random(number)
            start.wait()
            for _ in range(calls):
                self.make(clients[number], chance.choice(operations), chance.choice(names))

        with ThreadPoolExecutor(len(clients)) as pool:
            for done in [pool.submit(run, number) for number in range(len(clients))]:
                done.result()

    def check(self) -> None:
        for name, history in self.histories.items():
            assert is_linearizable(history), (
                f"no order of the calls explains what happened to {name}: {sorted(history)}"
            )


@pytest.fixture(scope="module", params=["fs", "vault"])
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    directory = tmp_path_factory.mktemp("servers")
    keystore: dict[str, Any] = {"fs": {"path": str(directory / "keys")}}
    if request.param == "vault":
        bao: OpenBao = request.getfixturevalue("bao")
        keystore = {"vault": Tenant(bao, "v2").section()}
    admin = make_credentials(directory, "admin")
    servers = []
    for number in range(SERVERS):
        place = directory / str(number)
        place.mkdir()
        servers.append(start_server(place, {"keystore": keystore}, admin=admin))
    yield servers
    for server in servers:
        assert server.stop() == 0


def test_history_of_three_servers_is_that_of_one(servers: list[Server], request: pytest.FixtureRequest) -> None:
    recorder = Recorder(deletes_blindly="vault" in request.node.name)
    with ExitStack() as stack:
        clients = [stack.enter_context(servers[number % SERVERS].client()) for number in range(CLIENTS)]
        for round_ in range(choose(10, 500)):
            names = [f"three-{round_}-{number}" for number in range(2)]
            recorder.work(clients, names, ["create", "create", "delete"], calls=8)
            for name in names:
                for client in clients:
                    recorder.make(client, "describe", name)
    recorder.check()


def test_one_server_knows_what_it_did(servers: list[Server], request: pytest.FixtureRequest) -> None:
    recorder = Recorder(deletes_blindly="vault" in request.node.name)
    with ExitStack() as stack:
        clients = [stack.enter_context(servers[0].client()) for _ in range(CLIENTS)]
        for round_ in range(choose(10, 500)):
            recorder.work(clients, [f"one-{round_}"], ["create", "delete", "describe", "describe"], calls=8)
    recorder.check()


# The checker itself


@scaled(200)
@given(effects=st.lists(st.sampled_from(["create", "delete", "describe"]), max_size=12), data=st.data())
def test_every_real_history_is_accepted(effects: list[str], data: st.DataObject) -> None:
    """The checker accepts calls that took effect one after the other, however much they overlap."""
    there = False
    history = []
    for moment, effect in enumerate(effects):
        operation = {
            "create": EXISTED if there else CREATED,
            "delete": DELETED if there else MISSED,
            "describe": DESCRIBED if there else MISSED,
        }[effect]
        there = operation.leaves if operation.leaves is not None else there
        before, after = data.draw(st.floats(0, 5)), data.draw(st.floats(0, 5))
        history.append(Call(moment - before, moment + after, operation))
    assert is_linearizable(history)


@pytest.mark.parametrize(
    "history",
    [
        [Call(0, 1, CREATED), Call(2, 3, CREATED)],
        [Call(0, 2, CREATED), Call(1, 3, CREATED)],
        [Call(0, 1, CREATED), Call(2, 3, MISSED)],
        [Call(0, 1, CREATED), Call(2, 3, DELETED), Call(4, 5, DESCRIBED)],
        [Call(0, 1, CREATED), Call(2, 5, DELETED), Call(3, 4, DELETED)],
        [Call(0, 1, MISSED), Call(0, 1, EXISTED)],
        [Call(0, 1, CREATED), Call(2, 3, REMOVED), Call(4, 5, EXISTED)],
        [Call(0, float("inf"), UNKNOWN_CREATE), Call(2, 3, DELETED), Call(4, 5, DELETED)],
    ],
)
def test_impossible_history_is_found(history: list[Call]) -> None:
    assert not is_linearizable(history)


def test_call_without_a_result_explains_either() -> None:
    for then in (DESCRIBED, MISSED):
        assert is_linearizable([Call(0, float("inf"), UNKNOWN_CREATE), Call(2, 3, then)])
