"""The crates in kes-native: every one with its version and hash, and h2 with small buffers.

`python3 scripts/crates.py` makes `plugins/native/Cargo.lock` from `plugins/native/crates.lock`, which has no address of
a registry. With it, `cargo build --locked` takes exactly these crates, and checks their hashes. Then it copies h2 to
`plugins/native/h2` and changes the sizes of its buffers (docs/decisions/small-buffers.md). A build without this script
works too, with more memory for each connection.

`--write` makes `crates.lock` from `Cargo.lock`, after a change of `Cargo.toml`:

    python3 scripts/crates.py --plain
    (cd plugins/native && cargo update)
    python3 scripts/crates.py --write
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent / "plugins" / "native"
CARGO = FOLDER / "Cargo.lock"
OURS = FOLDER / "crates.lock"
HEAD = "# Written by scripts/crates.py: Cargo.lock without the address of the registry.\n"
H2 = FOLDER / "h2"
CONFIG = FOLDER / ".cargo" / "config.toml"
PATCH = '# Written by scripts/crates.py.\n[patch.crates-io]\nh2 = { path = "h2" }\n'
"""What is in it, so that cargo takes h2 from `H2`."""
SMALLER = (
    (
        "src/codec/framed_write.rs",
        "const DEFAULT_BUFFER_CAPACITY: usize = 16 * 1_024;",
        "const DEFAULT_BUFFER_CAPACITY: usize = 1_536;",
    ),
    (
        "src/codec/mod.rs",
        ".new_read(framed_write);",
        ".new_codec();\nlet delimited = tokio_util::codec::FramedRead::with_capacity(framed_write, delimited, 1_024);",
    ),
    ("src/hpack/decoder.rs", "buffer: BytesMut::with_capacity(4096),", "buffer: BytesMut::with_capacity(256),"),
)
"""In these files of h2, what is replaced by what: the first sizes of buffers, which grow when they have to. The first
one must be more than 1,033 bytes, because h2 waits for as much room before it writes a frame."""
SOURCE = re.compile(r'^source = "[^"]*"\n', re.MULTILINE)
"""Stands before the hash of each crate that is not our own."""


def without_source(lock: str) -> str:
    """Return the text of a `Cargo.lock` as that of our lock file."""
    body = "".join(line for line in lock.splitlines(keepends=True) if not line.startswith("#"))
    return HEAD + SOURCE.sub("", body)


def with_source(ours: str, source: str) -> str:
    """Return the text of our lock file as that of a `Cargo.lock`. `source` is a line of one."""
    return re.sub(r"^(?=checksum = )", lambda _match: source, ours.removeprefix(HEAD), flags=re.MULTILINE)


def without_registry(lock: str, name: str) -> str:
    """Return the text of a `Cargo.lock` in which a crate comes from a folder."""
    entry = re.compile(rf'^(name = "{name}"\nversion = "[^"]*"\n)source = "[^"]*"\nchecksum = "[^"]*"\n', re.MULTILINE)
    return entry.sub(r"\1", lock)


def make_smaller(h2: Path) -> None:
    """Change the sizes of the buffers in the sources of h2.

    Raises:
        ValueError: The sources are not as expected.
    """
    for name, before, after in SMALLER:
        text = (h2 / name).read_text()
        if text.count(before) != 1:
            raise ValueError(f"{name} of h2 does not have {before!r} once")
        (h2 / name).write_text(text.replace(before, after))


def cargo(*arguments: str) -> bytes:
    """Run cargo in the package's folder; return what it prints. If it fails, it has said why."""
    try:
        done = subprocess.run(["cargo", *arguments], cwd=FOLDER, check=False, stdout=subprocess.PIPE)
    except FileNotFoundError:
        sys.exit("cargo is not installed")
    if done.returncode:
        sys.exit(f"cargo {arguments[0]} failed")
    return done.stdout


def use_small_h2() -> None:
    """Copy the h2 of the lock file, whose hash cargo checks, make its buffers smaller, and let cargo use that."""
    packages = json.loads(cargo("metadata", "--locked", "--format-version=1"))["packages"]  # this downloads all crates
    [found] = [Path(crate["manifest_path"]) for crate in packages if crate["name"] == "h2"]
    shutil.copytree(found.parent, H2)
    make_smaller(H2)
    CARGO.write_text(without_registry(CARGO.read_text(), "h2"))
    CONFIG.parent.mkdir(exist_ok=True)
    CONFIG.write_text(PATCH)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", action="store_true", help="leave h2 as it is")
    parser.add_argument("--write", action="store_true", help="make crates.lock from Cargo.lock")
    options = parser.parse_args()
    if options.write:
        if CONFIG.exists():
            sys.exit("Cargo.lock is that of the changed h2. First: python3 scripts/crates.py --plain")
        OURS.write_text(without_source(CARGO.read_text()))
        return
    if CONFIG.exists():
        if CONFIG.read_text() != PATCH:
            sys.exit(f"{CONFIG} is not of this script, which needs its place: move it to your home folder's .cargo")
        CONFIG.unlink()
    shutil.rmtree(H2, ignore_errors=True)
    cargo("generate-lockfile", "--quiet")  # cargo knows the registry
    source = SOURCE.search(CARGO.read_text())
    if source is None:
        sys.exit(f"{CARGO} names no registry")
    CARGO.write_text(with_source(OURS.read_text(), source[0]))
    if not options.plain:
        try:
            use_small_h2()
        except ValueError as error:
            sys.exit(f"{error}. With --plain, h2 stays as it is.")


if __name__ == "__main__":
    main()
