"""Messages of the key store: a part of the reference of messages."""

from __future__ import annotations

from typing import Final

from kes_core.messages import Message, MessageSection

__all__ = ["SECTION"]

SECTION: Final = MessageSection(
    "Keys in files",
    "Of `kes-fs`. Met at start, in the error log, and with `kes doctor` and `kes migrate`.",
    (
        Message(
            "is empty; expected the path of a directory",
            "`keystore.fs.path` has no value.",
            "`path: /var/lib/kes`.",
        ),
        Message(
            "the key directory … can't be used: …",
            "It can't be made or opened. What follows is the system's reason.",
            "`install -d -m 0700 -o kes /var/lib/kes`; check that the disk is mounted.",
        ),
        Message(
            (
                "can't create key … in …: …",
                "can't read key … in …: …",
                "can't delete key … in …: …",
                "can't list the keys in …: …",
            ),
            "The system refused it. What follows is its reason: a full disk, a mode, a disk that fails.",
            "`df -h`, `df -i`, `ls -ld`, `journalctl -k`. Some reasons mean `unreachable`: a network file system that "
            "is away.",
        ),
        Message(
            (
                "the key directory … can't be used: no answer within … s",
                "can't create key … in …: no answer within … s",
                "can't read key … in …: no answer within … s",
                "can't delete key … in …: no answer within … s",
                "can't list the keys in …: no answer within … s",
            ),
            "The disk or the network file system hangs.",
            "`journalctl -k`; look at the NFS server.",
            "unreachable",
        ),
        Message(
            "the key directory … was missing and has been made: it holds no keys; is the disk mounted?",
            "A warning in the log. The server starts for the first time, or the disk with its keys is not mounted.",
            "If there should be keys: stop the server, mount the disk, and start it again. New keys may have been made "
            "in the directory meanwhile: look there before it disappears below the disk.",
        ),
        Message(
            "others can write into the key directory … (mode …): chmod 0700 …",
            "Who can write there can replace keys.",
            "The command that stands there.",
        ),
        Message(
            "others can read or change the key … (mode …): chmod 0700 … and chmod 0600 its files",
            "Keys in files are not encrypted: who can read them has them.",
            "The commands that stand there; then consider whether the keys are still secret.",
        ),
        Message(
            "the server may not read and write the key directory …",
            "It belongs to another user.",
            "`chown -R kes /var/lib/kes`.",
        ),
        Message(
            "the file system of the key directory … has no hard links, which are needed",
            "FAT, some FUSE and network file systems have none. Without them a key could be overwritten.",
            "Put the directory on ext4, XFS, Btrfs or NFS.",
        ),
        Message(
            (
                "… is a symbolic link, not a key",
                "… is not a regular file, so it is no key",
                "… is too large to be a key",
                "the value of a key has at most … bytes",
                "not a valid name for a key",
            ),
            "Something else than a key stands in the directory, or is to be put there.",
            "Move it away: the directory is for keys only.",
        ),
    ),
)
