"""`kes completion`: let the shell complete commands and options."""

from __future__ import annotations

import click

from kes_core.cli.main import CLIError, cli

__all__ = ["command"]


@click.command("completion", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print a script that lets the shell complete commands and options of kes.

    \b
    bash, in ~/.bashrc:  eval "$(kes completion bash)"
    zsh, in ~/.zshrc, after compinit:  eval "$(kes completion zsh)"
    fish:  kes completion fish > ~/.config/fish/completions/kes.fish
    """  # noqa: D301 # the escape is click's mark for lines that it must not join
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is None:
        raise CLIError(f"the installed release of click knows no completion for {shell}")
    # The script sets the variable that click looks for when `kes` is called.
    click.echo(kind(cli, {}, "kes", "_KES_COMPLETE").source())
