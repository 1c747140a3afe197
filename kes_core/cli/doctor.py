"""`kes doctor`: find what is wrong with a server, and explain refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kes_core.cli._command import Group
from kes_core.cli._common import json_option, print_json
from kes_core.cli._terminal import styled
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.config import Config
    from kes_core.doctor.decision import Requester
    from kes_core.findings import Finding
    from kes_core.plugins import Plugins

__all__ = ["command"]

_MARKS: Final = {"ok": ("✓", "green"), "note": ("·", "cyan"), "warning": ("!", "yellow"), "error": ("✗", "red")}
_CONFIG = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    default=Path("config.yml"),
    help="The server's configuration.  [default: config.yml]",
)


@click.group("doctor", cls=Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@_CONFIG
@click.option("--path", metavar="PATH", help="Explain a request, as /v1/key/generate/my-key.")
@click.option("--method", metavar="METHOD", default="", help="The method of the request.  [default: that of the API]")
@click.option(
    "--client",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The client: a file with its certificate or API key.",
)
@click.option("--identity", metavar="ID", help="The client: its identity.")
@click.option("--from", "address", metavar="IP", default="127.0.0.1", help="Its IP address.  [default: 127.0.0.1]")
@click.option("--login", is_flag=True, help="Log in to the key store even if that uses up a login (Vault's AppRole).")
@click.option("--strict", is_flag=True, help="Exit with 1 if there is a warning too.")
@json_option
@click.pass_context
def command(
    context: click.Context,
    config_file: Path,
    path: str | None,
    method: str,
    client: Path | None,
    identity: str | None,
    address: str,
    login: bool,
    strict: bool,
    as_json: bool,
) -> int:
    """Find what is wrong with a server, and explain refusals.

    Check the configuration, the certificate, the policies and the key store. The key store is contacted, but not
    changed. With --path, explain what the server does with a request of --client or --identity, or of a client without
    a certificate. Run the command as the user of the server. The exit code is 1 if there is an error.
    """
    if context.invoked_subcommand is not None:
        return 0
    if path is None and (client or identity or method):
        raise click.UsageError("Missing option '--path': what the client asks for, as /v1/key/generate/my-key.")
    if client is not None and identity is not None:
        raise click.UsageError("--client and --identity exclude each other.")
    logging.getLogger("kes").addHandler(logging.NullHandler())  # a store's findings include what it would log
    findings = _findings(config_file, path, method, client, identity, address, login=login)
    return _report(findings, as_json=as_json, strict=strict)


def _load(file: Path) -> tuple[Config, Plugins]:
    from kes_core.config import load

    loaded = load(file)
    return loaded.config, loaded.plugins


def _findings(
    file: Path,
    path: str | None,
    method: str,
    client: Path | None,
    identity: str | None,
    address: str,
    *,
    login: bool,
) -> Sequence[Finding]:
    from kes_core.config import ConfigError
    from kes_core.findings import Finding

    requester = _requester(client, identity)
    try:
        config, plugins = _load(file)
    except ConfigError as error:
        return [Finding.error("configuration", str(problem)) for problem in error.problems]
    from kes_core.doctor.decision import explain
    from kes_core.doctor.examination import examine

    if path is not None:
        return asyncio.run(explain(config, plugins, requester, path, method=method, address=address))
    valid = Finding.ok("configuration", f"{file} is valid")
    return [valid, *asyncio.run(examine(config, plugins, file, login=login))]


def _requester(client: Path | None, identity: str | None) -> Requester:
    from kes_core.doctor.decision import Requester
    from kes_core.identity import is_identity

    if identity is not None:
        if not is_identity(identity):
            raise CLIError(
                f"{identity!r} is not an identity, which has 64 hex digits in lower case; --client takes a file"
            )
        return Requester(identity)
    if client is None:
        return Requester.anonymous()
    try:
        return Requester.from_file(client)
    except ValueError as error:
        raise CLIError(str(error)) from error


def _report(findings: Sequence[Finding], *, as_json: bool, strict: bool) -> int:
    levels = [str(finding.level) for finding in findings]
    if not as_json:
        _print(findings)
        counts = [f"{levels.count(level)} {level}{'s'[: levels.count(level) != 1]}" for level in reversed(_MARKS)]
        click.echo(f"\n{', '.join(counts[:-1])}")
    else:
        print_json(
            {"findings": [{name: str(getattr(finding, name)) for name in _FIELDS} for finding in findings]},
        )
    return 1 if "error" in levels or (strict and "warning" in levels) else 0


_FIELDS: Final = ("level", "subject", "message", "cure")


def _print(findings: Sequence[Finding]) -> None:
    """Print findings grouped by subject, in the order in which the subjects first appear."""
    for subject in dict.fromkeys(finding.subject for finding in findings):
        click.echo(styled(subject, bold=True))
        for finding in (finding for finding in findings if finding.subject == subject):
            mark, colour = _MARKS[finding.level]
            click.echo(f"  {styled(mark, fg=colour, bold=True)} {finding.message}")
            if finding.cure:
                click.echo(f"    {styled('→', dim=True)} {finding.cure}")


@command.command("store-policy")
@_CONFIG
def store_policy(config_file: Path) -> None:
    """Print the least policy that the key store needs.

    It is what the key store's own access control must grant the server: for Vault, the policy of its token.
    """
    from kes_core.boundary import access_policy
    from kes_core.config import ConfigError, load_keystores
    from kes_core.keystore import KeyStoreError

    try:
        (choice,) = load_keystores(config_file)
    except ConfigError as error:
        raise CLIError(str(error)) from error
    if choice.backend.access_policy is None:
        raise CLIError(f"the key store {choice.backend.name!r} has no access control of its own that needs a policy")
    try:
        text = access_policy(choice.backend, choice.config)
    except KeyStoreError as error:
        raise CLIError(str(error)) from error
    click.echo(text.rstrip("\n"))


@command.command("client-policy")
@click.argument("client", metavar="CLIENT")
@click.option("--key", metavar="NAME", default="*", help="Its key, or a prefix of its keys and a *.")
@click.option("--name", metavar="NAME", default="", help="The name of the policy.  [default: CLIENT]")
@click.option("--identity", "identities", metavar="ID", multiple=True, help="The client's identity. May be repeated.")
def client_policy(client: str, key: str, name: str, identities: tuple[str, ...]) -> None:
    """Print the least policy that a client needs.

    CLIENT is minio, sdk, prometheus or probe. Copy the policy into the server's configuration. Without --identity, the
    policy names an environment variable instead.
    """
    from kes_core.doctor.clients import CLIENTS
    from kes_core.doctor.clients import client_policy as policy_of
    from kes_core.names import NAME_RULE, is_valid_name, is_valid_pattern

    if client not in CLIENTS:
        raise click.UsageError(f"{client!r} is not known; known are {', '.join(CLIENTS)}.")
    if not key or not is_valid_pattern(key):
        raise click.UsageError(f"--key {key!r} is neither the name of a key nor the beginning of one and a *.")
    for what, text in (("--name", name or client), *(("--identity", identity) for identity in identities)):
        if not is_valid_name(text):
            raise click.UsageError(f"{what} {text!r} is not valid: {NAME_RULE}.")
    click.echo(policy_of(client, name=name, key=key, identities=identities), nl=False)
