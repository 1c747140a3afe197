"""Names of keys, policies and identities, and listing patterns (protocol section 3)."""

import re
from typing import Final

__all__ = ["MAX_NAME_LENGTH", "NAME_RULE", "is_valid_name", "is_valid_pattern"]

MAX_NAME_LENGTH: Final = 80
"""The longest name, in characters. All of them are ASCII, so in bytes too."""
NAME_RULE: Final = f"1 to {MAX_NAME_LENGTH} of A-Z a-z 0-9 - _, no - at either end"
"""The rule for valid names, for messages."""

_NAME: Final = re.compile(r"(?!_\Z)(?!-)[A-Za-z0-9_-]{1,80}(?<!-)", re.ASCII)
# The prefix in a pattern is the start of a name. It may end with a hyphen only before a `*`.
_PREFIX: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,79}\*", re.ASCII)


def is_valid_name(name: str) -> bool:
    """Tell whether `name` may be the name of a key, a policy or an identity."""
    return _NAME.fullmatch(name) is not None


def is_valid_pattern(pattern: str) -> bool:
    """Tell whether `pattern` may select names: a name, or the start of one and a final `*`; empty selects all."""
    return pattern in {"", "*"} or _NAME.fullmatch(pattern) is not None or _PREFIX.fullmatch(pattern) is not None
