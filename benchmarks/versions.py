"""Measure what versions cost: generate and decrypt on a key with 1 and with 20 versions.

One process does what lies between the base64 of a request and that of its answer.

    python3 benchmarks/versions.py                  CPU time
    python3 benchmarks/versions.py --instructions   instructions, counted by Callgrind: needs valgrind
    python3 benchmarks/versions.py --check          the same, and fails if 20 versions take over 5 % more

For CPU time, the two keys take turns in short rounds, so that both see the same machine; the result is the median of
the ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.callgrind import by_library, control, dump  # from the project's root
from kes_core.builtin.memory import MemoryKeyStore
from kes_core.config import CacheExpiry
from kes_core.encoding import decode_base64, encode_base64
from kes_core.keys.cache import KeyCache
from kes_core.keys.stored import KeyVersion
from kes_core.keys.versions import StoredKey

ROUNDS: Final = 200
CALLS: Final = 500
CONTEXT: Final = b"my-bucket/my-object"
LIMIT: Final = 1.05
_WARM, _SHORT, _LONG = 100, 200, 800
_PLACE: Final = "KES_BENCHMARK_CALLGRIND"
"""The environment variable with the directory of the dumps, for the process under Callgrind."""

Case = tuple[Callable[[], object], Callable[[], object]]
"""A call on the key with one version, and the same on the key with 20."""


async def _keys() -> tuple[KeyCache, StoredKey, StoredKey]:
    cache = KeyCache(MemoryKeyStore(), CacheExpiry(any=3600, unused=3600))
    for name, versions in (("one", 1), ("twenty", 20)):
        await cache.create(name, KeyVersion.generate(""))
        for _ in range(versions - 1):
            await cache.rotate(name, "")
    return cache, await cache.get("one"), await cache.get("twenty")


def _cases() -> dict[str, Case]:
    """Return the calls to compare, by what they do."""
    cache, one, twenty = asyncio.run(_keys())
    context = encode_base64(CONTEXT)

    def key(name: str) -> StoredKey:
        found = cache.peek(name)
        if found is None:
            sys.exit("the key has expired: the machine is too slow")
        return found

    def generate(name: str) -> str:
        return encode_base64(key(name).key.encrypt(bytes(32), decode_base64(context)))

    def decrypt(name: str, sealed: str) -> str:
        return encode_base64(key(name).key.decrypt(decode_base64(sealed), decode_base64(context)))

    only = partial(decrypt, "one", encode_base64(one.key.encrypt(bytes(32), CONTEXT)))
    newest = partial(decrypt, "twenty", encode_base64(twenty.key.encrypt(bytes(32), CONTEXT)))
    oldest = partial(decrypt, "twenty", encode_base64(twenty.versions[0].key.encrypt(bytes(32), CONTEXT)))
    return {
        "generate": (partial(generate, "one"), partial(generate, "twenty")),
        "decrypt, of the newest version": (only, newest),
        "decrypt, of version 1": (only, oldest),
    }


Pairs = dict[str, tuple[float, float]]
"""By operation: what a call costs with one version, and with 20."""


def _seconds(call: Callable[[], object]) -> float:
    started = time.process_time()
    for _ in range(CALLS):
        call()
    return (time.process_time() - started) / CALLS


def _print(what: str, first: float, second: float, unit: str = "") -> None:
    print(f"{what:<34} {first:9,.2f} {unit:2} {second:9,.2f} {unit:2} {(second / first - 1) * 100:+5.1f} %")


def measure(rounds: int) -> Pairs:
    """Print the CPU times of a call with one version and with 20, in microseconds; return them by operation."""
    print(f"{'CPU time of one call':<34} {'1':>4} version, {'20':>4} versions")
    found = {}
    for what, (one, other) in _cases().items():
        times = [(_seconds(one), _seconds(other)) for _ in range(rounds)]
        first = statistics.median(first for first, _second in times) * 1e6
        found[what] = first, first * statistics.median(second / first for first, second in times)
        _print(what, *found[what], "us")
    return found


def _under_callgrind(place: Path) -> None:
    """Print the instructions of each number of calls, in the order of the cases, after the first case once more.

    In the very first measurement, Python and Callgrind do things that they do only once.
    """
    cases = _cases()
    gc.disable()  # it would look at all objects during some of the calls
    control("--instr=on", os.getpid())
    first = next(iter(cases.values()))
    for calls in (first, *cases.values()):
        for call in calls:
            for _ in range(_WARM):
                call()
            for number in (_SHORT, _LONG):

                def repeat(call: Callable[[], object] = call, number: int = number) -> None:
                    for _ in range(number):
                        call()

                total = sum(map(Counter.total, map(by_library, dump(os.getpid(), place, repeat))))
                print(total, flush=True)


def count() -> Pairs:
    """Print the instructions of a call with one version and with 20; return them by operation."""
    with tempfile.TemporaryDirectory() as place:
        command = ["valgrind", "--tool=callgrind", "--quiet", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={place}/callgrind.out.%p", sys.executable, str(Path(__file__).resolve())]
        environ = os.environ | {"PYTHONHASHSEED": "0", _PLACE: place}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    totals = [int(line) for line in done.stdout.splitlines()]
    if done.returncode or not totals:
        sys.exit(done.stderr)
    del totals[:4]  # two numbers of calls on two keys
    each = iter((long - short) / (_LONG - _SHORT) for short, long in zip(totals[::2], totals[1::2], strict=True))
    print(f"{'instructions of one call':<34} {'1':>4} version, {'20':>4} versions")
    found = {}
    for what in ("generate", "decrypt, of the newest version", "decrypt, of version 1"):
        found[what] = next(each), next(each)
        _print(what, *found[what])
    return found


def main() -> None:
    if _PLACE in os.environ:
        _under_callgrind(Path(os.environ[_PLACE]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", action="store_true", help="count instructions instead of CPU time")
    parser.add_argument("--check", action="store_true", help="count instructions, and fail if they are too many")
    options = parser.parse_args()
    found = count() if options.instructions or options.check else measure(ROUNDS)
    if options.check and any(many > one * LIMIT for one, many in found.values()):
        sys.exit("a call on a key with 20 versions takes more than 5 % more")


if __name__ == "__main__":
    main()
