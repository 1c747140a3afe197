"""The published packages: their pages, their content, and reproducible builds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted(path.parent for path in ROOT.glob("examples/*/pyproject.toml"))
PROJECTS = [ROOT, *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))]
BUILT = [project for project in PROJECTS if not (project / "Cargo.toml").exists()]
"""The projects whose build needs no compiler."""
SOURCES = ("docs", "kes_core", "plugins", "CHANGELOG.md", "LICENSE", "README.md", "pyproject.toml")


def metadata(project: Path) -> dict[str, Any]:
    """Return the table [project] of a pyproject.toml."""
    read: dict[str, Any] = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    return read


def test_packages_have_one_version() -> None:
    """A release's tag must equal this version, and `kes --version` and `/version` report that of kes-core."""
    (version,) = {metadata(project)["version"] for project in PROJECTS}
    major, minor, _patch = version.split(".")
    for project in PROJECTS[1:]:
        needs = [need for need in metadata(project)["dependencies"] if need.startswith("kes-core")]
        # A runtime uses internal parts of kes-core.
        exactly = metadata(project)["name"] == "kes-native"
        assert needs == [
            f"kes-core=={version}" if exactly else f"kes-core>={major}.{minor}.0,<{major}.{int(minor) + 1}"
        ], project


@pytest.mark.parametrize("project", [*PROJECTS, *EXAMPLES], ids=lambda project: project.name)
def test_page_of_a_package_links_to_nothing_that_is_not_there(project: Path) -> None:
    """A package index shows only the page, so a link to another file of the repository would lead nowhere."""
    page = (project / metadata(project)["readme"]).read_text()
    links = re.findall(r"\]\(([^)]+)\)", page)
    assert [link for link in links if not link.startswith("https://") or "pypi" in link] == []  # not on PyPI yet
    assert "urls" not in metadata(project)  # and the project has no address yet


def test_container_image_gets_the_files_that_describe_the_packages() -> None:
    """Without them, the packages can't be built in it."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    sent = [ROOT / line.removeprefix("!/") for line in lines if line.startswith("!/")]
    for project in PROJECTS:
        facts = metadata(project)
        for name in ("pyproject.toml", facts["readme"], *facts["license-files"]):
            file = project / name
            assert file.exists()
            assert any(file.is_relative_to(path) for path in sent), file


def build(project: str, sources: Path, output: Path, umask: int) -> None:
    """Build a project's source distribution, and the wheel from it, as the release does."""
    output.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(sources / project)]
    # A release uses the time of its commit.
    environment = os.environ | {"SOURCE_DATE_EPOCH": "1790000000"}
    done = subprocess.run(
        command, env=environment, umask=umask, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.mark.slow
def test_bill_of_materials(tmp_path: Path) -> None:
    """The command of the release lists every package of the container image, and writes the same file again."""
    workflow = (ROOT / ".github" / "workflows" / "release.yml").read_text()
    found = re.search(r'bin/cyclonedx-py" (.+?)\n +- uses', workflow, re.DOTALL)
    assert found is not None
    arguments = found[1].replace("\\\n", " ").replace("kes-core.cdx.json", "{output}").split()
    venv = tmp_path / "venv"
    lock = ["--require-hashes", "--requirement", str(ROOT / "requirements" / "release.txt")]
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--python", str(venv / "bin" / "python")]
    subprocess.run([*pip, "install", *lock], check=True, timeout=280)
    documents = []
    for name in ("first.json", "second.json"):
        command = [venv / "bin" / "cyclonedx-py", *(part.format(output=tmp_path / name) for part in arguments)]
        environment = os.environ | {"SOURCE_DATE_EPOCH": "1790000000"}
        subprocess.run(command, cwd=ROOT, env=environment, check=True, timeout=120)
        documents.append((tmp_path / name).read_text())
    assert documents[0] == documents[1]
    bill = json.loads(documents[0])
    assert bill["metadata"]["component"]["name"] == "kes-core"
    locked = re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "image.txt").read_text(), re.MULTILINE)
    assert {component["name"] for component in bill["components"]} == set(locked)
    assert all(component["version"] for component in bill["components"])


@pytest.mark.slow
def test_two_builds_are_the_same_files(tmp_path: Path) -> None:
    """Folder, file times and permissions make no difference; no build contains tests or uncommitted files."""
    for name, umask in (("first", 0o022), ("second", 0o077)):
        folder = tmp_path / name
        for source in SOURCES:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, folder / source)
        if name == "second":
            for path in folder.rglob("*"):
                os.utime(path, (1, 1))
                path.chmod(0o700 if path.is_dir() else 0o600)
        for project in BUILT:
            build(str(project.relative_to(ROOT)), folder, tmp_path / f"dist-{name}", umask)
    first, second = (hashes(tmp_path / f"dist-{name}") for name in ("first", "second"))
    assert first == second
    assert len(first) == 2 * len(BUILT)
    for archive in (tmp_path / "dist-first").iterdir():
        if archive.suffix == ".whl":
            names = zipfile.ZipFile(archive).namelist()
            assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
        else:
            with tarfile.open(archive) as tar:
                names = tar.getnames()
        assert not [name for name in names if "/tests/" in name or name.startswith("tests/")], archive.name
