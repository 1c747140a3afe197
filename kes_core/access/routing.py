"""Find the route and the argument of a request, or the answer that it gets instead.

A path is decoded once, when the request arrives. Routes, policies and handlers all see the same string.
"""

from __future__ import annotations

import posixpath
from typing import Final
from urllib.parse import quote, unquote_to_bytes

from kes_core.access.errors import NotRoutedError, RequestError, error_body
from kes_core.names import is_valid_name, is_valid_pattern
from kes_core.protocol import NO_ROUTE, ROUTES, Argument, Route

__all__ = ["check_argument", "decode_path", "find_route"]

_BY_PATH: Final = {route.path: route for route in ROUTES}
_MAX_PATH_SEGMENTS: Final = 5
"""The most segments before a route's argument: `/v1/key/bulk/decrypt/`."""
_JSON: Final = (b"content-type", b"application/json")
_TEXT: Final = (b"content-type", b"text/plain; charset=utf-8")
_NO_SNIFFING: Final = (b"x-content-type-options", b"nosniff")
_LOCATION_SAFE: Final = "/%:@!$&'()*+,;=-._~"
_SUBJECTS: Final = {"key": "key name", "policy": "policy name", "identity": "identity"}


def decode_path(raw_path: bytes) -> str:
    """Return the decoded path of a request target. Bytes that are not UTF-8 stay distinct, as lone surrogates."""
    if b"%" not in raw_path:
        return raw_path.decode("utf-8", "surrogateescape")
    return unquote_to_bytes(raw_path).decode("utf-8", "surrogateescape")


def find_route(method: str, raw_path: bytes, path: str, query: bytes = b"") -> tuple[Route, str]:
    """Return the route of a request, and the argument that follows the route's path.

    Args:
        method: The method as the client sent it.
        raw_path: The path as the client sent it.
        path: `decode_path(raw_path)`.
        query: The part after the `?`.

    Raises:
        NotRoutedError: No route has this path and method, or the client is redirected.
    """
    if method == "OPTIONS" and raw_path == b"*":  # asks about the whole server (RFC 9110, section 9.3.7)
        raise NotRoutedError("method", "OPTIONS asks about the server, not about a path", 200, [])
    if method == "CONNECT":  # names a host instead of a path
        raise NotRoutedError("method", "CONNECT names no path", 404, [_TEXT, _NO_SNIFFING], NO_ROUTE)
    route, argument = _match(raw_path, path, query)
    if method != route.method and not (method == "POST" and route.method == "PUT"):
        headers = [_JSON, (b"accept", route.method.encode("ascii"))]
        body = error_body(f"received method '{method}' expected '{route.method}'")
        raise NotRoutedError("method", f"{route.path} takes {route.method}, not {method}", 405, headers, body)
    return route, argument


def _match(raw_path: bytes, path: str, query: bytes) -> tuple[Route, str]:
    """Return the route of a path, and its argument."""
    if not raw_path.startswith(b"/") or b"//" in raw_path or b"/." in raw_path:
        clean = _clean(raw_path)
        if clean != raw_path:
            raise _redirect("the path has empty parts or dots", clean, query)
    route = _BY_PATH.get(path)
    if route is not None:
        return route, ""
    end = 0
    for _segment in range(_MAX_PATH_SEGMENTS):
        end = path.find("/", end) + 1
        if not end:
            break
        route = _BY_PATH.get(path[:end])
        if route is not None:
            return route, path[end:]
    if path + "/" in _BY_PATH:
        raise _redirect("a name is missing", raw_path + b"/", query)
    raise NotRoutedError("route", f"there is no API {path!r}", 404, [_TEXT, _NO_SNIFFING], NO_ROUTE)


def _clean(raw_path: bytes) -> bytes:
    """Return a path without empty and dot segments. `%2e` is not decoded: it is an ordinary part of a name."""
    clean = b"/" + posixpath.normpath(b"/" + raw_path).lstrip(b"/")
    return clean + b"/" if raw_path.endswith(b"/") and clean != b"/" else clean


def _redirect(reason: str, raw_path: bytes, query: bytes) -> NotRoutedError:
    location = quote(raw_path, safe=_LOCATION_SAFE) + ("?" + quote(query, safe=_LOCATION_SAFE + "?") if query else "")
    headers = [_TEXT, (b"location", location.encode("ascii"))]
    return NotRoutedError("route", f"{reason}; the client is sent to {location}", 307, headers)


def check_argument(route: Route, argument: str) -> None:
    """Refuse an argument that is not a valid name or listing pattern, before the handler uses it.

    Raises:
        RequestError: It is not valid.
    """
    if route.argument is Argument.NAME:
        if not is_valid_name(argument):
            subject = _SUBJECTS[route.path.split("/")[2]]
            raise RequestError(400, f"{subject} '{argument}' is empty, too long or contains invalid characters")
    elif route.argument is Argument.PATTERN:
        pattern, separator, place = argument.partition("~")
        if not is_valid_pattern(pattern + "*" if separator else pattern) or (separator and not is_valid_name(place)):
            raise RequestError(400, f"listing pattern '{argument}' is empty, too long or is invalid")
