"""Messages of the command line."""

from __future__ import annotations

from typing import Final

from kes_core.messages.table import Message, MessageSection

__all__ = ["SECTION"]

_CHOOSE: Final = "Leave one of the two out."

SECTION: Final = MessageSection(
    "The command line",
    "Met on standard error, after `Error: `. The exit code is 1, or 2 where the command was called wrongly; then the "
    "usage "
    "is shown as well, and `-h` explains each option. What the server answers is [above](#answers-to-clients).",
    (
        # Who, and where
        Message(
            "nothing says who you are; set KES_API_KEY, or KES_CLIENT_KEY and KES_CLIENT_CERT",
            "The command has neither an API key nor a certificate.",
            "`export KES_API_KEY=kes:v1:…`; or both files in the two variables.",
        ),
        Message(
            (
                "both an API key and a key file are set; unset KES_API_KEY, or KES_CLIENT_KEY and KES_CLIENT_CERT",
                "an API key and a key file exclude each other: give one of them",
            ),
            "It is not clear who you want to be.",
            "`unset` one of them, or give `--api-key`, which wins.",
        ),
        Message(
            "a private key and its certificate go together: give both files",
            "Only one of `KES_CLIENT_KEY` and `KES_CLIENT_CERT` is set.",
            "Set the other.",
        ),
        Message(
            "no API key: expected kes:v1: followed by 44 characters of base64",
            "The API key is cut off, or is something else.",
            "Copy it whole. `kes identity new` makes a new one.",
        ),
        Message(
            (
                "… is no endpoint; expected one like https://127.0.0.1:7373",
                "no endpoint is given; expected one like https://127.0.0.1:7373",
                "an endpoint has no user name or password; expected one like https://127.0.0.1:7373",
                "no endpoint is given",
            ),
            "`KES_SERVER` can't be used.",
            "`export KES_SERVER=https://HOST:7373`: https, host and port, nothing else. Several: with commas.",
        ),
        Message(
            ("the CA file … holds no PEM certificate", "the CA file … can't be read: …"),
            "The file with which the server's certificate is verified can't be used.",
            "Check path and mode; it is to have `-----BEGIN CERTIFICATE-----`.",
        ),
        Message(
            "the client's … can't be read",
            "The private key or certificate is not there, or not for your eyes.",
            "Check the path in `KES_CLIENT_KEY` or `KES_CLIENT_CERT`, and its mode.",
        ),
        Message(
            "the private key … is encrypted: a password is needed",
            "The client's key has a passphrase.",
            "`export KES_CLIENT_KEY_PASSWORD=…`.",
        ),
        Message(
            "the private key … is encrypted: the password is wrong",
            "The passphrase is another one, or the file is damaged.",
            "Check `KES_CLIENT_KEY_PASSWORD`, also for a line end in it.",
        ),
        Message(
            (
                "the private key and certificate … and … can't be used: …",
                "the private key and certificate … and … can't be used: no PEM private key with its certificate",
            ),
            "They are of different pairs, or no PEM.",
            "Check both files.",
        ),
        # The connection
        Message(
            "…: [Errno …] Connection refused",
            "No server listens at that address.",
            "Check `KES_SERVER`, and whether the server runs: `systemctl status kes`.",
            foreign=True,
        ),
        Message(
            "…: [Errno …] Name or service not known",
            "The host name can't be resolved.",
            "`getent hosts NAME`; check `KES_SERVER`.",
            foreign=True,
        ),
        Message(
            "… timed out",
            "The server, or something before it, does not answer in time.",
            "Look at the server's log; a firewall may drop packets silently.",
            foreign=True,
        ),
        Message(
            (
                "…; if the server's certificate is self-made, trust it or skip its verification",
                "… (set SSL_CERT_FILE to it, or -k skips the verification)",
            ),
            "The server's certificate is not of a CA that this machine trusts, has expired, or is for another host.",
            "Set `SSL_CERT_FILE` to its CA, or to itself if it is self-made; use the name that is in the certificate; "
            "`-k` for a try.",
        ),
        Message(
            "…; the server refuses your certificate (tls.auth: on): give one that its tls.ca vouches for; its log says "
            "why",
            "The server verifies clients' certificates, and yours has another issuer, has expired, or is missing. API "
            "keys and `kes identity new` make certificates that no CA vouches for.",
            "Have a certificate issued by a CA in `tls.ca`, and give it by `KES_CLIENT_KEY` and `KES_CLIENT_CERT`; or "
            "`tls.auth: off`, where the identity alone counts.",
        ),
        Message(
            "…: the connection broke off in the middle: …",
            "The server ended while it answered, or something between cut the connection.",
            "Try again; look at the server's log.",
        ),
        Message(
            "…: the server has ended the log: it is stopping, or this client did not keep up with the events",
            "A server sends a log as long as somebody reads it fast enough.",
            "Open it again; read faster, for example into a file.",
        ),
        Message(
            (
                "the server's answer is not what the protocol says",
                "…: the answer is larger than … bytes",
                "a line of the log is longer than … bytes",
            ),
            "What answers there is no key management server, or of a version that is not known.",
            "Check `KES_SERVER`; `kes status` shows the version.",
        ),
        Message(
            "the request has … bytes; servers take up to …",
            "What is to be encrypted is too large.",
            "Encrypt the data with a data key: `kes key dek NAME`.",
        ),
        # Arguments
        Message(
            "the … is not base64",
            "Messages, ciphertexts, contexts and keys are given in base64.",
            "`base64 -w0 FILE`, or `-` to read it from standard input.",
        ),
        Message(
            (
                "-i and -p exclude each other.",
                "--dev and --config exclude each other.",
                "--dev and --auth on exclude each other: no CA vouches for the API key it makes.",
                "--merge and --force exclude each other.",
                "--client and --identity exclude each other.",
                "--audit and --error exclude each other.",
            ),
            "Two options ask for different things.",
            _CHOOSE,
        ),
        Message(
            "Missing option '--config', or '--dev' for a server to try things out.",
            "`kes server` does not look for a configuration by itself.",
            "`kes server --config /etc/kes/config.yml`.",
        ),
        Message("Aborted.", "The command was interrupted at a question.", "Nothing."),
        Message("Error: …", "Every error of a command begins so.", "Look up what follows."),
        Message(
            "the installed release of click knows no completion for …",
            "`kes completion` writes what click can write.",
            "`pip install --upgrade click`.",
        ),
        Message(
            "…: …; those before it are done",
            "Several keys were named. What failed for this one follows its name; those after it were not tried.",
            "Look up what follows the name; run the command again with this name and those after it.",
        ),
        # kes metric
        Message(
            "a server is asked every 100ms at most",
            "`--rate` is too short.",
            "`--rate 1s` is the default.",
        ),
        Message(
            ("the server's metrics can't be read: …", "the answer holds no metrics of a KES server"),
            "What answers is no key management server, or something between changes the answer.",
            "Check `KES_SERVER`; `kes status` shows the version.",
        ),
        # kes identity
        Message(
            "… exists already; -f overwrites it",
            "A private key that is overwritten is lost.",
            "Choose other files with `--key` and `--cert`, or `-f`.",
        ),
        Message(
            ("… can't be written: …", "key and certificate can't both be written to …"),
            "Nothing was written.",
            "Check directory and disk; `--key` and `--cert` are to name two files.",
        ),
        Message(
            (
                "A subject has at most … characters.",
                "A subject has printable characters only.",
                "… is no host name.",
                "… is no IP address",
                "a certificate is valid for up to 876000h, and for some time at least",
                "--expiry and --force are for certificates: name a subject, a host or a file.",
            ),
            "`kes identity new` can't make such a certificate.",
            "`kes identity new --dns kes.example.com --ip 10.1.2.3 --expiry 8760h`.",
        ),
        Message(
            ("the passphrase is too long; it can have … bytes", "the passphrase is not UTF-8"),
            "OpenSSL could not use it.",
            "Choose another, or check `KES_PRIVATE_KEY_PASSWORD`.",
        ),
        Message(
            (
                "… holds no valid PEM certificate",
                "… holds no valid certificate: give the certificate (not the private key), or an API key",
                "… holds neither a certificate nor an API key",
                "the argument is no API key, and no file that can be read: …",
            ),
            "The identity of something else was asked for, such as a private key.",
            "Give the file with the certificate, or the API key itself.",
        ),
        # kes plugin, kes doctor
        Message(
            "… is no name for a package: expected lower-case words with dashes, as in kes-mystore",
            "`kes plugin new` makes a package for PyPI.",
            "Choose another name.",
        ),
        Message(
            "… is there already and not empty: choose another folder with --output",
            "`kes plugin new` overwrites nothing.",
            "`--output DIR`.",
        ),
        Message(
            "Missing option '--path': what the client asks for, as /v1/key/generate/my-key.",
            "`kes doctor` was told who asks, but not for what.",
            "Add `--path`.",
        ),
        Message(
            "… is no identity: 64 hex digits in lower case; --client takes a file",
            "`--identity` takes the identity itself.",
            "`kes identity of client.crt` prints it; or `--client client.crt`.",
        ),
        Message(
            "the key store … has no access control of its own that needs a policy",
            "`kes doctor store-policy` is for key stores such as Vault.",
            "Nothing has to be granted there.",
        ),
        Message(
            (
                "… is not known; known are ….",
                "--key … is no name of a key, and not the beginning of one and a *.",
                "… is not valid: 1 to 80 of A-Z a-z 0-9 - _, no - at either end.",
            ),
            "`kes doctor client-policy` can't write a policy from this.",
            "`kes doctor client-policy minio --key 'minio-*'`.",
        ),
        # Files, and kes migrate
        Message(
            ("… can't be read: …", "the key file … can't be read: …"),
            "The file is not there, or not for your eyes.",
            "Check the path and its mode.",
        ),
        Message(
            "… and … name the same key store: there is nothing to copy",
            "Source and target are configured alike.",
            "Check `--from` and `--to`.",
        ),
        Message(
            "…: keys in the key store … would be gone at the end",
            "The target is in memory only.",
            "Choose another target.",
        ),
        Message(
            (
                "…; run the same command again to go on from here",
                "interrupted; run the same command again to go on from here",
            ),
            "Some keys are not copied yet. Before it stands why.",
            "Run it again: keys that are there count as copied.",
        ),
        Message(
            "the target has another key of that name: --merge keeps it, --force replaces it",
            "Source and target have different keys under one name.",
            "Find out which one data was encrypted with. `--force` loses the target's.",
        ),
        Message(
            "the target does not give back what was written",
            "Another process changes the target at the same time, or the store is faulty.",
            "Stop servers that write there, and run it again.",
        ),
        Message(
            "what the source holds is no key: …",
            "The entry is damaged, or is something else. What follows is the defect.",
            "See [the key store](#the-key-store); the other keys are copied.",
        ),
    ),
)
