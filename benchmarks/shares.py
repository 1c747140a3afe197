"""Where the time of a request goes: instructions by library (Callgrind), and samples by Python module (py-spy)."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from typing import Final

from benchmarks.loads import Load, Runner
from benchmarks.servers import Target

Shares = dict[str, float]
"""What each part takes."""

LIBRARIES: Final = {
    "kes_native/": "kes-native: TLS, HTTP",
    "cryptography/": "cryptography with its OpenSSL: operations with keys, TLS of Hypercorn",
    "libcrypto": "OpenSSL of Python: hashes",
    "libssl": "OpenSSL of Python: hashes",
    "libpython": "Python's interpreter",
    "/bin/python": "Python's interpreter",
    "_json": "Python's modules in C: JSON, base64, sockets",
    "lib-dynload": "Python's modules in C: JSON, base64, sockets",
    "libc.so": "the C library: memory, copies",
    "libc-": "the C library: memory, copies",
}
"""What a part of a library's path stands for."""
MODULES: Final = {
    "/kes_core/server/wire/": "our HTTP layer (`server/wire`)",
    "/kes_core/server/": "routes, requests, answers, metrics (`server/api`, `server/state`)",
    "/kes_core/access/": "who may do what (`access`)",
    "/kes_core/keys/": "keys: cache and cryptography (`keys`)",
    "/kes_core/": "other modules of kes-core",
    "/kes_native/": "kes-native",
    "/asyncio/": "asyncio",
}
_OTHER: Final = "the rest"
_PACKAGE: Final = re.compile(r"/site-packages/(\w+)/")
_STANDARD: Final = re.compile(r"/python3\.\d+/(\w+)")
_FRAME: Final = re.compile(r"\((.*):\d+\)$")
_SMALL: Final = 0.01
_RATE: Final = 400
"""Samples per second."""


def label(path: str, labels: dict[str, str]) -> str:
    """Return what a file is part of."""
    return next((name for part, name in labels.items() if part in path), "")


def libraries(found: Counter[str]) -> Shares:
    """Add up what belongs together."""
    shares: Counter[str] = Counter()
    for path, number in found.items():
        shares[label(path, LIBRARIES) or _OTHER] += number
    return dict(shares)


def sample(target: Target, load: Load, runner: Runner, seconds: float) -> Shares:
    """Return the share of each Python module in the time of the event loop, with what it calls in C.

    The load has to last longer than `seconds`. Without py-spy, there are no shares.
    """
    if shutil.which("py-spy") is None:
        print("py-spy is not installed, and the shares of modules are not measured: pip install py-spy")
        return {}
    loading = threading.Thread(target=runner.measure, args=(target, load))
    loading.start()
    file = runner.directory / f"{target.process.pid}.samples"
    command = ["py-spy", "record", "--format", "raw", "--full-filenames", f"--rate={_RATE}"]
    command += [f"--duration={max(1, round(seconds))}", "--output", str(file), "--pid", str(target.process.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    loading.join()
    if done.returncode:
        print(f"py-spy failed: {done.stderr}", file=sys.stderr)
        return {}
    shares: Counter[str] = Counter()
    for line in file.read_text().splitlines():
        stack, _, number = line.rpartition(" ")
        if "run_forever" not in stack:
            continue  # a thread that waits counts as busy sometimes
        frame = _FRAME.search(stack.rpartition(";")[2])
        shares[_module(frame[1]) if frame else _OTHER] += int(number)
    total = max(1, shares.total())
    large = {name: number / total for name, number in shares.most_common() if number >= total * _SMALL}
    large.pop(_OTHER, None)
    return large | {_OTHER: 1 - sum(large.values())}


def _module(path: str) -> str:
    if name := label(path, MODULES):
        return name
    if package := _PACKAGE.search(path):
        return f"`{package[1]}`"
    standard = _STANDARD.search(path)
    return f"Python's `{standard[1]}`" if standard else _OTHER
