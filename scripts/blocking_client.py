"""Write the blocking client from the asynchronous one: `python3 scripts/blocking_client.py`.

`--check` writes nothing; the exit code is 1 if the blocking client is out of date.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

CLIENT: Final = Path(__file__).resolve().parent.parent / "kes_core" / "client"
_REPLACEMENTS: Final = (
    (
        r'"""The asynchronous client\. .*?"""',
        '"""The blocking client. `scripts/blocking_client.py` generates this module from `aio`: do not edit it."""',
    ),
    (
        r"An asynchronous client\. All tasks of an event loop may share it\. Use `async with`, or call `aclose`\.",
        "A blocking client. Threads may share it. Use `with`, or call `close`.",
    ),
    (r"\basync (def|with|for)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\bAsync(Client|LogStream|Iterator|Retrying|BaseTransport)\b", r"\1"),
    # httpcore's connections of HTTP/2 are not thread-safe. With HTTP/1.1, each thread has a connection of its own.
    (r"http2=True,  # .*", "http2=False,  # a connection of HTTP/2 is not thread-safe"),
    (r"\brunning_loop\(\), ", ""),
    (r"    running_loop,\n", ""),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"\ba(close|iter_raw|iter_bytes)\b", r"\1"),
)


def blocking() -> str:
    """Return the source of the blocking client."""
    source = (CLIENT / "aio.py").read_text()
    for pattern, replacement in _REPLACEMENTS:
        source = re.sub(pattern, replacement, source)
    # `from collections.abc` sorts its names.
    return source.replace("import Iterator, Iterable, Sequence", "import Iterable, Iterator, Sequence")


def main() -> None:
    target = CLIENT / "blocking.py"
    if "--check" not in sys.argv[1:]:
        target.write_text(blocking())
    elif target.read_text() != blocking():
        sys.exit("kes_core/client/blocking.py is out of date: run python3 scripts/blocking_client.py")


if __name__ == "__main__":
    main()
