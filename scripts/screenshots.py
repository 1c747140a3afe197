"""Make the pictures of the command line in docs/screens: `.venv/bin/python scripts/screenshots.py [DIRECTORY]`.

A real server, clients that use it, and the real commands on a terminal, whose screen becomes an SVG. The pictures show
times and identities, so each run changes them: run it when the output of a command has changed.
"""

from __future__ import annotations

import io
import re
import sys
import tempfile
import threading
from contextlib import closing
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import yaml  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.terminal_theme import TerminalTheme  # noqa: E402
from rich.text import Text  # noqa: E402

from kes_core.client import Client, KESError  # noqa: E402
from tests.helpers.certificates import Credentials, make_credentials  # noqa: E402
from tests.helpers.command import run_kes  # noqa: E402
from tests.helpers.server import Server, start_server  # noqa: E402
from tests.helpers.terminal import Screen, run_on_screen, terminal  # noqa: E402

_WIDTH: Final = 100
_REFUSALS: Final = 4
"""How many requests `use` makes that a policy refuses."""
_BACK, _FRONT = (11, 31, 30), (226, 241, 239)
_RED, _GREEN, _YELLOW, _BLUE = (248, 113, 113), (94, 234, 212), (250, 204, 21), (96, 165, 250)
_MAGENTA, _CYAN = (216, 180, 254), (103, 232, 249)
_THEME: Final = TerminalTheme(_BACK, _FRONT, [_BACK, _RED, _GREEN, _YELLOW, _BLUE, _MAGENTA, _CYAN, _FRONT])
_FONT: Final = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)
"""rich's SVGs load a font from another site. A reader's browser need not tell that site what it reads."""


def save(screen: Screen, command: str, file: Path) -> None:
    """Write a screen as an SVG, with the command as the title of its window."""
    console = Console(record=True, width=screen.columns, file=io.StringIO(), highlight=False)
    for row in screen.rows:
        line = Text(no_wrap=True, overflow="crop")
        for cell in row:
            line.append(cell.text, f"{'bold ' if cell.bold else ''}{cell.colour}".strip() or None)
        console.print(line)
    svg = console.export_svg(title=f"$ {command}", theme=_THEME, unique_id=file.stem)
    file.write_text(_FONT.sub("", svg).replace("Fira Code", "ui-monospace").rstrip() + "\n", "utf-8")


def use(server: Server, clients: dict[str, Credentials]) -> None:
    """Do what applications do, and what one of them may not do."""
    for name, credentials in clients.items():
        with Client(server.url, api_key=credentials.api_key, insecure=True) as kes:
            key = f"{name}-key"
            try:
                kes.create_key(key)
            except KESError:
                pass
            made = kes.generate_data_key(key)
            kes.decrypt(key, made.ciphertext)
            for forbidden in (lambda: kes.delete_key(key), lambda: kes.generate_data_key("payroll")):  # noqa: B023
                try:
                    forbidden()
                except KESError:
                    pass


def make(directory: Path, output: Path) -> None:
    """Start a server in `directory`, and write all pictures into `output`."""
    clients = {name: make_credentials(directory, name) for name in ("minio", "billing")}
    options = ["--dns", "kes.example.com", "--ip", "127.0.0.1", "--expiry", "2100h", "kes.example.com"]
    files = {"key": str(directory / "server.key"), "cert": str(directory / "server.crt")}
    run_kes("identity", "new", "--key", files["key"], "--cert", files["cert"], *options)
    policies = {
        name: {
            "allow": [f"/v1/key/{call}/{name}-*" for call in ("create", "generate", "decrypt")],
            "identities": [held.identity],
        }
        for name, held in clients.items()
    }
    overrides = {"keystore": {"fs": {"path": str(directory / "keys")}}, "tls": files, "policy": policies, "workers": 2}
    server = start_server(directory, overrides)
    environment = {"KES_SERVER": server.url, "KES_API_KEY": str(server.admin.api_key), "SSL_CERT_FILE": files["cert"]}
    try:
        use(server, clients)
        save(run_on_screen("status", cwd=directory, environment=environment), "kes status", output / "status.svg")
        listing = run_on_screen("identity", "ls", cwd=directory, environment=environment)
        save(listing, "kes identity ls", output / "identities.svg")
        with terminal("log", cwd=directory, environment=environment, columns=_WIDTH + 12) as running:
            running.wait_for("Latency")
            use(server, clients)
            running.wait_until(lambda screen: sum("403" in line for line in screen.lines) >= _REFUSALS)
            save(running.screen, "kes log", output / "log.svg")
        _metric(server, clients, directory, environment, output)
    finally:
        server.stop()
    _doctor(directory, output)


def _metric(
    server: Server, clients: dict[str, Credentials], directory: Path, environment: dict[str, str], output: Path
) -> None:
    stop = threading.Event()

    def work() -> None:
        with closing(Client(server.url, api_key=clients["minio"].api_key, insecure=True)) as kes:
            while not stop.is_set():
                kes.generate_data_key("minio-key")

    thread = threading.Thread(target=work)
    thread.start()
    try:
        with terminal("metric", cwd=directory, environment=environment, columns=_WIDTH) as running:
            drawn = re.compile(r"Success +\d+ +[1-9]\d+\.\d")
            running.wait_until(lambda screen: any(map(drawn.match, screen.lines)))
            running.wait_for("Certificate")
            save(running.screen, "kes metric", output / "metric.svg")
    finally:
        stop.set()
        thread.join()


def _doctor(directory: Path, output: Path) -> None:
    """Make mistakes, and let the doctor find them."""
    config = yaml.safe_load((directory / "config.yml").read_text())
    config["policy"]["minio"]["allow"].append("/v1/key/genrate/minio-*")
    config["address"] = "192.0.2.7:7373"
    config["tls"]["key"], config["tls"]["cert"] = config["tls"]["cert"], config["tls"]["key"]
    (directory / "config.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    screen = run_on_screen("doctor", cwd=directory, code=1)
    save(screen, "kes doctor", output / "doctor.svg")


def main() -> None:
    output = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs" / "screens"
    output.mkdir(parents=True, exist_ok=True)
    # A short name: messages show it.
    with tempfile.TemporaryDirectory(prefix="kes-") as directory:
        make(Path(directory), output)
    for file in sorted(output.glob("*.svg")):
        print(file)


if __name__ == "__main__":
    main()
