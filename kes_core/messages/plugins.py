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
            "can't be imported: the module … is missing; install what it needs: pip install --upgrade …",
            "A package that the plugin needs is missing.",
            "The command that stands there, with the Python that runs the server.",
        ),
        Message(
            "can't be imported: …; `kes plugins --debug` shows more",
            "Its code failed when it was loaded. Only the type of the error is shown: the rest may hold a secret.",
            _AUTHOR,
        ),
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
                "its hook … failed: …; `kes plugins --debug` shows more",
                "its hook … must not be an 'async def' function",
                "its hook … must return a list of …",
                "its hook … must return a list of …, and returned …",
                "… is not a valid name for a key store: expected lower-case words",
                "… is not a valid name for a policy engine: expected lower-case words",
                "the 'config' of its key store … is not a pydantic model",
                "the 'config' of its policy engine … is not a pydantic model",
                "the 'connect' of its key store … is not a function",
                "the 'connect' of its policy engine … is not a function",
                "the 'connect' of its key store … is not an 'async def' function",
                "the 'connect' of its policy engine … is not an 'async def' function",
                "the name … of its key store is there twice",
                "the name … of its policy engine is there twice",
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
                "the name … of its key store is also offered by the …; block one of them",
                "the name … of its policy engine is also offered by the …; block one of them",
                "…: the name … of its key store is also offered by the …; block one of them",
                "…: the name … of its policy engine is also offered by the …; block one of them",
            ),
            "Two installed plugins offer a key store or policy engine of one name. Neither is used: the server can't "
            "know which one the configuration means.",
            "Uninstall one, or name it in `plugins.block`.",
        ),
        Message(
            "it is registered already, under another name",
            "Two entry points name one module.",
            "Uninstall the package that is there twice.",
        ),
        Message(
            "connecting to … ...",
            "The server waits for a key store or policy engine, for 60 seconds at most.",
            "If it takes long each time: look at the network, and at what the plugin connects to.",
        ),
        Message(
            "…: no answer within … s",
            "The plugin could not connect within its time.",
            "Look at the network, and at what the plugin connects to.",
            "unreachable",
        ),
        Message(
            "… failed in …: …, which is a fault of its plugin; log.error: debug shows where",
            "The plugin raised an error that it should not. The request is answered with an error, or the server does "
            "not start. Only the type of the error is shown: its text may hold a key.",
            "Reproduce it with `log.error: debug`, and give the author of the plugin what the log then has.",
        ),
        Message(
            ("… failed in …: …", "… failed in …"),
            "With `log.error: debug`: where the error came from that another message is about. Without: a hook of the "
            "plugin failed, and the server goes on.",
            "Give it to the author of the plugin. It holds places in the code, and no text of the error.",
        ),
        Message(
            (
                "… returned … from …, which has to return …",
                "… returned … from list, which has to return a Page",
                "… returned … from authorize, which has to return a Verdict",
                "… returned … from diagnose, which has to return a list of Finding",
                "… returned … from access_policy, which has to return a str",
                "… returned a page from list that",
                "… returned … from …, which has to return an awaitable: define it with 'async def'",
                "… returned a page from list that has a 'next' that does not advance",
                "… returned a page from list that has a 'next' that is not a str",
                "… returned a page from list that has names that are not str",
                "… returned a page from list that has names that were not asked for",
                "… returned a page from list that has … names, where … are the most",
                "… returned a page from list that is not sorted, or has a name twice",
                "… has to return a list of objects with a method 'audit' from kes_audit_sinks",
            ),
            "The plugin breaks the [rules for plugins](plugins.md). What it returned is not used.",
            _AUTHOR,
        ),
        Message(
            "… has not answered within … s",
            "A policy engine took longer for a request than it may: the request is refused. Or the doctor of a key "
            "store took too long.",
            "Look at what the plugin waits for: a network, a disk.",
        ),
        Message(
            "…; the request is refused",
            "A policy engine failed, which counts as a refusal. What stands before it is the reason.",
            "Look the reason up here.",
        ),
        Message(
            "… kept all requests waiting for … s",
            "The plugin blocked the server: nothing else was served meanwhile. Logged once a minute at most.",
            "Tell its author: what blocks has to run on a thread.",
        ),
        Message(
            ("… did not close within … s and is left as it is", "… could not be closed"),
            "A key store or policy engine could not be closed when the server stopped or was reloaded. The server goes "
            "on without it.",
            "Tell the author of the plugin.",
        ),
        Message(
            "… did not return from … within … s",
            "A hook of the plugin took longer than it may. The server goes on.",
            "Tell the author of the plugin.",
        ),
        Message(
            "… did not take … records",
            "An audit sink of a plugin failed. The requests were served. Logged once a minute at most, with the number "
            "of records since the last time.",
            "Look at where the sink sends records; tell the author of the plugin.",
        ),
        Message(
            ("a task or a callback failed", "a thread ended with an error", "an error could not be raised"),
            "Something in the background failed, of the server or of a plugin; the places below the line say where. "
            "The text of the error is not shown: it may hold a key.",
            "Report it with these places, to the author of the code that is named last.",
        ),
        Message(
            "a task or a callback tried to end the server",
            "A plugin called `sys.exit()` in the background. The server goes on.",
            "Tell the author of the plugin; the places below the line say which.",
        ),
        Message(
            "the event loop reported an error without an exception",
            "Most often a plugin left something open or unfinished.",
            "Look at the lines before it.",
        ),
        Message(
            "a library warned: … at …:…",
            "A library, or a plugin, gave a warning of this kind at this place. Its text may hold a secret and is not "
            "shown.",
            "Look at the place if something does not work.",
        ),
        Message(
            ("… tasks did not end within … s and are given up", "a thread did not end within … s and is given up"),
            "Something of a plugin still worked when the server had stopped. The process ends without it.",
            "Tell the author of the plugin.",
        ),
    ),
)
