"""The base class of the clauses of policy engines, and the engine and the requests of one clause."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterator
from typing import Any, Final

from kes_core.policy import Decision, PolicyEngine, PolicyRequest
from kes_core.testing._clause import Suite, credentials_of, is_defined, optional
from kes_core.testing._running import HookError, fail_hook

__all__ = ["TIMES", "EngineSuite", "EngineTrial", "odd", "odd_identities", "sample_request"]

CLOSE_TIME: Final = 5.0
"""Seconds that an engine has to close after its clause."""
TIMES: Final = 20
"""The number of repeated or concurrent requests."""
LONG: Final = 100_000
"""Characters of a name that is far too long."""
_API: Final = "/v1/key/generate/"
_REQUEST: Final = PolicyRequest(
    identity=hashlib.sha256(b"a client").hexdigest(),
    method="PUT",
    path=f"{_API}my-key",
    api=_API,
    resource="my-key",
    remote_address="192.0.2.1",
    time=dt.datetime(2026, 1, 1, 12, 0, tzinfo=dt.UTC),
)


def sample_request(**fields: Any) -> PolicyRequest:
    """Return a request to generate a data encryption key with the key `my-key`, without facts about the certificate.

    Args:
        fields: Fields with other values: `identity`, `path`, ... If `api` or `resource` changes, so does `path`.
    """
    if fields.keys() & {"api", "resource"} and "path" not in fields:
        fields["path"] = fields.get("api", _REQUEST.api) + fields.get("resource", _REQUEST.resource)
    return dataclasses.replace(_REQUEST, **fields)


class EngineSuite(Suite):
    """The methods that the author of a policy engine defines."""

    async def make_engine(self) -> PolicyEngine:
        """Return a new engine. The kit calls this once per clause, and closes the engine."""
        raise NotImplementedError("define make_engine() in the test class: it returns an engine")

    @optional
    def allowed(self) -> PolicyRequest:
        """Return a request that the engine allows. Optional: for engines that allow some requests."""
        raise NotImplementedError

    @optional
    def denied(self) -> PolicyRequest:
        """Return a request that the engine denies. Optional: for engines that deny some requests."""
        raise NotImplementedError

    def unknown(self) -> PolicyRequest:
        """Return a request that no rule of the engine covers. The default is a request of an unused identity."""
        return sample_request(identity=hashlib.sha256(b"nobody").hexdigest())

    def _make_trial(self) -> EngineTrial:
        return EngineTrial(self)


class EngineTrial:
    """The engine that one clause tests, and its requests."""

    def __init__(self, suite: EngineSuite) -> None:
        self._suite = suite
        self.log = suite.kes_log
        self.engine: PolicyEngine
        self.longest_block = suite.longest_block
        self.longest_call = suite.longest_call
        self.samples: dict[str, PolicyRequest] = {}
        """The author's requests, by the method that returns them."""

    @property
    def subject(self) -> PolicyEngine:
        """The engine of the author."""
        return self.engine

    async def begin(self) -> None:
        """Create the engine and the requests."""
        try:
            engine = await self._suite.make_engine()
        except Exception as error:
            raise HookError("make_engine() failed") from error
        if not isinstance(engine, PolicyEngine):
            fail_hook(f"make_engine() of the test class returned a {type(engine).__name__}; expected a PolicyEngine")
        self.engine = engine
        methods = {"unknown": self._suite.unknown, "allowed": self._suite.allowed, "denied": self._suite.denied}
        for name, method in methods.items():
            if is_defined(type(self._suite), name):
                try:
                    self.samples[name] = method()
                except Exception as error:
                    raise HookError(f"{name}() failed") from error

    def check_capability(self, name: str) -> None:
        """Do nothing: an engine has no capabilities."""

    def pace(self) -> str:
        """Return nothing: the calls are not counted."""
        return ""

    async def end(self, *, kept: bool) -> None:  # it matters only to sinks
        """Close the engine. Ignore errors: only one clause tests `close`."""
        if hasattr(self, "engine"):
            with contextlib.suppress(Exception):
                async with asyncio.timeout(CLOSE_TIME):
                    await self.engine.close()

    async def decide(self, request: PolicyRequest) -> Decision:
        """Return the engine's decision."""
        return (await self.engine.authorize(request)).decision

    async def answer_all(self) -> None:
        """Ask for each of the author's requests: an engine that only fails keeps no clause."""
        for request in self.samples.values():
            await self.engine.authorize(request)

    def credentials(self) -> list[bytes]:
        """Return the credentials of the engine."""
        return credentials_of(self._suite)


def odd(request: PolicyRequest) -> Iterator[tuple[str, PolicyRequest]]:
    """Yield requests that no proper client makes, each with a description."""
    resources = {
        "no resource": "",
        "a very long resource": "a" * LONG,
        "control characters": "a\x00b\r\nc\x1b[31m\x7f\u2028d",
        "letters that are not ASCII": "schlüssel-鍵-\U0001f511",
        "a surrogate": "a\udcffb",
        "dots and slashes": "../../v1/key//./delete/*",
        "wildcards": "*?[a-z]{a,b}(",
        "format characters": "%s%n{0}{name!r}$x",
    }
    for what, resource in resources.items():
        yield what, dataclasses.replace(request, resource=resource, path=request.api + resource)
    changes: dict[str, dict[str, Any]] = {
        "an empty path": {"path": "", "api": "", "resource": ""},
        "an unknown route": {"path": "/v9/nothing/x", "api": "/v9/nothing/", "resource": "x"},
        "an unknown method": {"method": "BREW\r\n"},
        "no method": {"method": ""},
        "no address": {"remote_address": ""},
        "a strange address": {"remote_address": "not an address\n%eth0"},
        "no certificate": {"certificate": None},
    }
    for what, change in changes.items():
        yield what, dataclasses.replace(request, **change)


def odd_identities(request: PolicyRequest) -> Iterator[tuple[str, PolicyRequest]]:
    """Yield requests of identities that no client has, each with a description."""
    identities = {"no identity": "", "an identity of spaces": "  ", "a wildcard": "*", "a long identity": "f" * LONG}
    for what, identity in identities.items():
        yield what, dataclasses.replace(request, identity=identity)
