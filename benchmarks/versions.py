"""Measure what versions cost: CPU time of generate and decrypt on a key with 1 and with 20 versions.

One process does what lies between the base64 of a request and that of its answer.

    python3 benchmarks/versions.py

The two keys take turns in short rounds, so that both see the same machine; the result is the median of the ratios.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final

from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.encoding import decode_base64, encode_base64
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion
from kes_core.keys.versions import StoredKey

ROUNDS: Final = 200
CALLS: Final = 500
CONTEXT: Final = b"my-bucket/my-object"


async def _keys() -> tuple[KeyCache, StoredKey, StoredKey]:
    cache = KeyCache(MemoryKeyStore(), CacheExpiry())
    for name, versions in (("one", 1), ("twenty", 20)):
        await cache.create(name, KeyVersion.generate(""))
        for _ in range(versions - 1):
            await cache.rotate(name, "")
    return cache, await cache.get("one"), await cache.get("twenty")


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - started) / CALLS


def _compare(what: str, one: Callable[[], object], other: Callable[[], object]) -> float:
    times = [(_seconds(one), _seconds(other)) for _ in range(ROUNDS)]
    ratio = statistics.median(second / first for first, second in times)
    first, second = (statistics.median(column) * 1e6 for column in zip(*times, strict=True))
    print(f"{what:<34} {first:6.2f} us  {second:6.2f} us  {(ratio - 1) * 100:+5.1f} %")
    return ratio


def main() -> None:
    cache, one, twenty = asyncio.run(_keys())
    context = encode_base64(CONTEXT)
    old = encode_base64(twenty.versions[0].key.encrypt(bytes(32), CONTEXT))
    print(f"{'CPU time of one call':<34} {'1':>6} version, {'20':>5} versions")

    def generate(name: str) -> str:
        key = cache.peek(name)
        if key is None:
            sys.exit("the key has expired: the machine is too slow")
        return encode_base64(key.key.encrypt(bytes(32), decode_base64(context)))

    sealed = {
        "one": encode_base64(one.key.encrypt(bytes(32), CONTEXT)),
        "twenty": encode_base64(twenty.key.encrypt(bytes(32), CONTEXT)),
    }

    def decrypt(name: str) -> str:
        key = cache.peek(name)
        if key is None:
            sys.exit("the key has expired: the machine is too slow")
        return encode_base64(key.key.decrypt(decode_base64(sealed[name]), decode_base64(context)))

    _compare("generate", lambda: generate("one"), lambda: generate("twenty"))
    _compare("decrypt, of the newest version", lambda: decrypt("one"), lambda: decrypt("twenty"))
    sealed["twenty"] = old
    _compare("decrypt, of version 1", lambda: decrypt("one"), lambda: decrypt("twenty"))


if __name__ == "__main__":
    main()
