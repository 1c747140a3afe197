"""The lock files in requirements/ have what the packages and the tools need, and nothing specific to a machine."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from scripts import crates

ROOT = Path(__file__).parents[3]
PROJECTS = [ROOT / "pyproject.toml", *sorted(ROOT.glob("plugins/*/pyproject.toml"))]
CRATES = ROOT / "plugins" / "native" / "crates.lock"
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
OUR_OWN = {"kes-core", "kes-aws", "kes-backup", "kes-cedar", "kes-fs", "kes-kubernetes", "kes-vault"}


def locked(lock: Path) -> dict[str, str]:
    """Return the packages in a lock file that apply to this Python, with their versions."""
    text = lock.read_text().replace("\\\n", " ")
    found = [Requirement(line.partition("--hash")[0]) for line in text.splitlines() if not line.startswith("#")]
    return {
        entry.name: next(iter(entry.specifier)).version
        for entry in found
        if entry.marker is None or entry.marker.evaluate()
    }


def needed(*groups: str) -> list[Requirement]:
    """Return the requirements of the packages and of the named dependency groups."""
    projects: list[Any] = [tomllib.loads(project.read_text()) for project in PROJECTS]
    lines = [line for project in projects for line in project["project"]["dependencies"]]
    lines += [line for group in groups for line in projects[0]["dependency-groups"][group]]
    return [need for need in map(Requirement, lines) if need.name not in OUR_OWN]


@pytest.mark.parametrize(("lock", "groups"), [("image", ()), ("dev", ("dev",))])
def test_lock_has_what_the_packages_need(lock: str, groups: tuple[str, ...]) -> None:
    """If this fails, run `python3 scripts/lock.py`."""
    versions = locked(ROOT / "requirements" / f"{lock}.txt")
    for need in needed(*groups):
        assert need.specifier.contains(versions.get(need.name.lower(), "0")), f"{lock}.txt has no {need}"


def test_image_has_the_versions_that_are_tested() -> None:
    image, dev = (locked(ROOT / "requirements" / f"{name}.txt") for name in ("image", "dev"))
    assert image.items() <= dev.items()


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_package_is_pinned_by_version_and_hash_alone(lock: Path) -> None:
    """A lock file contains no address of an index and no path of the machine that wrote it."""
    pin = re.compile(r"[a-z0-9.-]+(\[[a-z0-9,-]+\])?==\S+( ; [^;@/]+)? \\")
    for line in lock.read_text().splitlines():
        assert (
            line.startswith("#") or pin.fullmatch(line) or re.fullmatch(r"    --hash=sha256:[0-9a-f]{64}( \\)?", line)
        )


def test_crates_of_the_native_package_are_pinned_by_version_and_hash_alone() -> None:
    """If this fails, run `cargo update` in plugins/native, and then `python3 scripts/crates.py --write`."""
    text = CRATES.read_text()
    locked = {package["name"]: package for package in tomllib.loads(text)["package"]}
    needed = tomllib.loads((CRATES.parent / "Cargo.toml").read_text())["dependencies"]
    for name, need in needed.items():
        version = need if isinstance(need, str) else need["version"]
        assert version == f"={locked[name]['version']}"
    del locked["kes-native"]
    assert all(re.fullmatch("[0-9a-f]{64}", package["checksum"]) for package in locked.values())
    assert "://" not in text


def test_lock_file_of_cargo_is_made_again() -> None:
    source = 'source = "registry+https://example.com/index"\n'
    lock = crates.with_source(CRATES.read_text(), source)
    packages = tomllib.loads(lock)["package"]
    assert [package["name"] for package in packages if "source" not in package] == ["kes-native"]
    assert crates.without_source(f"# Made by cargo.\n{lock}") == CRATES.read_text()
    without_h2 = tomllib.loads(crates.without_registry(lock, "h2"))["package"]
    assert [package["name"] for package in without_h2 if "source" not in package] == ["h2", "kes-native"]
    assert [package["name"] for package in without_h2 if "checksum" not in package] == ["h2", "kes-native"]


def test_other_sources_of_h2_are_not_changed(tmp_path: Path) -> None:
    for name, before, _after in crates.SMALLER:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"a\n{before}\n")
    crates.make_smaller(tmp_path)
    for name, before, after in crates.SMALLER:
        assert (tmp_path / name).read_text() == f"a\n{after}\n"
        assert before not in after
    with pytest.raises(ValueError, match=r"framed_write\.rs of h2 does not have .* once"):
        crates.make_smaller(tmp_path)


def test_configuration_of_cargo_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "config.toml"
    own.write_text("[build]\njobs = 1\n")
    monkeypatch.setattr(crates, "CONFIG", own)
    monkeypatch.setattr("sys.argv", ["crates.py"])
    with pytest.raises(SystemExit, match=r"config\.toml is not of this script"):
        crates.main()
    assert own.read_text() == "[build]\njobs = 1\n"
