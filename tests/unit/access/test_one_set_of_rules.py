"""`kes doctor --path` and the server make the same checks, for any request of any client under any rules."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kes_core.access.routing import decode_path
from kes_core.config import APISettings, Config, PolicySettings, Section
from kes_core.config.model import PolicyEngineChoice
from kes_core.counters import StoreCounters
from kes_core.doctor.decision import Requester, explain
from kes_core.findings import Finding
from kes_core.hookspecs import PolicyEngineType
from kes_core.policy import Decision, PolicyEngine, PolicyRequest, Verdict
from kes_core.protocol import ROUTES
from kes_core.server.api.call import Call
from kes_core.server.api.dispatch import KESApp
from kes_core.server.expiry import ExpiryWatch
from kes_core.server.metrics import Metrics
from kes_core.server.state import connect
from kes_core.server.wire.stream import Message
from kes_core.server.workers.peers import LocalPeers
from tests.helpers.certificates import make_certificate, make_server_certificate, write_pair
from tests.helpers.doctor import PLUGINS
from tests.helpers.doctor import config as make_config
from tests.helpers.effort import scaled


class OtherEngine(PolicyEngine):
    """Gives the same answer to every request, or fails."""

    def __init__(self, answer: str) -> None:
        self._answer = answer

    async def authorize(self, request: PolicyRequest) -> Verdict:
        if self._answer == "fail":
            raise RuntimeError
        return Verdict(Decision(self._answer), "always")


class OtherEngineSettings(Section):
    answer: str


async def connect_other(section: OtherEngineSettings, _context: Any) -> PolicyEngine:
    return OtherEngine(section.answer)


OTHER = PolicyEngineType(name="other", config=OtherEngineSettings, connect=connect_other)


class Site(NamedTuple):
    """The files that all cases share, so that they are made only once."""

    config: Config
    verifying: Config
    requesters: Mapping[str, Requester]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    directory = tmp_path_factory.mktemp("access")
    ca = make_certificate("A CA", ca=True, names=(), usages=None)
    write_pair(directory, ca, name="ca")
    requesters = {"nobody": Requester.anonymous()}
    for name in ("admin", "app", "proxy", "stranger"):
        write_pair(directory, make_certificate(name, issuer=ca), name=name)
        requesters[name] = Requester.from_file(directory / f"{name}.crt")
        requesters[f"{name}, identity"] = Requester(requesters[name].identity)
    write_pair(directory, make_certificate("unverified"), name="unverified")
    write_pair(directory, make_certificate("one", issuer=ca), make_certificate("two", issuer=ca), name="two")
    for name in ("ca", "unverified", "two"):
        requesters[name] = Requester.from_file(directory / f"{name}.crt")
    key, cert = make_server_certificate(directory)
    tls: dict[str, Any] = {"key": str(key), "cert": str(cert), "ca": str(directory / "ca.crt")}
    tls["proxy"] = {"identities": [requesters["proxy"].identity]}
    admin = {"identity": requesters["admin"].identity}
    plain = make_config(directory, admin=admin, tls=tls)
    return Site(plain, make_config(directory, admin=admin, tls={**tls, "auth": "on"}), requesters)


@functools.cache
def application() -> tuple[KESApp, list[Call]]:
    """Return an application whose handlers only record their calls, and the list of these calls."""
    metrics = Metrics()
    nothing: Any = None
    app = KESApp(nothing, metrics, LocalPeers(metrics), ExpiryWatch(metrics))
    calls: list[Call] = []

    async def handle(call: Call) -> None:
        calls.append(call)

    app.handlers = dict.fromkeys(app.handlers, handle)
    return app, calls


async def serve(config: Config, requester: Requester, method: str, raw_path: bytes) -> tuple[int, bool]:
    """Let the server answer a request; return its status, and whether the request reached a handler."""
    app, calls = application()
    app.server_state = state = await connect(config, PLUGINS, counters=StoreCounters(), on_key_change=app.peers.forget)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": method,
        "raw_path": raw_path,
        "path": decode_path(raw_path),
        "query_string": b"",
        "headers": [],
        "extensions": {"kes.client": requester.client("10.1.2.3", verified=config.tls.auth)},
    }
    calls.clear()
    await app.build_middleware_stack()(scope, receive, send)
    await state.close()
    return sent[0]["status"], bool(calls)


WORDS = ("my-key", "a", "..", ".", "", ".foo", "a.b", "a*", "*", "a~b", "%2e", "%2F", "%00", "%ff", "a%", "-", "ä", "_")
PATHS = [route.path for route in ROUTES]
paths = st.one_of(
    st.builds(
        lambda route, words: route + "/".join(words),
        st.sampled_from(PATHS),
        st.lists(st.sampled_from(WORDS), max_size=3),
    ),
    st.builds(lambda route, cut: route[:cut], st.sampled_from(PATHS), st.integers(0, 25)),
    st.builds(lambda text: "/" + quote(text), st.text(max_size=12)),
).filter(lambda path: path.startswith("/"))
patterns = st.one_of(
    st.builds(lambda route, end: route + end, st.sampled_from(PATHS), st.sampled_from(["", "*", "my-key", "a*"])),
    st.sampled_from(["*", "/v1/*", "", "/v1/key/*"]),
)
rules = st.lists(patterns, max_size=3).map(tuple)
METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD", "CONNECT", "OPTIONS", "PATCH")
OPENABLE = [route.path for route in ROUTES if route.may_skip_auth]


def status_of(finding: Finding) -> int:
    """Return the status that the doctor predicts."""
    found = re.search(r"\((\d{3})\)$", finding.message)
    assert found, finding
    return int(found[1])


@pytest.mark.nightly
@scaled(200)
@given(
    path=paths,
    method=st.sampled_from(METHODS),
    name=st.sampled_from(["admin", "app", "app, identity", "proxy", "stranger", "nobody", "ca", "unverified", "two"]),
    allow=rules,
    deny=rules,
    open_routes=st.lists(st.sampled_from(OPENABLE), max_size=2),
    other=st.sampled_from(["", "allow", "deny", "abstain", "fail"]),
    verifying=st.booleans(),
)
@example("/v1/key/describe/.foo", "GET", "admin", (), (), [], "", False)
@example("/v1/identity/self/describe", "GET", "nobody", (), (), ["/v1/ready"], "", False)
@example("/v1/status", "GET", "proxy", (), (), ["/v1/status"], "", False)
@example("/version", "GET", "proxy", (), (), [], "", True)
@example("/v1/key/create/a", "POST", "app", ("/v1/key/*",), (), [], "fail", False)
def test_doctor_says_what_the_server_does(
    site: Site,
    path: str,
    method: str,
    name: str,
    allow: Sequence[str],
    deny: Sequence[str],
    open_routes: Sequence[str],
    other: str,
    verifying: bool,
) -> None:
    requester, app = site.requesters[name], site.requesters["app"].identity
    policy = PolicySettings(allow=tuple(allow), deny=tuple(deny), identities=(app,))
    config = (site.verifying if verifying else site.config).model_copy(
        update={
            "policy": {"p": policy},
            "api": {route: APISettings(skip_auth=True) for route in open_routes},
            "policy_engines": (PolicyEngineChoice(OTHER, OtherEngineSettings(answer=other)),) if other else (),
        }
    )
    last = asyncio.run(explain(config, PLUGINS, requester, path, method=method, address="10.1.2.3"))[-1]
    if last.subject == "tls":  # the handshake fails, so there is no request
        assert (name == "nobody" and not open_routes) or (verifying and name in {"ca", "unverified", "two"})
        return
    status, reached = asyncio.run(serve(config, requester, method, path.encode("utf-8", "surrogateescape")))
    if last.subject == "decision":
        assert (status, reached) == (200, True)
    else:
        assert (status, reached) == (status_of(last), False), last
