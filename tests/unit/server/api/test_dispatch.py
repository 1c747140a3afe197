"""The dispatcher without a server: its routes, and its answers before a handler runs."""

from __future__ import annotations

import asyncio
import json
from typing import Any, cast

import pytest

from kes_core.protocol import ROUTES
from tests.helpers.app import make_app
from tests.helpers.in_process import ask


def test_every_route_is_documented() -> None:
    app = make_app()
    served = {cast("Any", route).path: route for route in app.routes}
    documented = app.openapi()["paths"]
    for route in ROUTES:
        operation = documented[route.template][route.method.lower()]
        assert operation["summary"] == route.summary
        assert cast("Any", served[route.template]).summary == route.summary
        assert ("requestBody" in operation) == (route.max_body > 0)
        assert "default" in operation["responses"]
    assert len(served) == len(ROUTES)


def test_a_request_costs_no_more_than_it_must() -> None:
    """The dispatcher gets requests directly, without FastAPI's middleware."""
    stack = make_app().build_middleware_stack()
    assert type(stack).__module__ == "kes_core.server.api.dispatch"
    assert asyncio.iscoroutinefunction(type(stack).__call__)


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (b"/v1/key/describe/my-key", 200),
        (b"/v1/key/describe/my%2Dkey", 200),
        (b"/v1/key/describe/my%252Dkey", 400),
        (b"/v1/key/describe/my-key?a=b", 200),
        (b"/v1/key/describe/\xff", 400),
        (b"/v1/key/describe/", 400),
        (b"/nope", 404),
    ],
)
def test_path_is_decoded_exactly_once(path: bytes, status: int) -> None:
    assert ask("GET", path).status == status


@pytest.mark.parametrize("path", [b"/v1/key/../status", b"/v1//status", b"/v1/./status"])
def test_path_that_is_not_clean_is_redirected_and_not_executed(path: bytes) -> None:
    answer = ask("GET", path)
    assert (answer.status, answer.headers[b"location"], answer.body) == (307, b"/v1/status", b"")


def test_wrong_method_is_refused_with_the_right_one() -> None:
    answer = ask("GET", b"/v1/key/create/x")
    assert (answer.status, answer.headers[b"accept"]) == (405, b"PUT")
    assert json.loads(answer.body) == {"message": "received method 'GET' expected 'PUT'"}


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"plaintext":"?"}', b'{"plaintext":1}', b"\xff"])
def test_body_that_is_not_what_the_route_takes_is_refused(body: bytes) -> None:
    answer = ask("PUT", b"/v1/key/encrypt/my-key", body)
    assert (answer.status, json.loads(answer.body)) == (400, {"message": "invalid request body"})
