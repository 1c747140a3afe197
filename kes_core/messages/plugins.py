"""Messages about plugins."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_AUTHOR: Final = "Install another release of the plugin, or tell its author; `plugins.block` leaves it out."

SECTION: Final = MessageSection(
    "Plugins",
    "A plugin that can't be used is skipped. `kes plugins` says why, and so does the server if its configuration needs "
    "what the plugin provides. The message begins with the plugin's name and that of its distribution.",
    (
        Message(
            "plugin … of …: it is blocked by plugins.block",
            "The configuration says so.",
            "Remove it from `plugins.block` if it is needed.",
        ),
        Message(
            "can't be imported: …: …; install what it needs: pip install --upgrade …",
            "A package that the plugin needs is missing.",
            "The command that stands there, with the Python that runs the server.",
        ),
        Message("can't be imported: …: …", "Its code failed when it was loaded. What follows is the error.", _AUTHOR),
        Message(
            "does not say which hook specifications it is for: set kes_hookspec_version = 1",
            "The plugin is not finished, or its entry point names the wrong module.",
            _AUTHOR,
        ),
        Message(
            "is for version … of the hook specifications, this is version …; install a release of the plugin that fits",
            "Plugin and server are of different times.",
            "`pip install --upgrade` of the plugin, or of `kes-core`, whichever is older.",
        ),
        Message(
            (
                "its hook … failed: …: …",
                "its hook … must return a list of …",
                "… is not a valid name for a key store: expected lower-case words",
                "… is not a valid name for a policy engine: expected lower-case words",
                "the 'config' of its key store … is not a pydantic model",
                "the 'config' of its policy engine … is not a pydantic model",
                "the 'connect' of its key store … is not a function",
                "the 'connect' of its policy engine … is not a function",
                "the … of its key store … is not a function",
                "the … of its policy engine … is not a function",
            ),
            "The plugin breaks the [rules for plugins](plugins.md).",
            _AUTHOR,
        ),
        Message(
            "Plugin … for hook …",
            "A function of the plugin has arguments that the hook does not have. What follows says which.",
            _AUTHOR,
            foreign=True,
        ),
        Message(
            (
                "the name … of its key store is taken by another plugin",
                "the name … of its policy engine is taken by another plugin",
            ),
            "Two installed plugins provide the same.",
            "`kes plugins` shows the other: uninstall one, or block it with `plugins.block`.",
        ),
        Message(
            "it is registered already, under another name",
            "Two entry points name one module.",
            "Uninstall the package that is there twice.",
        ),
        Message(
            "… failed with a …, which is a fault of its plugin; log.error: debug shows where",
            "A key store or policy engine raised an error when the server connected to it. Only its kind is shown: the "
            "rest may hold credentials.",
            "Start once with `log.error: debug`, and tell the author what the log has.",
        ),
        Message(
            ("… failed", "the doctor of the key store … failed"),
            "In the log with `log.error: debug`, with the traceback of the error that another message tells of.",
            "Show it to the plugin's author. It may hold credentials.",
        ),
        Message(
            "a plugin's … failed",
            "A hook that is told of the server's start or stop raised an error. The server goes on.",
            "Show the traceback in the log to the plugin's author.",
        ),
    ),
)
