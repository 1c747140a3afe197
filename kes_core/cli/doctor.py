"""`kes doctor`: find what is wrong with a server, and explain refusals."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from kes_core.cli._command import Group
from kes_core.cli._common import json_option, print_json
from kes_core.cli._terminal import print_wrapped, styled
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.doctor.decision import Requester
    from kes_core.findings import Finding

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


class _Doctor(Group):
    """Reads a file in place of a command as the configuration: `kes doctor config.yml`, as `kes config check`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-") and Path(args[0]).is_file():
            args = ["--config", *args]
        return super().parse_args(ctx, args)


@click.group(
    "doctor", cls=_Doctor, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
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
@click.option(
    "--login", is_flag=True, help="Log in to the key store and look at the keys, even if that uses up a login."
)
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

    Check the configuration, the addresses, the certificate, the policies and the key store. The key store is contacted,
    but not changed. With --path, explain what the server does with a request of --client or --identity, or of a client
    without a certificate. Run the command as the user of the server. The exit code is 1 if there is an error.
    `kes doctor FILE` is the same as --config FILE.
    """
    if context.invoked_subcommand is not None:
        return 0
    if path is None and (client or identity or method):
        raise click.UsageError("Missing option '--path': what the client asks for, as /v1/key/generate/my-key.")
    if client is not None and identity is not None:
        raise click.UsageError("--client and --identity exclude each other.")
    logging.getLogger("kes").addHandler(logging.NullHandler())  # a store's findings include what it would log
    findings = _findings(config_file, path, method, client, identity, address, login=login)
    return _report(findings, about_request=path is not None, as_json=as_json, strict=strict)


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
    from kes_core.config import ConfigError, load
    from kes_core.doctor.configuration import configuration_findings
    from kes_core.findings import Finding, FindingLevel

    requester = _requester(client, identity)
    try:
        loaded = load(file)
    except ConfigError as error:
        return list(configuration_findings(error.problems, FindingLevel.ERROR))
    from kes_core.doctor.decision import explain
    from kes_core.doctor.examination import examine

    config, plugins = loaded.config, loaded.plugins
    if path is not None:
        return asyncio.run(explain(config, plugins, requester, path, method=method, address=address))
    valid = Finding.ok("configuration", f"{file} is valid")
    warnings = configuration_findings(loaded.warnings, FindingLevel.WARNING)
    return [valid, *warnings, *asyncio.run(examine(config, plugins, file, login=login))]


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


def _report(findings: Sequence[Finding], *, about_request: bool, as_json: bool, strict: bool) -> int:
    levels = [str(finding.level) for finding in findings]
    counts = {level: levels.count(level) for level in reversed(_MARKS)}
    code = 1 if counts["error"] or (strict and counts["warning"]) else 0
    if as_json:
        shown = [{name: str(getattr(finding, name)) for name in _FIELDS} for finding in findings]
        print_json({"findings": shown, "summary": counts})
        return code
    _print(findings)
    summary = ", ".join(f"{count} {level}{'s'[: count != 1]}" for level, count in counts.items() if level != "ok")
    click.echo(f"\n{'' if about_request else f'{_verdict(counts)} '}{summary}")
    return code


def _verdict(counts: Mapping[str, int]) -> str:
    if counts["error"]:
        return styled("The server can't start, or clients can't use it:", fg="red", bold=True)
    if counts["warning"]:
        return styled("The server can start, but something needs attention:", fg="yellow", bold=True)
    return styled("The server can start:", fg="green", bold=True)


_FIELDS: Final = ("level", "subject", "message", "cure")


def _print(findings: Sequence[Finding]) -> None:
    """Print findings grouped by subject, in the order in which the subjects first appear."""
    for subject in dict.fromkeys(finding.subject for finding in findings):
        click.echo(styled(subject, bold=True))
        for finding in (finding for finding in findings if finding.subject == subject):
            mark, colour = _MARKS[finding.level]
            print_wrapped(finding.message, f"  {styled(mark, fg=colour, bold=True)} ", indent=4)
            if finding.cure:
                print_wrapped(finding.cure, f"    {styled('→', dim=True)} ", indent=6)


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
