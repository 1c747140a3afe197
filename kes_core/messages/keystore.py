"""Messages about the key store, whichever it is, and about what is stored there."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

SECTION: Final = MessageSection(
    "The key store",
    "Met at start and in the error log, whichever key store it is. Those of [Vault](#vault) and "
    "[files](#keys-in-files) "
    "are further below, and stand where `…` is here.",
    (
        Message(
            "the key store is not reachable: …",
            "In the log, once, when it stops to answer. Keys in memory are still used (`cache.expiry`).",
            "Look the reason up here. `/v1/status` and the probes say it too.",
        ),
        Message(
            "the key store is unavailable: …",
            "It answers, but can't serve.",
            "Look the reason up here.",
        ),
        Message("the key store is reachable again", "The outage is over.", "Nothing."),
        Message(
            "no answer within … s",
            "The key store took longer than the server waits for a sign of life.",
            "Look at its load, its disk and the network in between.",
            "unreachable",
        ),
        Message(
            "the back end is faulty: …",
            "The plugin of the key store raised an error that it should not.",
            "Update the plugin, or tell its author.",
        ),
        Message(
            "failed to …: …",
            "A request needed the key store, and it failed. The client was told less.",
            "Look the reason up here. Where the store as a whole is away this is logged with `log.error: debug` only.",
        ),
        Message(
            "the key store has been closed",
            "The server was stopping, or took over another key store, while a request waited for the old one.",
            "Nothing: clients try again.",
        ),
        Message(
            "the key store has taken the key … but does not give it back",
            "A new key is read back before it is used, and what came back is another or nothing. It is not used.",
            "Create it again. If it comes again the store loses data: look at its log, its disk, its replication.",
        ),
        Message(
            "the entry … in the key store is damaged: …",
            "What is stored under this name is no key. What follows is the defect.",
            "See who else writes there; restore the entry from a backup. Data under this key can't be decrypted "
            "without it.",
        ),
        Message(
            (
                "the value is neither base64 nor JSON",
                "the value is no valid JSON object",
                "the value is neither a JSON object nor base64 of a stored key",
                "there is no key in the value",
                "the type of the key is not known",
                "the algorithm is not known",
                "the key is not base64",
                "the key does not have … bytes",
                "the HMAC key does not have … bytes",
                "the hash of the HMAC key is not known",
                "created_at is no RFC 3339 time",
                "created_at is no time",
                "bytes is not a string",
                "algorithm is not a string",
                "created_at is not a string",
                "created_by is not a string",
            ),
            "The defect of a stored value: cut off, edited, or of a later release.",
            "As for the line above. If it is of a later release: run that.",
        ),
    ),
)
