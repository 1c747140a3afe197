"""Write the reference of the command line, docs/cli.md, from the program; `--check` only compares."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path

import click

from kes_core.cli.main import cli

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
_HEAD = """\
# The command line

This page is written from the program (`python3 scripts/cli_reference.py`); `kes COMMAND --help` says the same.

On a terminal the output is laid out for people. In a pipe, `kes key dek`, `kes key encrypt`, `kes key decrypt`,
`kes policy show`, `kes log` and `kes metric` print JSON; `kes identity` prints an API key alone, `kes identity of` an
identity alone; listings are a header and a line for each name; all other output is plain text. Every command that asks
a server and prints something has `--json`. Its members have the names that the Go tool uses.

Errors go to standard error, and begin with what failed. The exit code is 0, 1 if a command fails, 2 for wrong usage,
4 if a plugin has blocked `kes server`, and 130 after Ctrl-C in `kes log` and `kes metric`. `NO_COLOR` and `TERM=dumb`
switch colours off; `--color` wins over both. Control characters in what a server sends are shown as escapes, so that
the terminal does not obey them.

A switch also takes a value, as in `--insecure=true`. `--enclave` is accepted and ignored. A server's `http://`
becomes `https://`.

## The server and the client's identity

Commands that ask a server have these options:

"""
_ENVIRONMENT = """
Without them, the first of these variables that is set counts:

| variable | says |
|---|---|
| `MINIO_KES_SERVER`, `KES_SERVER`, `MINIO_KMS_KES_ENDPOINT` | the server, or several; else it is `127.0.0.1:7373` |
| `MINIO_KES_API_KEY`, `KES_API_KEY`, `MINIO_KMS_KES_API_KEY` | the API key |
| `MINIO_KES_KEY_FILE`, `KES_CLIENT_KEY`, `MINIO_KES_CLIENT_KEY` | the private key, in place of an API key |
| `MINIO_KES_CERT_FILE`, `KES_CLIENT_CERT`, `MINIO_KES_CLIENT_CERT` | its certificate |
| `KES_CLIENT_KEY_PASSWORD` | what an encrypted private key is decrypted with |
| `SSL_CERT_FILE` | the CAs to trust, or the server's own certificate if it is self-signed; otherwise the system's CAs |
"""
_COMMON = ("endpoint", "api_key", "insecure", "color")


def main() -> None:
    """Write the page, or exit with 1 if it is not up to date."""
    text = page()
    if "--check" not in sys.argv:
        PAGE.write_text(text, encoding="utf-8")
    elif not PAGE.exists() or PAGE.read_text(encoding="utf-8") != text:
        sys.exit(f"{PAGE} is not up to date: run python3 scripts/cli_reference.py")


def page() -> str:
    """Return the page."""
    context = click.Context(cli, info_name="kes")
    parts = [_HEAD, _options(_common(context), context), _ENVIRONMENT]
    for command, inner in _commands(cli, context):
        parts.append(_section(command, inner))
    return "".join(parts)


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[click.Command, click.Context]]:
    """Yield every command below a group, each group before its own."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        inner = click.Context(command, parent=context, info_name=name)
        yield command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def _common(context: click.Context) -> list[click.Parameter]:
    """Return the options that select the server, which most commands share."""
    command = cli.get_command(context, "ls")
    assert command is not None
    return [parameter for parameter in command.params if parameter.name in _COMMON]


def _section(command: click.Command, context: click.Context) -> str:
    level = "##" if context.parent is not None and context.parent.parent is None else "###"
    usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    text = f"\n{level} `{context.command_path}`\n\n```text\n{usage}\n```\n\n{_help(command)}"
    own = [parameter for parameter in command.params if parameter.name not in _COMMON]
    options = _options(own, context)
    if options:
        text += f"\n{options}"
    if len(own) < len(command.params):
        server = next(parameter for parameter in command.params if parameter.name == "endpoint")
        names = "" if "-s" in server.opts else " `-s` is not one of them here; write `--server`."
        text += f"\nAnd [those for the server](#the-server-and-the-clients-identity).{names}\n"
    return text


def _help(command: click.Command) -> str:
    lines = []
    verbatim = False
    for line in inspect.cleandoc(command.help or "").splitlines():
        if line == "\b":  # click's mark: keep the line breaks up to the next empty line
            verbatim = True
            lines.append("```text")
        elif verbatim and not line:
            verbatim = False
            lines += ["```", ""]
        else:
            lines.append(line)
    return "\n".join([*lines, *(["```"] if verbatim else [])]) + "\n"


def _options(parameters: list[click.Parameter], context: click.Context) -> str:
    rows = []
    for parameter in parameters:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):  # the usage shows arguments
            names, help_text = (text.replace("|", "\\|") for text in record)
            rows.append(f"| `{names}` | {' '.join(help_text.split())} |\n")
    return "".join(["| option | |\n|---|---|\n", *rows]) if rows else ""


if __name__ == "__main__":
    main()
