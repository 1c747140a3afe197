"""What growth costs: policies, keys in memory, versions, an audit log, idle connections, and one more worker.

Each function returns the results of its rounds. The servers of a function run at the same time, and their measurements
alternate, so that they see the same machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.loads import Load, Result, Rows, Runner, in_rounds
from benchmarks.servers import KEY, Servers, Target, open_sockets
from benchmarks.verdicts import SIZES
from kes_core.keys.stored import KeyVersion

BASE: Final = "base"
VERSIONS: Final = 20
_AT_ONCE: Final = 16
_WORKERS_AT_ONCE: Final = 256
"""Connections to all workers. They open at the same time."""
LOADS: Final = (Load("generate", False, _AT_ONCE), Load("generate", True, _AT_ONCE))
CONNECTIONS: Final = Load("generate", False, 1, new_connection=True)
_LISTINGS: Final = 100
_KIB: Final = 1024

Found = dict[str, Any]
"""The `rows` of the rounds, and other numbers."""


@dataclass(frozen=True)
class Sizes:
    """How far things grow."""

    policies: int = SIZES["policies"]
    identities: int = SIZES["identities"]
    keys: int = SIZES["keys"]
    connections: int = SIZES["connections"]

    @classmethod
    def scaled(cls, scale: float) -> Sizes:
        """Return less growth, or more."""
        return cls(**{name: max(1, round(number * scale)) for name, number in SIZES.items()})


def many_policies(sizes: Sizes) -> dict[str, Any]:
    """Return policies, each with two patterns and its share of the identities."""
    identities = [os.urandom(32).hex() for _ in range(sizes.identities)]
    return {
        f"tenant-{number}": {
            "allow": [f"/v1/key/generate/tenant-{number}-*", f"/v1/key/decrypt/tenant-{number}-*"],
            "identities": identities[number :: sizes.policies],
        }
        for number in range(sizes.policies)
    }


@contextmanager
def _private_files() -> Iterator[None]:
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def fill(folder: Path, keys: int) -> None:
    """Write keys into the directory of a key store in files. All have the same value, which takes less time to make."""
    value = KeyVersion.generate("").encode()
    with _private_files():
        folder.mkdir(mode=0o700)
        for number in range(keys):
            (folder / f"key-{number}").write_bytes(value)


def policies(runtime: str, sizes: Sizes, rounds: int, servers: Servers, runner: Runner) -> Found:
    """Compare one policy with many: the CPU time of requests, and the start."""
    many = many_policies(sizes)
    grown = servers.runtime(runtime, policies=many)
    base = servers.runtime(runtime, BASE)
    starts = {
        name: {"cpu": target.cpu_seconds(), "mib": target.resident_mib()}
        for name, target in ((BASE, base), ("policies", grown))
    }
    servers.stop(grown)
    targets = [base, servers.variant(base, "policies", {"policy": many})]
    rows = in_rounds(rounds, [*LOADS, CONNECTIONS], targets, runner.measure)
    servers.stop(base)
    return {"rows": rows, "start": starts}


def cached_keys(runtime: str, sizes: Sizes, store: Path, rounds: int, servers: Servers, runner: Runner) -> Found:
    """Compare one key in memory with many, of which one or all are used; and return the KiB of memory for a key."""
    settings = {"cache": {"expiry": {"any": "1h", "unused": "1h"}}, "keystore": {"fs": {"path": str(store)}}}
    base = servers.runtime(runtime, BASE)
    one, every = servers.runtime(runtime, "cached keys, one used", changes=settings), "cached keys, all used"
    in_turn = Target(every, one.process, one.url, {"generate": ("/v1/key/generate/key-{n}", "{}")})
    first = max(1, sizes.keys // 10)  # with them, the server also gets its threads and their memory
    runner.measure(in_turn, LOADS[0], count=first, keys=first)
    before = one.resident_mib()
    runner.measure(in_turn, LOADS[0], count=sizes.keys, keys=sizes.keys)
    size = (one.resident_mib() - before) * _KIB / max(1, sizes.keys - first)

    def measure(target: Target, load: Load) -> Result:
        return runner.measure(target, load, keys=sizes.keys if target is in_turn else 1)

    rows = in_rounds(rounds, LOADS, [base, one, in_turn], measure)
    # The names of ten keys at most begin like that of the last but one in the order of numbers.
    lists = {
        "its only key": listing(base, KEY, servers),
        "a few keys by prefix": listing(one, f"key-{max(sizes.keys - 2, 0) // 10}", servers),
        "all keys, one page": listing(one, "", servers),
    }
    servers.stop(base, one)
    return {"rows": rows, "kib": size, "listing": lists}


def listing(target: Target, prefix: str, servers: Servers) -> float:
    """Return the seconds of CPU time that a server needs to list a page of the keys whose names begin with `prefix`."""
    url = f"{target.url}/v1/key/list/{prefix}*"
    servers.call("GET", url)
    before = target.cpu_seconds()
    for _ in range(_LISTINGS):
        servers.call("GET", url)
    return (target.cpu_seconds() - before) / _LISTINGS


def audit_and_versions(runtime: str, rounds: int, servers: Servers, runner: Runner) -> Found:
    """Compare with an audit log in a file, and a key with one version with one of 20."""
    base = servers.runtime(runtime, BASE)
    log = servers.directory / f"{runtime}-audit.log"
    audited = servers.variant(base, "audit", {"audit": {"file": {"path": str(log)}}})
    rows = in_rounds(rounds, LOADS, [base, audited], runner.measure)
    servers.use(base)
    log.unlink()
    servers.add_versions(base, VERSIONS)
    grown = {operation: base.requests[f"{operation} with {VERSIONS} versions"] for operation in ("generate", "decrypt")}
    versions = Target("versions", base.process, base.url, grown)
    loads = [Load(operation, False, _AT_ONCE) for operation in grown]
    other = in_rounds(rounds, loads, [base, versions], runner.measure)
    servers.stop(base)
    return {"rows": rows, "versions": other}


def idle_connections(runtime: str, sizes: Sizes, rounds: int, servers: Servers, runner: Runner) -> Found:
    """Compare with many idle connections; and return the KiB of memory for one, of each round.

    Each round has a new server: memory that earlier connections have left free would serve the next ones.
    """
    rows: Rows = {str(load): {BASE: [], "idle connections": []} for load in LOADS}
    memory: dict[str, list[float]] = {"HTTP/1.1": [], "HTTP/2": []}
    for _ in range(rounds):
        for load, sizes_found in zip(LOADS, memory.values(), strict=True):
            target = servers.runtime(runtime)
            with runner.connections(target, Load("generate", load.http2, 1)):
                before = target.resident_mib()
            with runner.connections(target, Load("generate", load.http2, sizes.connections)):
                sizes_found.append((target.resident_mib() - before) * _KIB / sizes.connections)
                rows[str(load)]["idle connections"].append(runner.measure(target, load))
            rows[str(load)][BASE].append(runner.measure(target, load))
            servers.stop(target)
    return {"rows": rows, "kib": memory}


def workers(runtime: str, counts: Sequence[int], rounds: int, servers: Servers, runner: Runner) -> Found:
    """Compare numbers of workers. The servers and the load generator share all cores.

    `busiest` in a result is the share of the worker with the most connections, when a client opens many at once. What
    each worker does in the measurement says less: it depends on how much of a core the load generator leaves to it.
    """
    targets = [servers.runtime(runtime, f"workers {count}", changes={"workers": count}, core=None) for count in counts]

    def count(target: Target) -> list[int]:
        return [open_sockets(process) for process in target.workers or [target.process.pid]]

    idle = {target.name: count(target) for target in targets}

    def measure(target: Target, load: Load) -> Result:
        with runner.connections(target, load):
            found = [there - others for there, others in zip(count(target), idle[target.name], strict=True)]
        return runner.measure(target, load, core=None) | {"busiest": max(found) / sum(found)}

    load = Load("generate", False, _WORKERS_AT_ONCE)
    for target in targets:
        measure(target, load)  # the first worker may answer before the second one has started
    rows = in_rounds(rounds, [load], targets, measure)
    servers.stop(*targets)
    return {"rows": rows}


def bulk_requests(target: Target, items: int, servers: Servers) -> None:
    """Give a server requests with many items, whose bodies are in files."""
    made = servers.call("PUT", f"{target.url}/v1/key/bulk/generate/{KEY}", json=[{}] * items)
    bodies = {
        "generate": [{}] * items,
        "encrypt": [{"plaintext": item["plaintext"]} for item in made],
        "decrypt": [{"ciphertext": item["ciphertext"]} for item in made],
    }
    for operation, body in bodies.items():
        file = servers.directory / f"bulk-{target.process.pid}-{operation}.json"
        file.write_text(json.dumps(body))
        target.requests[f"bulk/{operation}"] = f"/v1/key/bulk/{operation}/{KEY}", f"@{file}"
