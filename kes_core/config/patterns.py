"""Patterns of policies that match no request, and suggestions for them. Internal."""

from __future__ import annotations

import difflib
from typing import Final

from kes_core.names import NAME_RULE, is_valid_name, is_valid_pattern
from kes_core.protocol import ROUTES, Argument, Auth, Route

__all__ = ["problem_of"]

_ALIKE: Final = 0.6
"""The similarity of two paths, from 0 to 1, from which one may be a misspelling of the other."""


def problem_of(pattern: str) -> tuple[str, str]:
    """Return why a pattern matches no request of the API, with a suggestion; empty if it matches one."""
    if not pattern:
        return "is empty and matches nothing", "remove it"
    start, is_prefix = pattern.removesuffix("*"), pattern.endswith("*")
    if "*" in start:
        return (
            "matches no API: a * that is not at the end is an ordinary character",
            f"end it at the first *: {start.partition('*')[0]}*",
        )
    if "%" in start:
        return "matches no API: rules are compared with the decoded path", "write the characters themselves"
    matches_any = False
    for route in ROUTES:
        if _can_match(route, start, is_prefix=is_prefix):
            if route.auth is Auth.POLICY:
                return "", ""
            matches_any = True
    if matches_any:
        return "has no effect: no policy is asked about this API", "remove it"
    return "matches no API", _suggestion(start)


def _can_match(route: Route, start: str, *, is_prefix: bool) -> bool:
    """Tell whether a pattern, `start` with or without a final `*`, matches a valid request to `route`."""
    if route.argument is None:
        return route.path.startswith(start) if is_prefix else route.path == start
    if not start.startswith(route.path):
        return is_prefix and route.path.startswith(start)
    argument = start.removeprefix(route.path)
    if route.argument is Argument.NAME:
        return (is_prefix and _may_begin_name(argument)) or is_valid_name(argument)
    beginning, separator, _place = argument.partition("~")  # clients ask for the next page in this way
    return is_valid_pattern(beginning) or bool(separator) or (is_prefix and _may_begin_name(argument))


def _may_begin_name(text: str) -> bool:
    return not text or is_valid_name(text) or is_valid_name(text + "a")


def _suggestion(start: str) -> str:
    """Return a suggestion for a pattern that matches no API."""
    with_name = next((route for route in ROUTES if route.path == start + "/"), None)
    if with_name is not None:
        return f"a name follows in the path: {with_name.path}*"
    known = next((route for route in ROUTES if route.path.endswith("/") and start.startswith(route.path)), None)
    if known is not None:
        rest = start.removeprefix(known.path)
        return f"{rest!r} is not, and does not begin, a valid name: {NAME_RULE}"
    folder, _separator, rest = start.rpartition("/")
    # Compare a rule with a name without the name, and a rule for an API without names as a whole.
    likeness = {
        (route, text): difflib.SequenceMatcher(None, text, route.path.rstrip("/")).ratio()
        for route in ROUTES
        for text in (start.rstrip("/"), folder)
    }
    (route, text), ratio = max(likeness.items(), key=lambda item: item[1])
    if ratio < _ALIKE:
        return "`kes status --api` lists the APIs"
    if route.argument is None:
        return f"the closest is {route.path}"
    return f"the closest is {route.path}{rest if text == folder else ''}*"
