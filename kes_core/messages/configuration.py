"""Messages about the configuration file."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_NAMES: Final = "1 to 80 of `A-Z a-z 0-9 - _`, with no `-` at either end"

SECTION: Final = MessageSection(
    "The configuration file",
    "Met when the server starts or reloads, and with `kes config check`, `kes doctor` and `kes migrate`. Before each "
    "stand file, line and field, and often the value; what comes from an option has `command line` for a file. "
    "[The fields](configuration.md) are listed elsewhere.",
    (
        # The file as a whole
        Message(
            "can't be read: …",
            "The file is not there, or the user of the process may not read it.",
            "Check the path after `--config`, and the owner and mode of the file.",
        ),
        Message(
            ("no valid YAML: not UTF-8", "no valid YAML: a character that is not allowed"),
            "The file is in another encoding, or has control characters.",
            "Save it as UTF-8; the line is where the first such byte stands.",
        ),
        Message(
            "no valid YAML: …",
            "The parser understands nothing from this line on. What follows is its reason.",
            "Most often the indentation, a tab, or a text with `:` or `#` that needs quotes.",
        ),
        Message(
            "a second document begins here; the file must hold one",
            "There is a line `---` in the middle of the file.",
            "Remove the line, or what follows it.",
        ),
        Message(
            ("larger than … bytes", "too many values, or nested too deeply"),
            "No configuration is that large: it is another file, or aliases (`*name`) multiply its content.",
            "Check the path after `--config`; take out aliases that refer to each other.",
        ),
        Message(
            "the file is empty; the least it needs: admin.identity, tls.key, tls.cert, keystore",
            "There is nothing in the file but comments.",
            "Fill it in, or check whether it was mounted or written completely.",
        ),
        Message(
            "must be a mapping of fields; allowed: …",
            "The file holds a list or a single word.",
            "Begin with a field, as in `address: 0.0.0.0:7373`.",
        ),
        # Fields
        Message(
            (
                "unknown field. Allowed: …",
                "unknown field; did you mean '…'? Allowed: …",
            ),
            "The field is misspelled, indented too far or too little, or of another release.",
            "Use one of those that are listed; `kes config schema` has all, for an editor.",
        ),
        Message(
            (
                "this is the old name of '…': use that",
                "this is the old name of the key-store section: call it 'keystore'",
            ),
            "The file was written for an old release of the server.",
            "Rename the field; its content stays as it is.",
        ),
        Message(
            "given twice, first in line …; keep one",
            "A field stands twice in one mapping.",
            "Remove one, or join the two.",
        ),
        Message("required, but missing", "A field that has no default is not there.", "Add it."),
        Message("is empty, but required", "The field is there, but has no value.", "Give it one."),
        Message(
            ("must be a mapping", "must be a mapping with the fields …", "must be a list", "must be a plain value"),
            "The value is of another kind: a list (`- a`), a mapping (`a: b`) or a single value.",
            "Write what is asked for; most often it is the indentation of the lines below.",
        ),
        Message(
            "input should be …",
            "The value is none of those that are allowed.",
            "Use one of those that are listed.",
            foreign=True,
        ),
        Message(
            "the name of a field must be plain text",
            "A list or a mapping stands before the colon.",
            "Put a name there, in quotes if it has special characters.",
        ),
        Message(
            "'<<' must name a mapping", "What is merged is a list or a single value.", "Let `<<` refer to a mapping."
        ),
        Message(
            "the environment variable … is not set",
            "The value is `${NAME}`, and the process has no such variable.",
            "Set it where the server is started (`Environment=` or `EnvironmentFile=` of a systemd unit).",
        ),
        Message("${} names no environment variable", "There is no name between the braces.", "Write `${NAME}`."),
        Message(
            (
                "… is not known; allowed: v1",
                "the value is not known; allowed: v1",
                "the value of ${…} is not known; allowed: v1",
            ),
            "`version` is that of the format, not of the server.",
            "Write `version: v1`, or leave it out.",
        ),
        # Values
        Message(
            "is not an identity; `kes identity of FILE` prints that of a certificate",
            "An identity has no characters but `A-Z a-z 0-9 - _`; mostly it is 64 hex digits.",
            "`kes identity of client.crt`, or of an API key.",
        ),
        Message(
            (
                "is not a valid name: 1 to 80 of A-Z a-z 0-9 - _, no - at either end",
                "is not a valid name for a policy: 1 to 80 of A-Z a-z 0-9 - _, no - at either end",
            ),
            "Names of keys and policies are parts of paths.",
            f"Choose another: {_NAMES}.",
        ),
        Message(
            (
                "has no port; expected host:port, as in 0.0.0.0:7373",
                "has no valid port; expected host:port with a port from 0 to 65535",
                "has no valid host; expected host:port, an IPv6 address in brackets",
            ),
            "The address to listen on can't be understood.",
            "`0.0.0.0:7373`, `:7373` for all addresses, `[::1]:7373` for IPv6.",
        ),
        Message(
            (
                "is not a duration: a number needs a unit, as in 10s, 1m30s, 500ms or 168h",
                "is not a duration, as in 10s, 1m30s, 500ms or 168h; units are h, m, s, ms, us and ns",
                "is negative; a duration must be zero or more",
                "is too long; the longest duration is 2540400h",
            ),
            "A span of time can't be understood. There are no days: a week is `168h`.",
            "Write it as in the examples.",
        ),
        Message(
            (
                "is not a truth value; allowed: on, off, true, false, yes, no",
                "is not allowed here; allowed: on, off",
            ),
            "A switch has some other value.",
            "`on` or `off`.",
        ),
        Message(
            "is not a log level; allowed: on, off, debug, info, warn, error, each of these four with +n",
            "The level is misspelled.",
            "`log.error: on` is right for most.",
        ),
        Message(
            "is no number of processes; expected 1 to …",
            "`workers` is no number, or out of bounds.",
            "As many as there are cores: `workers: 4`.",
        ),
        Message(
            "… processes would each have keys of their own in keystore.…; use a key store that they share, or workers: "
            "1",
            "A key that one process makes in its memory the others do not know.",
            "Use `keystore.fs` or `keystore.vault`, or one process.",
        ),
        # Sections
        Message(
            "required: name the one key store to use; installed: …",
            "There is no `keystore`, or nothing below it.",
            "Add one of those that are listed: `keystore: {fs: {path: /var/lib/kes}}`.",
        ),
        Message(
            "more than one key store (…); keep one",
            "A server has one key store.",
            "Remove the others; [`kes migrate`](migrate.md) copies keys from one to another.",
        ),
        Message(
            (
                "no installed plugin provides it; installed: …",
                "no installed plugin provides it; installed: …; did you mean …?",
            ),
            "The key store or policy engine is misspelled, or its package is not installed where the server runs.",
            "`pip install kes-vault` (or `kes-fs`, `kes-cedar`); `kes plugins` lists what is there.",
        ),
        Message(
            "the plugin that should provide it was skipped: …",
            "The package is installed, but can't be used. What follows is the reason.",
            "See [plugins](#plugins) for it.",
        ),
        Message(
            "its policies stand under 'policy'",
            "The static engine is always there, and is not configured under `policy_engines`.",
            "Move its policies to `policy`.",
        ),
        Message(
            (
                "no such API; `kes status --api` lists them",
                "no such API; did you mean …?; `kes status --api` lists them",
            ),
            "`api` has a path that the server does not have.",
            "Use a path as in the list, with `/v1` and the slash at the end: `/v1/key/create/`.",
        ),
        Message(
            "anybody could call this API; allowed only for …",
            "`skip_auth: on` is for routes that tell nothing secret.",
            "Take it out. For probes there is [a listener without certificates](operations.md#probes).",
        ),
        Message(
            "this identity is already …; an identity can be only one thing, once",
            "An identity is the admin, a proxy, or in one policy.",
            "Remove it from one of the places; two policies for one client become one policy.",
        ),
        Message(
            (
                "… and 'address', …, are one; give the probes another port",
                "the value and 'address', …, are one; give the probes another port",
                "the value of ${…} and 'address', …, are one; give the probes another port",
            ),
            "The listener for probes and that of the API can't share an address and a port.",
            "`probe: {address: 127.0.0.1:7374}`, or another port for `address`.",
        ),
        Message("… is listed twice; keep one", "`keys` has a name twice.", "Remove one."),
        Message(
            "can't block …: the server does not work without it",
            "`plugins.block` names a part of the core.",
            "Take it out.",
        ),
        Message(
            "'key' is the key of the chain: set chain: on, or leave it out",
            "`audit.file.key` is there, but no chain is made.",
            "`chain: on`, or remove `key`.",
        ),
        Message(
            "'key' is empty; make one with: openssl rand -hex 32",
            "An empty key would protect nothing.",
            "Put the output of the command into the variable that `key` names.",
        ),
        Message(
            "is no address of a log; expected a path as /dev/log, or udp://host:port, or tcp://host:port",
            "`audit.syslog.address` can't be understood.",
            "Write it as in the examples.",
        ),
        Message("is no facility; allowed: …", "syslog knows no such facility.", "Use one of those that are listed."),
        Message(
            "plugins.block names …, and no plugin of that name is installed",
            "In the log: what is to be blocked is not there, or is called otherwise.",
            "`kes plugins` lists names and distributions; remove the entry if the plugin is gone.",
        ),
    ),
)
