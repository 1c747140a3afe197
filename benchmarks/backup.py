"""What a backup of many keys costs: CPU time, time and memory of `kes backup create`, `verify` and `restore`.

`python3 benchmarks/backup.py` uses key stores in files in /dev/shm, with 1,000 and 100,000 keys, of which every tenth
has a second version. `--keys N` uses another number.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kes_core.keys.stored import KeyVersion, fingerprint
from kes_core.keys.versions import next_version

KES = [sys.executable, "-m", "kes_core.cli", "backup"]


def fill(folder: Path, keys: int) -> None:
    """Write keys into the directory of a key store."""
    folder.mkdir(mode=0o700)
    os.umask(0o077)
    for number in range(keys):
        name, key = f"key-{number:07}", KeyVersion.generate("me")
        value = key.encode()
        (folder / name).write_bytes(value)
        if number % 10 == 0:
            entry, version = next_version(name, fingerprint(value), key, "me")
            (folder / entry).write_bytes(version.encode())


def measure(what: str, *arguments: str | Path) -> str:
    """Run a command; print what it used, and return its output."""
    started = time.monotonic()
    with subprocess.Popen([*KES, what, *map(str, arguments)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _pid, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"kes backup {what} failed")
    cpu, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
    print(f"{what:10} {cpu:6.1f} s CPU {time.monotonic() - started:6.1f} s {memory:6.0f} MiB")
    return output


def run(keys: int, place: Path) -> None:
    """Measure the commands with a number of keys."""
    print(f"{keys} keys")
    for name in ("source", "target"):
        (place / f"{name}.yml").write_text(f"keystore: {{fs: {{path: {place / name}}}}}\n")
    fill(place / "source", keys)
    identity, file = place / "identity", place / "keys.backup"
    recipient = measure("keygen", identity).strip()
    measure("create", "--config", place / "source.yml", "--recipient", recipient, file)
    print(f"{'':10} {file.stat().st_size / 2**20:6.1f} MiB file")
    measure("verify", "--identity", identity, file)
    measure("restore", "--config", place / "target.yml", "--identity", identity, file)
    measure("restore", "--config", place / "target.yml", "--identity", identity, "--json", file)
    for name in ("source", "target"):
        shutil.rmtree(place / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, action="append")
    parser.add_argument("--place", type=Path, default=Path("/dev/shm"))  # noqa: S108 # the files are for their owner only
    arguments = parser.parse_args()
    for keys in arguments.keys or (1_000, 100_000):
        with tempfile.TemporaryDirectory(dir=arguments.place) as folder:
            run(keys, Path(folder))


if __name__ == "__main__":
    main()
