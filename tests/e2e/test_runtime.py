"""The setting `runtime`: which runtime serves, where operators see it, and what they get if it can't be used."""

from __future__ import annotations

import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest

from kes_core.config import ConfigError
from kes_core.config import runtimes as choices
from kes_core.doctor.runtime import examine_runtime
from tests.helpers.certificates import make_credentials
from tests.helpers.command import run_kes
from tests.helpers.doctor import config, finding_with
from tests.helpers.observation import families
from tests.helpers.server import RUNTIME, Server, write_config

OTHER = "kes_core.server.wire.listener:HypercornRuntime"
BROKEN = "kes_native_of_another_machine:Runtime"
CANT_LOAD = "the package kes-native can't be loaded (ModuleNotFoundError): reinstall it, or set runtime: hypercorn"
CORE = version("kes-core")
NOT_INSTALLED = "native needs the package kes-native: install it, or set runtime: hypercorn"


def install(directory: Path, runtime: str, version: str = CORE) -> Path:
    """Install a package that offers a runtime, as `pip install --target` would."""
    metadata = directory / "site" / f"kes_native_of_a_test-{version}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: kes-native-of-a-test\nVersion: {version}\n")
    (metadata / "entry_points.txt").write_text(f"[kes.runtimes]\nnative = {runtime}\n")
    return metadata.parent


@pytest.mark.parametrize("asked", ["native", "auto"])
def test_server_names_the_runtime_that_it_uses(tmp_path: Path, run_server: Callable[..., Server], asked: str) -> None:
    site = install(tmp_path, OTHER)
    server = run_server(arguments=["--runtime", asked], environment={"PYTHONPATH": str(site)})
    assert any("the native runtime is listening on https://" in line for line in server.errors)
    (labels,) = families(server)["kes_build_info"][1]
    assert ",native," in labels


@pytest.mark.skipif(RUNTIME in os.environ, reason="another runtime is asked for")
def test_default_is_hypercorn(tmp_path: Path, server: Server) -> None:
    assert any("the hypercorn runtime is listening on https://" in line for line in server.errors)
    (labels,) = families(server)["kes_build_info"][1]
    assert ",hypercorn," in labels
    (found,) = examine_runtime(config(tmp_path))
    assert (found.level, found.message) == ("ok", "hypercorn serves TLS and HTTP")


def test_environment_sets_another_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in the container image. What the configuration says wins."""
    monkeypatch.setattr(choices, "_found", lambda _name: ("an installed runtime",))
    monkeypatch.setenv("KES_RUNTIME", "auto")
    assert config(tmp_path).runtime == "native"
    assert config(tmp_path, runtime="hypercorn").runtime == "hypercorn"
    monkeypatch.setenv("KES_RUNTIME", "")
    assert config(tmp_path).runtime == "hypercorn"
    monkeypatch.setenv("KES_RUNTIME", "apache")
    with pytest.raises(
        ConfigError, match=r"'apache' is not a runtime; .*\(from the environment variable KES_RUNTIME\)"
    ):
        config(tmp_path)


def test_package_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choices, "_found", lambda _name: ())
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, runtime="native")
    (problem,) = caught.value.problems
    assert (problem.path, problem.message) == ("runtime", NOT_INSTALLED)
    assert problem.line > 0


def test_auto_takes_what_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(choices, "_found", lambda _name: ())
        alone = config(tmp_path, runtime="auto")
    assert alone.runtime == "hypercorn"
    assert [str(found.level) for found in examine_runtime(alone)] == ["ok"]
    monkeypatch.syspath_prepend(install(tmp_path, OTHER))
    assert config(tmp_path, runtime="auto").runtime == "native"
    assert config(tmp_path).runtime == "hypercorn"


def test_package_for_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, OTHER, version="99.1.2"))
    (found,) = examine_runtime(config(tmp_path, runtime="auto"))
    assert found.level == "error"
    assert found.message == (
        f"kes-native 99.1.2 is made for kes-core 99.1.2, and this is {CORE}: "
        f"install kes-native {CORE}, or set runtime: hypercorn"
    )


def test_package_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends with one line, and the doctor says the same."""
    monkeypatch.syspath_prepend(install(tmp_path, BROKEN))
    found = list(examine_runtime(config(tmp_path, runtime="native")))
    assert finding_with(found, CANT_LOAD).level == "error"
    path = write_config(tmp_path, make_credentials(tmp_path, "admin").identity, {"runtime": "native"})
    done = run_kes("server", "--config", str(path), PYTHONPATH=str(tmp_path / "site"))
    assert done.returncode == 1
    assert done.stderr.splitlines() == [f"Error: {CANT_LOAD}"]


def test_doctor_says_that_another_runtime_is_experimental(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(install(tmp_path, OTHER))
    (found,) = examine_runtime(config(tmp_path, runtime="native"))
    assert found.level == "note"
    assert "experimental" in found.message
