"""The preparation of a release: one version in all packages, and one section of the changelog."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
KINDS = "added|changed|deprecated|removed|fixed|security"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of what a release changes."""
    files = ["CHANGELOG.md", "pyproject.toml", "scripts/environment.py", "scripts/release.py"]
    files += [str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/pyproject.toml")]
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    shutil.copytree(ROOT / "changes", tmp_path / "changes")
    return tmp_path


def release(copy: Path, *arguments: str, code: int = 0) -> str:
    command = [sys.executable, str(copy / "scripts" / "release.py"), *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_release(copy: Path) -> None:
    (copy / "changes" / "a-door.added.md").write_text("A door\nwith a lock.\n")
    (copy / "changes" / "a-hole.security.md").write_text("No hole in it.\n")
    unreleased = (copy / "CHANGELOG.md").read_text().partition("## [Unreleased]\n")[2]
    assert "git tag v7.8.9" in release(copy, "7.8.9")
    for file in (copy / "pyproject.toml", *copy.glob("plugins/*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        assert project["version"] == "7.8.9"
        if project["name"] != "kes-core":
            needs = "kes-core==7.8.9" if project["name"] == "kes-native" else "kes-core>=7.8.0,<7.9"
            assert needs in project["dependencies"]
    text = (copy / "CHANGELOG.md").read_text()
    section = re.search(r"## \[Unreleased\]\n\n## \[7\.8\.9\] - \d{4}-\d\d-\d\d\n\n(.*)", text, re.DOTALL)
    assert section is not None
    assert "\n- A door with a lock.\n" in section[1]
    assert section[1].index("### Added") < section[1].index("A door") < section[1].index("### Changed")
    assert section[1].index("### Security") < section[1].index("No hole in it.")
    for line in unreleased.splitlines():  # nothing of what stood there is lost
        assert line in section[1]
    assert [file.name for file in (copy / "changes").iterdir()] == ["README.md"]

    release(copy, "7.8.10")
    again = (copy / "CHANGELOG.md").read_text()
    assert "Nothing that users would notice.\n\n## [7.8.9] - " in again
    assert again.endswith(text[text.index("## [7.8.9]") :])


@pytest.mark.parametrize("version", ["", "v1.0.0", "1.0", "01.0.0"])
def test_versions_that_are_none(copy: Path, version: str) -> None:
    assert "usage: " in release(copy, version, code=1)


def test_file_with_another_name(copy: Path) -> None:
    before = (copy / "CHANGELOG.md").read_text()
    (copy / "changes" / "door.new.md").write_text("A door.\n")
    assert "door.new.md: expected some text in a file named as in" in release(copy, "7.8.9", code=1)
    assert (copy / "CHANGELOG.md").read_text() == before


def test_changes_have_names_that_a_release_understands() -> None:
    for file in (ROOT / "changes").iterdir():
        assert file.name == "README.md" or re.fullmatch(rf"[a-z0-9-]+\.({KINDS})\.md", file.name), file
