"""The container image of examples/docker, built by this machine's Docker engine, if it has one.

The base image is built from Debian packages, so that no registry is needed; KES_TEST_PYTHON_IMAGE names another base
instead. The engine keeps the images and builds only what has changed.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import docker  # type: ignore[import-untyped] # ships no types
import pytest
from docker.errors import BuildError, ImageNotFound  # type: ignore[import-untyped]

from tests.helpers.programs import program

__all__ = ["BASE", "IMAGE", "Log", "build", "engine", "kes_image", "run"]

ROOT = Path(__file__).parents[2]
BASE = os.environ.get("KES_TEST_PYTHON_IMAGE", "kes-test-python:bookworm")
IMAGE = "kes-test"
_PACKAGES = "python3,python3-venv,ca-certificates,systemd,dbus,procps"
"""Python as in the official images, and systemd for the tests of the unit."""
_PIP_SETTINGS = ("index-url", "extra-index-url", "trusted-host", "proxy")


@functools.cache
def engine() -> Any:
    """Return a client of the Docker engine at DOCKER_HOST, by default the system's."""
    if "DOCKER_HOST" not in os.environ and not Path("/var/run/docker.sock").is_socket():
        pytest.skip("there is no Docker engine: containers are not run")
    client = docker.from_env(timeout=600)
    client.ping()
    return client


@functools.cache
def kes_image() -> Any:
    """Build the image as in the documentation, and return it."""
    image, _log = build(ROOT, IMAGE)
    return image


def build(folder: Path, tag: str) -> tuple[Any, str]:
    """Build the image of a checkout; return it, and what the build says."""
    try:
        engine().images.get(BASE)
    except ImageNotFound:
        _make_base()
    try:
        image, log = engine().images.build(
            path=str(folder),
            dockerfile="examples/docker/Dockerfile",
            tag=tag,
            buildargs={"PYTHON_IMAGE": BASE},
            network_mode="host",
            rm=True,
        )
    except BuildError as error:
        failure = "".join(line.get("stream", "") for line in error.build_log)
        raise AssertionError(f"the image can't be built: {error}\n{failure[-4000:]}") from error
    return image, "".join(line.get("stream", "") for line in log)


def _make_base() -> None:
    """Make a base image from Debian packages, with this machine's package index and CAs."""
    mmdebstrap = program("mmdebstrap", "mmdebstrap")
    settings = pip_settings()
    with tempfile.TemporaryDirectory() as folder:
        tarball, pip_conf = Path(folder) / "base.tar", Path(folder) / "pip.conf"
        hooks = []
        if cert := settings.pop("cert", ""):
            hooks.append(f"--customize-hook=upload {cert} /etc/ssl/certs/pip.crt")
            settings["cert"] = "/etc/ssl/certs/pip.crt"
        pip_conf.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        excludes = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "info", "locale", "man")]
        command = [mmdebstrap, "--quiet", "--variant=essential", f"--include={_PACKAGES}", *excludes, *hooks]
        command += [f"--customize-hook=upload {pip_conf} /etc/pip.conf", "bookworm", str(tarball)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        name, _, tag = BASE.partition(":")
        engine().api.import_image_from_file(str(tarball), repository=name, tag=tag)


def pip_settings() -> dict[str, str]:
    """Return this machine's settings for pip's package index, by their names in pip's configuration file."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "config", "list"]
    lines = subprocess.run(pip, capture_output=True, text=True, timeout=60, check=True).stdout.splitlines()
    found = (line.partition("=") for line in lines if line.startswith(("global.", ":env:.")))
    settings = {name.rpartition(".")[2]: value.strip("'") for name, _, value in found}
    return {name: value for name, value in settings.items() if name in {*_PIP_SETTINGS, "cert"}}


@contextmanager
def run(image: Any = None, **options: Any) -> Iterator[Any]:
    """Start a container of the image, or of another, on the network of this machine, and remove it at the end."""
    container = engine().containers.create((image or kes_image()).id, network_mode="host", **options)
    try:
        container.start()
        yield container
    finally:
        container.remove(force=True, v=True)


class Log:
    """The live output of a container."""

    def __init__(self, container: Any) -> None:
        self._stream = container.logs(stream=True, follow=True)
        self._seen: list[str] = []

    def wait_for(self, text: str) -> str:
        """Return the next line that contains `text`."""
        for line in self._stream:
            self._seen.append(line.decode().rstrip("\n"))
            if text in self._seen[-1]:
                return self._seen[-1]
        raise AssertionError(f"the container ended before it said {text!r}:\n" + "\n".join(self._seen))

    def close(self) -> None:
        """Close the connection to the engine."""
        self._stream._response.close()  # the stream's `close` leaves the socket to the garbage collector
