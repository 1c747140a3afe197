"""Requests that run while something goes wrong, and their answers."""

from __future__ import annotations

import base64
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.helpers.server import Server

__all__ = ["Answer", "Traffic"]

_PAUSE = 0.02


@dataclass(frozen=True)
class Answer:
    """The answer to one request."""

    kind: str
    """ "cached": use a key that is in the cache; "cold": describe a key that is not; "create": make a new key."""
    at: float
    status: int
    body: dict[str, Any]


@dataclass
class Traffic:
    """Three threads, each of which makes one request after the other."""

    server: Server
    answers: list[Answer] = field(default_factory=list)
    created: list[str] = field(default_factory=list)
    data_keys: list[tuple[str, str, str]] = field(default_factory=list)
    """Key name, plaintext and ciphertext of the data keys that the server returned."""
    failures: list[BaseException] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)
    _started: float = field(default_factory=time.monotonic)

    @contextmanager
    def flowing(self) -> Iterator[None]:
        """Make requests during the block, and check at its end that no answer was one that is never allowed."""
        with self.server.client() as client:
            response = client.put("/v1/key/create/cached")
            assert response.status_code == 200, (response.text, self.server.errors)
            self._data_key(client, "cached")
        threads = [
            threading.Thread(target=self._run, args=(work,)) for work in (self._cached, self._cold, self._create)
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(60)
        assert not self.failures, self.failures
        assert {answer.status for answer in self.answers} <= {200, 404, 502, 504}
        assert all(answer.body.get("message") for answer in self.answers if answer.status >= 500)

    def wait_for(self, wanted: Callable[[Answer], bool], *, timeout: float = 60) -> Answer:
        """Return the next answer that meets a condition."""
        with self._changed:
            seen = len(self.answers)
            deadline = time.monotonic() + timeout
            while True:
                for answer in self.answers[seen:]:
                    if wanted(answer):
                        return answer
                seen = len(self.answers)
                assert self._changed.wait(deadline - time.monotonic()), f"not seen; the last were {self.answers[-3:]}"

    def wait_until_healthy(self, *, within: float) -> None:
        """Wait until the server reads and creates keys again."""
        started = time.monotonic()
        for kind, status in (("cold", 404), ("create", 200)):
            self.wait_for(lambda answer, k=kind, s=status: answer.kind == k and answer.status == s)  # type: ignore[misc] # the defaults bind the loop's variables
        took = time.monotonic() - started
        assert took <= within, f"it took {took:.1f} s to recover"

    def of(self, kind: str, since: float = 0.0) -> list[Answer]:
        return [answer for answer in self.answers if answer.kind == kind and answer.at >= since]

    def check_keys(self, names: Callable[[], list[str]]) -> None:
        """Check that every key that the server created is listed once and decrypts its ciphertexts."""
        stored = names()
        assert len(stored) == len(set(stored))
        assert set(self.created) <= set(stored)
        with self.server.client() as client:
            for name, plaintext, ciphertext in self.data_keys:
                answer = client.put(f"/v1/key/decrypt/{name}", json={"ciphertext": ciphertext})
                assert answer.status_code == 200, (name, answer.text)
                assert answer.json()["plaintext"] == plaintext

    def _run(self, work: Callable[[httpx.Client, int], None]) -> None:
        try:
            with self.server.client() as client:
                for number in itertools.count():
                    if self._stop.wait(_PAUSE):
                        return
                    work(client, number)
        except BaseException as error:  # reported by `flowing`
            self.failures.append(error)

    def _note(self, kind: str, response: httpx.Response) -> bool:
        body = response.json() if response.content else {}
        with self._changed:
            self.answers.append(Answer(kind, time.monotonic() - self._started, response.status_code, body))
            self._changed.notify_all()
        return response.status_code == 200

    def _cached(self, client: httpx.Client, _number: int) -> None:
        self._note("cached", client.put("/v1/key/generate/cached", json={}))

    def _cold(self, client: httpx.Client, number: int) -> None:
        self._note("cold", client.get(f"/v1/key/describe/missing-{number}"))

    def _create(self, client: httpx.Client, number: int) -> None:
        name = f"new-{number}"
        if self._note("create", client.put(f"/v1/key/create/{name}")):
            self.created.append(name)
            self._data_key(client, name)

    def _data_key(self, client: httpx.Client, name: str) -> None:
        response = client.put(f"/v1/key/generate/{name}", json={"context": base64.b64encode(b"").decode()})
        if response.status_code == 200:
            self.data_keys.append((name, response.json()["plaintext"], response.json()["ciphertext"]))
