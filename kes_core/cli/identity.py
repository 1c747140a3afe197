"""`kes identity`: make and inspect API keys, certificates and identities."""

from __future__ import annotations

import datetime as dt
import difflib
import errno
import getpass
import ipaddress
import os
import re
import secrets
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from kes_core.cli._command import Group
from kes_core.cli._common import for_people, json_option, print_json
from kes_core.cli._identities import info, ls
from kes_core.cli._terminal import escape_control, styled
from kes_core.cli.main import CLIError

if TYPE_CHECKING:
    from kes_core.identity import APIKey

__all__ = ["command", "write_certificate"]

_EXPIRY: Final = dt.timedelta(hours=720)
_HOST: Final = re.compile(
    r"localhost|(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)
_MAX_HOST: Final = 253
_MAX_SUBJECT: Final = 64
_MAX_PASSPHRASE: Final = 1023
"""The limit of OpenSSL, in bytes."""
_PASSPHRASE_VARIABLE: Final[str] = "KES_PRIVATE_KEY_PASSWORD"
"""The environment variable for the passphrase. Without it, the command asks."""
_LABELS: Final = {
    "private_key": "Private key:",
    "certificate": "Certificate:",
    "api_key": "API key:",
    "identity": "Identity:",
}


class _Identity(Group):
    """Reads a name that is not a command as an API key or a file: `kes identity FILE`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            misspelled = difflib.get_close_matches(args[0], self.commands, n=1)
            if not misspelled or "." in args[0] or Path(args[0]).exists():  # no API key looks like a command
                return "of", of, args
        return super().resolve_command(ctx, args)


@click.group(
    "identity",
    cls=_Identity,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@json_option
@click.pass_context
def command(context: click.Context, as_json: bool) -> None:
    """Make and inspect API keys, certificates and identities.

    Without a command, make an API key: in a pipe, print the API key alone. With an API key or a file in place of the
    command, show its identity.
    """
    if context.invoked_subcommand is None:
        _new_api_key(as_json=as_json)
    elif as_json:
        context.default_map = {name: {"as_json": True} for name in ("new", "of", "info", "ls")}


def _new_api_key(*, as_json: bool) -> None:
    from kes_core.identity import APIKey

    made = APIKey.generate()
    if as_json:
        print_json({"api_key": str(made), "identity": made.identity})
        return
    if not for_people():
        click.echo(str(made))
        return
    click.echo(f"\nYour API key:\n\n   {styled(str(made), bold=True)}\n")
    click.echo("This is the only time it is shown. Keep it secret and secure.\n")
    click.echo(f"Your Identity:\n\n   {styled(made.identity, bold=True)}\n")
    click.echo(
        "The identity is not a secret. It can be shared. Any peer\nneeds this identity in order to verify your API key."
    )


def _duration(_context: click.Context, _parameter: click.Parameter, text: str | None) -> dt.timedelta | None:
    if text is None:
        return None
    from kes_core.units import parse_duration

    try:
        seconds = parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} {error}") from None
    if not 0 < seconds <= dt.timedelta(days=365 * 100).total_seconds():
        raise click.BadParameter("a certificate is valid for up to 876000h, and for some time at least")
    return dt.timedelta(seconds=seconds)


def _ip(_context: click.Context, _parameter: click.Parameter, texts: tuple[str, ...]) -> list[Any]:
    found = []
    for text in (part for parts in texts for part in parts.split(",")):
        try:
            found.append(ipaddress.ip_address(text))
        except ValueError:
            raise click.BadParameter(f"{text!r} is not a valid IP address") from None
    return found


@command.command("new")
@click.argument("subject", default="")
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file for the private key.  [default: private.key]",
)
@click.option(
    "--cert",
    "cert_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The file for the certificate.  [default: public.crt]",
)
@click.option("--ip", "ips", metavar="IP", multiple=True, callback=_ip, help="An IP address in the certificate.")
@click.option("--dns", metavar="NAME", multiple=True, help="A host name in the certificate.")
@click.option("--expiry", metavar="DURATION", callback=_duration, help="How long it is valid.  [default: 720h]")
@click.option("--encrypt", is_flag=True, help="Encrypt the private key with a passphrase.")
@click.option("-f", "--force", is_flag=True, help="Overwrite existing files.")
@json_option
def new(
    subject: str,
    key_file: Path | None,
    cert_file: Path | None,
    ips: list[ipaddress.IPv4Address | ipaddress.IPv6Address],
    dns: tuple[str, ...],
    expiry: dt.timedelta | None,
    encrypt: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Make a private key and its certificate, or an API key.

    Without arguments, make an API key. Otherwise, make a private key and a self-signed certificate for a server or a
    client. SUBJECT is the common name of the certificate; a host name becomes an alternative name too. --ip and --dns
    may be repeated, or take several values, separated by commas. With --key and --cert, the private key is also shown
    as an API key, unless it is encrypted.
    """
    if not (subject or key_file or cert_file or ips or dns or encrypt):
        if expiry is not None or force:
            raise click.UsageError("--expiry and --force are for certificates: name a subject, a host or a file.")
        _new_api_key(as_json=as_json)
        return
    if len(subject) > _MAX_SUBJECT:
        raise click.UsageError(f"A subject has at most {_MAX_SUBJECT} characters.")
    if not subject.isprintable():  # text that is not UTF-8 is not printable either
        raise click.UsageError("A subject has printable characters only.")
    dns = tuple(name for names in dns for name in names.split(","))
    names = [*dns, *([subject] if _HOST.fullmatch(subject) and subject not in dns else [])]
    for name in names:
        if len(name) > _MAX_HOST or not _HOST.fullmatch(name):
            raise click.UsageError(f"{name!r} is not a valid host name.")
    made = write_certificate(
        key_file or Path("private.key"),
        cert_file or Path("public.crt"),
        subject=subject,
        dns=names,
        ips=ips,
        valid_for=expiry or _EXPIRY,
        passphrase=_ask_passphrase() if encrypt else None,
        overwrite=force,
    )
    facts = {"private_key": str(key_file or "private.key"), "certificate": str(cert_file or "public.crt")}
    if key_file and cert_file and not encrypt:
        facts["api_key"] = str(made)
    facts["identity"] = made.identity
    if as_json:
        print_json(facts)
        return
    click.echo()
    for name, value in facts.items():
        click.echo(f"  {_LABELS[name]:<12}  {value}")


def _ask_passphrase() -> str:
    passphrase: str = os.environ.get(_PASSPHRASE_VARIABLE, "")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", getpass.GetPassWarning)  # raised if the passphrase would be visible
            passphrase = passphrase or click.prompt(
                "Passphrase for the private key", hide_input=True, confirmation_prompt=True, err=True
            )
    except getpass.GetPassWarning:
        raise CLIError(f"there is no terminal to ask for the passphrase: set {_PASSPHRASE_VARIABLE}") from None
    try:
        size = len(passphrase.encode("utf-8"))
    except UnicodeEncodeError:
        raise CLIError("the passphrase is not UTF-8") from None
    if size > _MAX_PASSPHRASE:
        raise CLIError(f"the passphrase is too long; it can have {_MAX_PASSPHRASE} bytes")
    return passphrase


def write_certificate(
    key_file: Path,
    cert_file: Path,
    *,
    subject: str,
    dns: Sequence[str],
    ips: Sequence[ipaddress.IPv4Address | ipaddress.IPv6Address],
    valid_for: dt.timedelta,
    passphrase: str | None = None,
    overwrite: bool = False,
) -> APIKey:
    """Make a private key and a certificate for server and client, write both files, and return the key.

    Raises:
        CLIError: A file exists already or can't be written. Then no file has changed, and no new file is left.
    """
    from cryptography.hazmat.primitives.serialization import Encoding

    from kes_core.identity import APIKey, make_certificate, private_key_pem

    if os.path.realpath(key_file) == os.path.realpath(cert_file):
        raise CLIError(f"key and certificate can't both be written to {str(key_file)!r}")
    api_key = APIKey.generate()
    key = api_key.private_key()
    made = make_certificate(key, subject=subject, valid_for=valid_for, dns=dns, ips=ips)
    contents = {
        key_file: (private_key_pem(key, passphrase), 0o600),
        cert_file: (made.public_bytes(Encoding.PEM), 0o644),
    }
    if not overwrite:
        for file in contents:
            if os.path.lexists(file):
                raise CLIError(f"{str(file)!r} exists already; -f overwrites it")
    _write_all(contents, overwrite=overwrite)
    return api_key


def _write_all(contents: dict[Path, tuple[bytes, int]], *, overwrite: bool) -> None:
    """Write all files or none: write each next to its place, then move them all. Undo everything if one fails."""
    staged: dict[Path, Path] = {}
    kept: dict[Path, Path] = {}
    placed: list[Path] = []
    file = next(iter(contents))
    try:
        for file, (content, mode) in contents.items():
            temporary = _beside(file)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            staged[file] = temporary
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
        for file, temporary in staged.items():
            if overwrite and os.path.lexists(file):
                kept[file] = _back_up(file)
                temporary.replace(file)
            else:
                os.link(temporary, file)  # fails if the file exists
            placed.append(file)
    except BaseException as error:
        for done in placed:
            if done in kept:
                kept[done].replace(done)
            else:
                done.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise CLIError(f"{str(file)!r} can't be written: {error.strerror}") from error
        raise
    finally:
        for temporary in (*staged.values(), *kept.values()):
            _discard(temporary)


def _discard(temporary: Path) -> None:
    """Remove a temporary file. Warn if it stays: it may hold a private key."""
    try:
        temporary.unlink(missing_ok=True)
    except OSError as error:
        text = f"Warning: {str(temporary)!r} may hold the private key and can't be removed: {error.strerror}"
        click.echo(text, err=True)


def _back_up(file: Path) -> Path:
    if file.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    backup = _beside(file)
    os.link(file, backup, follow_symlinks=False)
    return backup


def _beside(file: Path) -> Path:
    return file.with_name(f".{file.name}.{secrets.token_hex(8)}")


@command.command("of")
@click.argument("sources", metavar="CERTIFICATE|API-KEY...", nargs=-1, required=True)
@json_option
def of(sources: tuple[str, ...], as_json: bool) -> None:
    """Show the identities of certificates or API keys.

    Each argument is an API key, or a file with a certificate or an API key. In a pipe, print the identity of a single
    argument alone, and of several one line of JSON for each.
    """
    found = [(source, _identity_of(source)) for source in sources]
    if len(found) > 1:
        for source, identity in found:
            _print_one_of_several(source, identity, as_json=as_json)
        return
    _source, identity = found[0]
    if as_json:
        print_json({"identity": identity})
    elif for_people():
        click.echo(f"\n  Identity:  {identity}")
    else:
        click.echo(identity)


def _print_one_of_several(source: str, identity: str, *, as_json: bool) -> None:
    """Print an identity with the file that it comes from. An API key in the arguments stays secret."""
    is_file = Path(source).exists()
    if for_people(as_json):
        click.echo(f"{escape_control(source)}: {identity}" if is_file else identity)
    else:
        print_json({"name": source, "identity": identity} if is_file else {"identity": identity})


def _identity_of(what: str) -> str:
    from kes_core.identity import APIKey, IdentityError, identity_of_certificate, load_certificates

    file = Path(what)
    try:
        content = file.read_bytes()
    except OSError as error:
        try:
            return APIKey.parse(what).identity
        except ValueError:
            # Do not repeat the argument: it may be most of an API key.
            raise CLIError(
                f"the argument is neither an API key nor a file that can be read: {error.strerror}"
            ) from None
    if b"-----BEGIN" not in content:
        try:
            return APIKey.parse(content.decode("ascii").strip()).identity
        except ValueError:
            raise CLIError(f"{what!r} holds neither a certificate nor an API key") from None
    try:
        return identity_of_certificate(load_certificates(content)[0])
    except IdentityError:
        raise CLIError(f"{what!r} does not hold a valid PEM certificate") from None


command.add_command(info)
command.add_command(ls)
