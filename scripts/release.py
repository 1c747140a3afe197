"""Prepare a release: `python3 scripts/release.py 0.2.0`. Then commit, and push the tag that it names.

It writes the version into every package, and moves the files in changes/ into a section of CHANGELOG.md, together with
what stands there under *Unreleased*. The workflow of the release checks that the tag is the version of every package.
"""

from __future__ import annotations

import datetime as dt
import re
import sys
import textwrap
from pathlib import Path
from typing import Final

from environment import NATIVE, PACKAGES, ROOT

KINDS: Final = ("added", "changed", "deprecated", "removed", "fixed", "security")
"""What a file in changes/ can be about, in the order of the headings."""
_VERSION: Final = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)", re.ASCII)
_UNRELEASED: Final = "## [Unreleased]\n"
_FRAGMENT: Final = re.compile(rf"[a-z0-9-]+\.({'|'.join(KINDS)})\.md", re.ASCII)
_WIDTH: Final = 120


def fragments(folder: Path) -> list[tuple[str, Path]]:
    """Return the files in changes/ with their kinds.

    Raises:
        SystemExit: A file has another name, or is empty.
    """
    found = []
    for file in sorted(folder.iterdir()):
        if file.name == "README.md":
            continue
        match = _FRAGMENT.fullmatch(file.name)
        if match is None or not file.read_text("utf-8").strip():
            sys.exit(f"{file}: expected some text in a file named as in changes/README.md")
        found.append((match[1], file))
    return found


def released(changelog: str, new: dict[str, list[str]], version: str, date: dt.date) -> str:
    """Return the changelog with a section for a version.

    Args:
        changelog: The changelog before.
        new: The texts of changes by kind, which come after those under *Unreleased*.
        version: The version.
        date: The day of the release.
    """
    before, _, rest = changelog.partition(_UNRELEASED)
    unreleased, separator, older = rest.partition("\n## [")
    lists = {part.partition("\n")[0].lower(): part.partition("\n")[2].strip() for part in unreleased.split("### ")[1:]}
    sections = []
    for kind in KINDS:
        items = [textwrap.fill(text, _WIDTH, initial_indent="- ", subsequent_indent="  ") for text in new.get(kind, [])]
        whole = "\n".join(part for part in (lists.get(kind, ""), *items) if part)
        if whole:
            sections.append(f"### {kind.capitalize()}\n\n{whole}\n")
    text = "\n".join(sections) or "Nothing that users would notice.\n"
    return f"{before}{_UNRELEASED}\n## [{version}] - {date}\n\n{text}{separator}{older}"


def set_version(project: str, version: str) -> str:
    """Return the text of a pyproject.toml with another version, and with dependencies on kes-core of that version."""
    major, minor, _patch = version.split(".")
    text = re.sub(r'^version = ".*"$', f'version = "{version}"', project, count=1, flags=re.MULTILINE)
    text = re.sub(r'"kes-core==[^"]*"', f'"kes-core=={version}"', text)
    return re.sub(r'"kes-core>=[^"]*"', f'"kes-core>={major}.{minor}.0,<{major}.{int(minor) + 1}"', text)


def main() -> None:
    """Prepare the release that the command line names."""
    if len(sys.argv) != 2 or not _VERSION.fullmatch(sys.argv[1]):  # noqa: PLR2004 # the command and its argument
        sys.exit("usage: python3 scripts/release.py MAJOR.MINOR.PATCH")
    version = sys.argv[1]
    changelog, found = ROOT / "CHANGELOG.md", fragments(ROOT / "changes")
    new: dict[str, list[str]] = {}
    for kind, file in found:
        new.setdefault(kind, []).append(" ".join(file.read_text("utf-8").split()))
    text = released(changelog.read_text("utf-8"), new, version, dt.datetime.now(dt.UTC).date())
    changelog.write_text(text, "utf-8")
    for package in (*PACKAGES, *NATIVE):
        file = ROOT / package / "pyproject.toml"
        file.write_text(set_version(file.read_text("utf-8"), version), "utf-8")
    for _kind, file in found:
        file.unlink()
    print(f"Look at the changes, then:\n\n  git commit --all --message 'Release {version}'\n  git tag v{version}")


if __name__ == "__main__":
    main()
