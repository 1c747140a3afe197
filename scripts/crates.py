"""The lock file of the crates in kes-native: every crate with its version and hash, without the address of a registry.

`python3 scripts/crates.py` makes `plugins/native/Cargo.lock` from `plugins/native/crates.lock`. With it,
`cargo build --locked` takes exactly these crates, and checks their hashes.

`--write` does the reverse, after a change of `Cargo.toml` or after `cargo update`.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "plugins" / "native"
CARGO = FOLDER / "Cargo.lock"
OURS = FOLDER / "crates.lock"
HEAD = "# Written by scripts/crates.py: Cargo.lock without the address of the registry.\n"
SOURCE = re.compile(r'^source = "[^"]*"\n', re.MULTILINE)
"""Stands before the hash of each crate that is not our own."""


def without_source(lock: str) -> str:
    """Return the text of a `Cargo.lock` as that of our lock file."""
    body = "".join(line for line in lock.splitlines(keepends=True) if not line.startswith("#"))
    return HEAD + SOURCE.sub("", body)


def with_source(ours: str, source: str) -> str:
    """Return the text of our lock file as that of a `Cargo.lock`. `source` is a line of one."""
    return re.sub(r"^(?=checksum = )", lambda _match: source, ours.removeprefix(HEAD), flags=re.MULTILINE)


def main() -> None:
    if sys.argv[1:] == ["--write"]:
        OURS.write_text(without_source(CARGO.read_text()))
        return
    subprocess.run(["cargo", "generate-lockfile", "--quiet"], cwd=FOLDER, check=True)  # cargo knows the registry
    source = SOURCE.search(CARGO.read_text())
    if source is None:
        sys.exit(f"{CARGO} names no registry")
    CARGO.write_text(with_source(OURS.read_text(), source[0]))


if __name__ == "__main__":
    main()
