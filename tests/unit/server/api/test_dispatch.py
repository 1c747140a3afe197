"""The routes of the FastAPI application: all of the table's, all documented."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from fastapi.openapi.utils import get_openapi

from kes_core.protocol import ROUTES
from tests.helpers.app import make_app


def test_every_route_is_documented() -> None:
    app = make_app()
    served = {cast("Any", route).path: route for route in app.routes}
    schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
    documented = schema["paths"]
    for route in ROUTES:
        path = route.path + (f"{{{route.argument.value}}}" if route.argument else "")
        operation = documented[path][route.method.lower()]
        assert operation["summary"] == route.summary
        assert ("requestBody" in operation) == (route.max_body > 0)
        assert "default" in operation["responses"]
    assert len(served) == len(ROUTES)


def test_a_request_costs_no_more_than_it_must() -> None:
    """No middleware of FastAPI stands in a request's way: it is the dispatcher that answers."""
    stack = make_app().build_middleware_stack()
    assert type(stack).__module__ == "kes_core.server.api.dispatch"
    assert asyncio.iscoroutinefunction(type(stack).__call__)
