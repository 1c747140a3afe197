"""Messages about the audit log."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

SECTION: Final = MessageSection(
    "The audit log",
    "Met at start, in the error log, and with [`kes audit verify`](audit.md#a-chain-of-hashes).",
    (
        Message(
            (
                "the audit log on standard output can't be written: …; the server stops",
                "the audit log on standard output can't be written",
                "the audit log on standard output can't be written: it is closed",
            ),
            "Who read it has ended, or the disk is full that it goes to. A server that can't audit serves nobody: it "
            "ends at once, with requests under way.",
            "Look after what reads the log, or make room, and start the server. Who needs no records there sets "
            "`log.audit: off`.",
        ),
        Message(
            "… is compressed, and damaged or cut off",
            "The file begins as a compressed one (gzip) and does not end as one.",
            "Take a whole copy of it. What can be read of it: `zcat FILE`.",
        ),
        Message(
            "the audit log … can't be opened: …",
            "The directory is missing, or the user of the server may not write there; or the file is a symbolic link.",
            "`install -d -o kes -m 0700 /var/log/kes`; `audit.file.path` is to name a plain file.",
        ),
        Message(
            "the audit log … can't be written: …; records wait",
            "Most often the disk is full. Up to 10,000 records wait in memory; then the oldest are lost.",
            "Make room, soon: `df -h`. The server goes on by itself.",
        ),
        Message(
            "the audit log … can be written again; … records are lost",
            "The disk has room again. The number is that of records which had to be dropped.",
            "Note the gap if records are lost.",
        ),
        Message(
            "the audit log … is closed; … records are lost",
            "The server stopped, or was reloaded without this file, while the file could not be written.",
            "Note the gap.",
        ),
        Message(
            "the last line of the audit log … is no record of a chain; the chain goes on",
            "The file was written without `chain: on`, or its last line was changed or cut off.",
            "`kes audit verify FILE`. Nothing, if the chain was switched on just now.",
        ),
        Message(
            "the records … to … are missing at the end of the audit log …",
            "The file `.chain` beside it knows of later records: somebody removed lines, or put an old file back.",
            "Find out who; `kes audit verify` says what is left. The chain goes on behind the gap.",
        ),
        Message(
            ("syslog at … can't be reached: …", "syslog at … can't be reached: …; records are lost"),
            "Nothing listens at `audit.syslog.address`, or takes nothing for 5 seconds.",
            "`systemctl status rsyslog`; containers often have no `/dev/log`. For TCP check host, port and firewall.",
        ),
        Message(
            "syslog at … is too slow: audit records are lost",
            "10,000 records wait to be sent.",
            "Look at the log server; records in `audit.file` are not lost that way.",
        ),
        Message("syslog at … takes records again; … are lost", "The outage is over.", "Note the gap."),
        Message(
            "syslog at … did not take the last audit records: … are lost",
            "The server stopped or was reloaded, and they could not be sent in the 5 seconds after that.",
            "Note the gap, and look at the log server.",
        ),
        Message(
            "an audit sink failed",
            "A record could not be written, by a fault of the server. The request was served.",
            "Report it with the places that the log has below the line.",
        ),
        # kes audit verify
        Message(
            "is no record of a chain: it was changed, cut off or put in",
            "A line of the file is not as the server wrote it.",
            "Find out who can write the file. Lines from before `chain: on` count as well: verify the files after "
            "that.",
        ),
        Message(
            "record … was changed, or does not follow from the record before it",
            "The hash does not fit.",
            "Find out who can write the file, and compare the record with where else it went: syslog, a log collector.",
        ),
        Message(
            "record … is out of order: … was expected",
            "Lines were moved, or files given in the wrong order.",
            "Give the oldest file first.",
        ),
        Message(
            ("the records before … are missing", "record … is missing", "the records … to … are missing"),
            "Lines were removed, or a file that was rotated away was not given.",
            "Give all files, oldest first. Old ones that were deleted as intended leave this at the beginning.",
        ),
        Message(
            (
                "record … is missing at the end",
                "the records … to … are missing at the end",
                "the end is not the one that the server has noted",
            ),
            "The file `.chain` of the server knows another end.",
            "Give the newest file last; if it was, lines were removed or replaced.",
        ),
        Message(
            "No record fits: is this the key that the chain was made with, and was it made with one?",
            "Not one hash fits: it is the key, and not the records.",
            "Set `KES_AUDIT_KEY` to the `audit.file.key` of the server that wrote the file, or unset it if it had "
            "none.",
        ),
        Message(
            "there is no record in what was given",
            "The files are empty, or are no audit logs.",
            "Check the paths. A file that was rotated just now may still be empty.",
        ),
    ),
)
