"""Messages about the server's certificate, and about handshakes with clients."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_RENEW: Final = "Have the client's certificate made anew by a CA in `tls.ca`."

SECTION: Final = MessageSection(
    "TLS and certificates",
    "About files: met at start, reload, and with `kes config check`, after `tls: `. About clients: in the error log, "
    "in a "
    "line that begins with `refused a connection of`.",
    (
        # Files
        Message(
            ("the private key … can't be read: …", "the certificate … can't be read: …", "tls.ca … can't be read: …"),
            "The file is not there, or the user of the server may not read it.",
            "Check `tls.key`, `tls.cert` and `tls.ca`; relative paths count from where the server is started. "
            "`chown kes: FILE` and `chmod 0600 FILE`.",
        ),
        Message(
            "the private key … is no PEM private key",
            "The file is a certificate, in DER, or damaged.",
            "`tls.key` is to name a file with `-----BEGIN … PRIVATE KEY-----`.",
        ),
        Message(
            "the private key … is encrypted: set tls.password",
            "The key has a passphrase.",
            "`tls.password: ${KES_TLS_PASSWORD}`, and set that variable.",
        ),
        Message(
            "the private key … can't be decrypted: tls.password is wrong",
            "The passphrase is another one.",
            "Check the variable that `tls.password` names, also for a line end in it.",
        ),
        Message(
            "the private key … is not encrypted, but tls.password is set: remove it",
            "The key is not what the configuration says.",
            "Remove `tls.password`, or encrypt the key.",
        ),
        Message(
            (
                "the private key … is of a kind that TLS can't use (DSA)",
                "the private key … is of a kind that TLS can't use (…)",
            ),
            "The key is neither RSA, nor of an elliptic curve, nor Ed25519 or Ed448.",
            "Make a new one: `kes identity new --key server.key --cert server.crt HOST`.",
        ),
        Message(
            "the private key … does not belong to the certificate …",
            "The two files are of different pairs; often one of them was renewed alone.",
            "Put both from one pair in place. A server that runs tries again every 15 minutes, and with SIGHUP.",
        ),
        Message(
            "the certificate … holds no valid PEM certificate",
            "The file is a private key, in DER, or damaged.",
            "`tls.cert` is to name a file with `-----BEGIN CERTIFICATE-----`, the server's own first.",
        ),
        Message(
            (
                "tls.ca … holds no valid PEM certificate",
                "no file in the directory tls.ca … holds a valid PEM certificate",
                "the CAs for clients can't be loaded",
            ),
            "With `tls.auth: on` clients' certificates are verified with the CAs there, and there is none.",
            "Put the CAs of the clients there, as PEM; without `tls.ca` the system's count.",
        ),
        Message(
            (
                "the certificate … has expired (… UTC): put one that is valid in its place",
                "the certificate … is not valid yet (… UTC): put one that is valid in its place",
            ),
            "`tls.cert` is out of its dates, or the clock is wrong.",
            "Renew it; the server takes the file over within 15 minutes, or at once with SIGHUP. `timedatectl` has the "
            "clock.",
        ),
        Message(
            "…; until then clients refuse this server",
            "In the log, once a day: the server's certificate is out of its dates.",
            "As above.",
        ),
        Message(
            "the certificate … expires in … (…): put a new one in its place",
            "In the log, once a day from 14 days before.",
            "Renew it, and see to it that it is renewed by itself: `certbot`, `step ca renew --daemon`, cert-manager.",
        ),
        Message(
            "the certificate of the client … expires in … (…): …",
            "In the log, once a day from 14 days before. With `tls.auth: on` the client is refused afterwards.",
            "Tell who runs the client. The identity stays the same if the new certificate has the same key.",
        ),
        Message(
            "the certificate is not reloaded, the old one stays in use: …",
            "The files have changed and can't be used. What follows is the reason.",
            "Look it up here; the server tries again every 15 minutes, and with SIGHUP.",
        ),
        Message(
            "the certificate can't be looked at: …",
            "The file was replaced at this very moment.",
            "Nothing, unless it comes again: then look the reason up here.",
        ),
        # Handshakes
        Message(
            "refused a connection of …: tls: …",
            "A handshake failed. What follows is the reason, OpenSSL's own if it is not below.",
            "Look the reason up here. Alerts, as in `tlsv1 alert unknown ca`, are sent by the client: it does not "
            "trust the "
            "server.",
        ),
        Message(
            "refused … more connections: tls: the handshake failed",
            "There were more failures than are logged one by one.",
            "See the lines before; `kes_tls_handshake_failures_total` counts all.",
        ),
        Message(
            ("OpenSSL does not take the certificate …: …", "OpenSSL does not take the certificate …: unknown reason"),
            "The certificate or its key is below what OpenSSL allows, as an RSA key of 1024 bits (`ee key too small`).",
            "Have it made anew: `kes identity new`, or by the CA with a key of 2048 bits or more.",
        ),
        Message(
            "the client's certificate can't be read",
            "It is damaged, or of a version that X.509 does not know.",
            "Have the client's certificate made anew.",
        ),
        Message(
            "tls: client certificates are verified by now: connect again",
            "The connection was opened before a reload switched `tls.auth: on`.",
            "Clients connect again by themselves. Those whose certificate no CA in `tls.ca` vouches for are refused.",
        ),
        Message(
            "the client presented no certificate",
            "A browser, a probe, or a client without its files.",
            "Give the client a certificate or an API key. Probes: [a listener of their own](operations.md#probes).",
        ),
        Message(
            ("the client speaks plain HTTP", "the client speaks no TLS"),
            "Something speaks to the port without TLS.",
            "Use `https://` there; a load balancer has to pass TLS through.",
        ),
        Message(
            ("the client speaks no TLS from 1.2 on", "the client knows none of the server's ciphers"),
            "The client is very old, or is made to use old versions or ciphers.",
            "Update it. The server takes TLS 1.2 with ECDHE and AES-GCM or ChaCha20, and TLS 1.3.",
        ),
        Message("the handshake failed", "OpenSSL gives no reason; most often the client hung up.", "Look at its log."),
        Message("the client's certificate … is refused: it has expired", "`tls.auth: on` verifies dates.", _RENEW),
        Message(
            "the client's certificate … is refused: it is not valid yet; is the clock right?",
            "The certificate begins later, or a clock is wrong.",
            "`timedatectl` on the server, and on the machine that made the certificate.",
        ),
        Message(
            (
                "the client's certificate … is refused: no CA in tls.ca vouches for it",
                "the client's certificate … is refused: its CA is not in tls.ca",
            ),
            "Another CA has signed it, or the client does not send the CAs in between.",
            "Add its CA to `tls.ca`; or let the client send its whole chain.",
        ),
        Message(
            "the client's certificate … is refused: it is self-signed, and tls.auth: on asks for one that a CA in "
            "tls.ca "
            "vouches for",
            "API keys and `kes identity new` make such certificates.",
            "`tls.auth: off`, where the identity alone counts; or a certificate of a CA.",
        ),
        Message(
            (
                "the client's certificate … is refused: its issuer is no CA",
                "the client's certificate … is refused: too many CAs are between it and one in tls.ca",
                "the client's certificate … is refused: it is not valid (X.509 error …)",
            ),
            "The certificate was made for something else. Numbers are those of OpenSSL's `x509_vfy.h`.",
            _RENEW + " Its extended key usage is to have `clientAuth`.",
        ),
        Message(
            ("the client's certificate … is refused: …", "the client's certificate … is refused: it can't be read"),
            "The certificate or its key is damaged, too large or of an unknown kind, or is not meant for TLS clients "
            "(extended key usage). The message says which.",
            "Have the client's certificate made anew: [the limits](api.md#limits).",
        ),
        Message(
            (
                "the client's handshake has more than … bytes",
                "the client sends its handshake in more than … pieces",
                "the client presented … certificates; at most … are allowed",
            ),
            "The client sends more certificates, or larger ones, than any client needs; or it is an attack.",
            "Let the client send only its own certificate and the CAs between it and one in `tls.ca`.",
        ),
        Message(
            "can't accept connections for the moment: …",
            "The system has no file descriptors or no memory left for a connection. It is tried again by itself.",
            "`LimitNOFILE=65536` in the systemd unit; `cat /proc/sys/fs/file-nr` shows those of the whole machine.",
        ),
        Message(
            "closed … connections without a handshake, so that others find room or since they said nothing for … "
            "seconds",
            "Clients connect and send nothing: a port scanner, a probe of TCP alone, or an attack.",
            "Nothing, unless there are very many: then limit connections per address in front of the server.",
        ),
        Message(
            "turned away … connections: … are open, which is the limit",
            "All file descriptors that the process may have are taken by connections.",
            "`LimitNOFILE=65536` in the systemd unit, or `workers`; look for a client that opens connections and keeps "
            "them.",
        ),
    ),
)
