"""Messages in the log about requests of clients."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_DOCTOR: Final = "`kes doctor --path PATH --identity ID` tells the same for any request."

SECTION: Final = MessageSection(
    "Requests, in the log",
    "Met in the error log of the server. The client learns less: see [answers](#answers-to-clients). Refusals are "
    "logged "
    "from `log.error: info` on.",
    (
        Message(
            "refused … to … at …: …",
            "A client was refused. What follows is the check that refused it, and its reason.",
            "Look the reason up below. " + _DOCTOR,
        ),
        Message(
            "certificate: …",
            "The client has not shown who it is. What follows is what it was told.",
            "See [answers](#answers-to-clients).",
        ),
        Message(
            "certificate: the forwarded certificate is not vouched for by a CA in tls.ca",
            "A TLS proxy sent a client's certificate on that `tls.auth: on` does not accept.",
            "Add the client's CA to `tls.ca`, or let the proxy verify with the same CAs.",
        ),
        Message(
            "policy: …", "No policy engine allowed it, or one denied it. What follows is each one's answer.", _DOCTOR
        ),
        Message(
            "the identity is in no policy",
            "The client is known by its certificate, and that is all.",
            "Add the identity to `policy.NAME.identities`, and send SIGHUP. `kes identity of client.crt` prints it.",
        ),
        Message(
            (
                "no allow rule of policy … matches",
                "no allow rule of policy … matches; the closest is …",
            ),
            "The policy of the client does not have the path.",
            "If it should: add the path to `allow`; a final `*` matches any rest. "
            "`kes doctor client-policy minio` prints what MinIO needs.",
        ),
        Message(
            "denied by policy …: its deny rule … matches",
            "`deny` wins over `allow`.",
            "Narrow the rule, if the request should be allowed.",
        ),
        Message(
            "internal error while serving …",
            "A fault of the server. The client was answered with 500.",
            "Report it with the places that the log has below the line.",
        ),
    ),
)
