"""`kes server`: start a server."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from kes_core.cli._command import Command
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import Config, LoadedConfig
    from kes_core.hookspecs import ServerInfo
    from kes_core.identity import APIKey

__all__ = ["command"]


@click.command("server", cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--addr", metavar="HOST:PORT", help="The address to listen on.  [default: 0.0.0.0:7373]")
@click.option(
    "--config", "config_file", metavar="FILE", type=click.Path(path_type=Path), help="The configuration file."
)
@click.option("--key", metavar="FILE", help="The private key of the server's certificate.")
@click.option("--cert", metavar="FILE", help="The server's certificate.")
@click.option("--auth", type=click.Choice(["on", "off"]), help="Whether clients' certificates are verified.")
@click.option("--workers", metavar="N", help="How many processes serve.  [default: 1]")
@click.option(
    "--runtime",
    type=click.Choice(["auto", "hypercorn", "native"]),
    help="What serves TLS and HTTP.  [default: hypercorn]",
)
@click.option("--mlock", is_flag=True, help="Keep all memory out of the swap.")
@click.option("--dev", is_flag=True, help="Keys in memory, a self-made certificate and a new API key for the admin.")
def command(
    addr: str | None,
    config_file: Path | None,
    key: str | None,
    cert: str | None,
    auth: str | None,
    workers: str | None,
    runtime: str | None,
    mlock: bool,
    dev: bool,
) -> None:
    """Start a server. Options win over the configuration file."""
    from kes_core.server import startup

    startup.begin()
    given = {
        "address": addr,
        "tls.key": key,
        "tls.cert": cert,
        "tls.auth": auth,
        "workers": workers,
        "runtime": runtime,
    }
    overrides = {field: value for field, value in given.items() if value is not None}
    if dev:
        if config_file is not None:
            raise click.UsageError("--dev and --config exclude each other.")
        if auth == "on":
            message = "--dev and --auth on exclude each other: no CA signs the certificate of the new API key."
            raise click.UsageError(message)
        _serve_for_development(overrides, mlock=mlock)
    elif config_file is None:
        raise click.UsageError("Missing option '--config', or '--dev' for a server to try things out.")
    else:
        _serve(config_file, overrides, mlock=mlock)


def _serve(config_file: Path, overrides: dict[str, str], *, mlock: bool) -> None:
    from kes_core.config import load

    with _errors_of_configuration():
        loaded = load(config_file, overrides=overrides)
    reload = partial(load, config_file, plugins=loaded.plugins, overrides=overrides)
    config = loaded.config
    _run(loaded, mlock=mlock, reload=reload, on_started=lambda info: _announce(info, config))


@contextlib.contextmanager
def _errors_of_configuration() -> Iterator[None]:
    """End the command if the configuration can't be used: with a usage error if only options are wrong."""
    from kes_core.config import COMMAND_LINE, ConfigError

    try:
        yield
    except ConfigError as error:
        if all(problem.file == COMMAND_LINE for problem in error.problems):
            raise click.UsageError(str(error)) from error
        raise CLIError(str(error)) from error


def _run(loaded: LoadedConfig, **options: object) -> None:
    from kes_core.server.main import ServerError, run

    try:
        run(loaded, **options)  # type: ignore[arg-type] # those of `run`, from the two functions here
    except ServerError as error:
        raise CLIError(str(error)) from error


def _announce(info: ServerInfo, config: Config) -> None:
    """Tell a person what has started. Programs read the log."""
    if not sys.stderr.isatty():
        return
    lines = [
        f"kes {info.version}",
        f"  Endpoint   {'  '.join(f'https://{address}' for address in info.addresses)}",
        f"  Admin      {config.admin.identity}",
        f"  Auth       {'on: certificates are verified' if config.tls.auth else 'off: any client can connect'}",
        f"  Key store  {config.keystore.backend.name}",
    ]
    click.echo("\n".join(lines), err=True)


_DEV_CONFIG = """
address: 127.0.0.1:7373
admin:
  identity: {admin}
keystore:
  memory: {{}}
"""

_DEV_NEXT = """
A server for development: its keys are gone when it stops.

  API key    {api_key}
  Identity   {identity}

Paste this into another terminal:

  export KES_SERVER=https://{address}
  export KES_API_KEY={api_key}
  kes key create my-key -k
  kes key dek my-key -k

-k because the server's certificate is self-made. Ctrl-C stops the server.
"""


def _serve_for_development(overrides: dict[str, str], *, mlock: bool) -> None:
    from kes_core.config import LoadedConfig, parse_config
    from kes_core.identity import APIKey
    from kes_core.plugins import load_plugins

    plugins = load_plugins()
    admin = APIKey.generate()
    folder = Path(tempfile.mkdtemp(prefix="kes-dev-"))
    try:
        _make_server_certificate(folder)
        text = _DEV_CONFIG.format(admin=admin.identity)
        certificate = {"tls.key": str(folder / "server.key"), "tls.cert": str(folder / "server.crt")}
        with _errors_of_configuration():
            config = parse_config(text, filename="--dev", plugins=plugins, overrides=certificate | overrides)
        output = sys.stdout  # the server replaces it, for what plugins print
        announce = partial(_announce_development, admin=admin, output=output)
        _run(LoadedConfig(config, plugins), mlock=mlock, on_started=announce)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _announce_development(info: ServerInfo, *, admin: APIKey, output: TextIO) -> None:
    text = _DEV_NEXT.format(api_key=admin, identity=admin.identity, address=info.addresses[0])
    click.echo(text, file=output)


def _make_server_certificate(folder: Path) -> None:
    import datetime as dt
    import ipaddress

    from kes_core.cli.identity import write_certificate

    write_certificate(
        folder / "server.key",
        folder / "server.crt",
        subject="localhost",
        dns=["localhost"],
        ips=[ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")],
        valid_for=dt.timedelta(days=30),
    )
