"""Messages about the server's start, its processes, and their reload."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

SECTION: Final = MessageSection(
    "Start, reload and workers",
    "Met when the server starts, on standard error and after `Error: `, and in the error log from then on.",
    (
        Message(
            "can't listen on …: …; is another server running there?",
            "The port is taken.",
            "`ss -ltnp` shows by whom: stop that, or set another `address` (`probe.address`).",
        ),
        Message(
            "can't listen on …: …; ports below 1024 need the capability CAP_NET_BIND_SERVICE",
            "Only root may use such a port.",
            "Use 7373, or `AmbientCapabilities=CAP_NET_BIND_SERVICE` in the systemd unit.",
        ),
        Message(
            "can't listen on …: …; the machine has no such address",
            "`address` is not one of this machine, or not yet at boot.",
            "`ip address` lists them; `0.0.0.0:7373` is all. At boot: `After=network-online.target`.",
        ),
        Message(
            "can't listen on …: …",
            "The system refuses the address. What follows is its reason.",
            "If a host name stands there, check that it can be resolved: `getent hosts NAME`.",
        ),
        Message(
            "can't lock memory: …; grant the capability CAP_IPC_LOCK or raise the limit of locked memory (ulimit -l), "
            "or start without --mlock",
            "The process may not keep that much memory out of the swap.",
            "`AmbientCapabilities=CAP_IPC_LOCK` or `LimitMEMLOCK=infinity` in the systemd unit.",
        ),
        Message("listening on …", "The server is ready.", "Nothing."),
        Message(
            "told to stop before it has started",
            "SIGTERM or SIGINT came while the server still waited for its key store.",
            "Nothing.",
        ),
        Message(
            (
                "internal error: the configuration is not reloaded, the old one stays in force",
                "internal error: the certificate is not reloaded, the old one stays in use",
            ),
            "A fault of the server or of a plugin; the places below the line say where.",
            "Report it with these places. What was in force before still is.",
        ),
        Message(
            "worker … does not answer and is killed",
            "One of several processes hangs: it has not done within its time what all have to do together, to forget a "
            "key that was deleted or to take over a configuration.",
            "It is replaced by itself. If it happens again: is the machine short of CPU or memory, or does the disk of "
            "the audit log hang?",
        ),
        Message("probes are answered on http://…", "The listener for probes is ready.", "Nothing."),
        Message(
            "turned away a probe: … connections for probes are open, which is the limit",
            "More clients than that are connected to `probe.address` at once. Told once a minute at the most. The API "
            "is not affected.",
            "`ss -tnp` shows who: let only what probes the server reach that port.",
        ),
        Message("serving", "In `systemctl status`: the server is ready.", "Nothing."),
        # Reload
        Message("the configuration is reloaded", "After SIGHUP the file was taken over.", "Nothing."),
        Message(
            "the configuration is not reloaded, the old one stays in force: …",
            "After SIGHUP the file could not be used, or what it names not be connected to. What follows is the "
            "reason.",
            "Look that up here, mend it, try it with `kes config check`, and send SIGHUP again.",
        ),
        Message(
            "serving; the last configuration could not be used, see the log",
            "In `systemctl status`, after a reload that failed.",
            "See the line before.",
        ),
        Message(
            "… changes only with a restart",
            "After SIGHUP the file has another `address`, `probe`, `workers` or `plugins.block`. The rest of it is in "
            "force.",
            "Restart the server when it suits.",
        ),
        Message(
            "systemd can't be told of the server's state: …",
            "The socket in `NOTIFY_SOCKET` does not answer. With `Type=notify` systemd may stop the server.",
            "Let systemd set the variable itself; in a container, pass the socket on or use `Type=exec`.",
        ),
        # Workers
        Message(
            "worker … has died, …, and is replaced",
            "A process of the server ended by itself. Its requests are lost; the others go on.",
            "Signal 9 is mostly the kernel short of memory: `journalctl -k`. With an exit code: see the lines before.",
        ),
        Message(
            "worker … ended while it started, …",
            "A process of the server ended before it could say why.",
            "See the lines before it; `kes server` with `workers: 1` shows the same fault directly.",
        ),
        Message(
            "worker … can't be replaced: …",
            "The new process can't start. What follows is the reason. It is tried again, ever less often.",
            "Look the reason up here; most often a file or the key store is gone meanwhile.",
        ),
        Message(
            "worker … does not stop and is killed",
            "A process had not finished its requests in time when the server stopped or reloaded.",
            "If it comes again: look for a key store that hangs.",
        ),
        Message(
            "the other workers could not be told that the key … has changed",
            "They were too busy, or stopping. They may use a deleted key until it leaves their memory.",
            "`cache.expiry.any` is how long at the most; SIGHUP empties all caches at once.",
        ),
        Message(
            ("internal error", "internal error: …"),
            "A fault of the server. What it was doing has failed; the rest goes on.",
            "Report it with the places that the log has below the line.",
        ),
    ),
)
