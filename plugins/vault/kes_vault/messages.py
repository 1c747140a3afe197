"""Messages of the key store: a part of the reference of messages."""

from __future__ import annotations

from typing import Final

from kes_core.messages import Message, MessageSection

__all__ = ["SECTION"]

_GRANT: Final = "[Grant it](vault/policies.md): `kes doctor store-policy` prints the least policy."

SECTION: Final = MessageSection(
    "Vault",
    "Of `kes-vault`. While the key store can't serve, `/v1/ready` and `/v1/status` say why in one word, and so do the "
    "errors of requests that need it (`reason`, `keystore_reason`). The log has the change, once, with the message "
    "below.",
    (
        # Reaching it
        Message(
            "Vault at … can't be reached (tried to …)",
            "No connection: address, port, firewall, or Vault is down.",
            "From the server's machine: `curl -k ENDPOINT/v1/sys/health`.",
            "unreachable",
        ),
        Message(
            "Vault at … does not answer in time (tried to …)",
            "Vault or the network hangs.",
            "Look at Vault's load; `timeout` is how long it may take.",
            "unreachable",
        ),
        Message(
            (
                "Vault at … is not available at the moment (status …)",
                "what is in front of Vault at … gets no answer (tried to …)",
            ),
            "Vault or a proxy in front of it answers with an error.",
            "Look at its log.",
            "unreachable",
        ),
        Message(
            "Vault at … has had too many requests: raise its rate limit quota",
            "A rate limit quota in Vault is too low for this server.",
            "`vault read sys/quotas/rate-limit/NAME`, and raise it; or longer `cache.expiry`.",
            "unreachable",
        ),
        Message(
            "Vault at … is still upgrading the K/V engine to version 2",
            "It happens once after the engine was mounted or upgraded.",
            "Wait.",
            "unreachable",
        ),
        Message(
            "Vault at … is sealed: unseal it",
            "After a restart Vault has to be unsealed.",
            "`vault operator unseal`.",
            "sealed",
        ),
        Message(
            "Vault at … is not initialized: run 'vault operator init'",
            "It has never been set up, or lost its storage.",
            "`vault operator init`; if it was set up before, look at its storage first.",
            "uninitialized",
        ),
        Message(
            "Vault at … is a standby without an active node",
            "The cluster has no leader.",
            "`vault operator raft list-peers`; look at the logs of the nodes.",
            "standby",
        ),
        Message(
            "Vault at … answers the question for its health with status …",
            "Something between changes the answers, or a namespace may not ask.",
            "`curl -k ENDPOINT/v1/sys/health` shows what it is.",
        ),
        Message(
            "waiting for Vault: …",
            "In the log at start: Vault can't serve yet. It is tried again until `start_timeout`.",
            "Look up what follows.",
        ),
        # Trusting it
        Message(
            "the certificate of Vault at … is not trusted: set tls.ca to its CA",
            "Its CA is not among those that are trusted.",
            "`keystore.vault.tls.ca` is to name the CA, or the certificate itself if it is self-made.",
        ),
        Message(
            "the certificate of Vault at … has expired: renew it, or its CA in tls.ca",
            "Vault's certificate, or the CA's, is out of its dates.",
            "Renew it, and have Vault read it (SIGHUP).",
        ),
        Message(
            "the certificate of Vault at … is for another host: set endpoint to a name that is in the certificate, or "
            "put the "
            "host's into it",
            "`endpoint` has a host that is not in the certificate.",
            "`endpoint` is to name a host that is in the certificate.",
        ),
        Message(
            ("the CAs in … can't be read: …", "there is no certificate in …: put the CA of Vault there as PEM"),
            "The directory `keystore.vault.tls.ca` can't be used.",
            "Put a file with `-----BEGIN CERTIFICATE-----` there that the server may read.",
        ),
        Message(
            "what answers at … is no Vault (tried to …): set endpoint to its address",
            "`endpoint` is the address of something else that answers.",
            "Set it to Vault's: `https://HOST:8200`.",
        ),
        Message(
            "Vault at … sends requests elsewhere: set endpoint to the address of Vault itself",
            "`endpoint` is the address of something else, a web page's perhaps. Only redirects of a standby to the "
            "active "
            "node are followed (307, 308), and none away from TLS.",
            "Set `endpoint` to Vault itself.",
        ),
        # Logging in
        Message(
            "login to Vault failed: …; check role, credentials and namespace",
            "What follows is Vault's own reason.",
            "Check role, credentials, `engine` and `namespace` of the [method](vault/authentication.md).",
            "forbidden",
        ),
        Message(
            "login to Vault failed: the authentication method is not enabled at its engine path",
            "There is no such method at the method's `engine`, or in this namespace.",
            "`vault auth list`; `vault auth enable approle`, or set `engine` of the method.",
            "forbidden",
        ),
        Message("logged in to Vault again", "A refused login works again.", "Nothing."),
        Message(
            "the token for Vault can't be renewed yet: …",
            "The token is good for a while; it is tried again.",
            "Look up what follows, if it does not pass.",
        ),
        Message(
            (
                "the AppRole secret … can't be read: …",
                "the service account token … can't be read: …",
                "the JWT … can't be read: …",
                "the token file … can't be read: …",
            ),
            "The file with the credentials is gone, or not for the server's eyes.",
            "Check its path and mode, and what is to write it.",
        ),
        # What it allows
        Message(
            "Vault refuses to …: the policy of the token does not allow it",
            "Vault has answered with 403.",
            _GRANT,
            "forbidden",
        ),
        Message(
            "the policy of Vault's token lacks the capability '…' on …: grant it",
            "Vault's policy for this server is too narrow.",
            _GRANT,
            "forbidden",
        ),
        Message(
            "…; without it keys can't be …d",
            "In the log at start, after the line above: the server runs, but can't do this.",
            "Grant it; nothing, if it is meant so.",
        ),
        Message(
            "the policy of the token grants 'update' on …: of two servers that create one key at the same moment over "
            "K/V v1, "
            "one may overwrite the other's; take 'update' away, or use K/V v2",
            "K/V v1 can't refuse to overwrite, but Vault's policy can.",
            "[Take it away, or use K/V v2](vault/policies.md).",
        ),
        Message("Vault fails to …: …", "What follows is Vault's own reason.", "Look at Vault's log."),
        # The engine
        Message(
            "no K/V engine is mounted at …, or the token's policy grants nothing below it: run 'vault secrets enable "
            "-version=… "
            "-path=… kv', or grant it",
            "`engine` is wrong, or the policy grants nothing below it.",
            "`vault secrets list`; then one of the two.",
        ),
        Message(
            "the K/V engine at … is v…, but version: … is configured: set version: v…",
            "The engine is of the other version.",
            "Set `version` to the one that is mounted.",
        ),
        Message(
            "the engine at … is … and no K/V engine: set engine",
            "`engine` names another kind of engine.",
            "`vault secrets list`, and set `engine` to one of type `kv`.",
        ),
        Message(
            (
                "Vault can't encrypt with the key … of …: there is no transit engine or key of that name",
                "Vault can't decrypt with the key … of …: there is no transit engine or key of that name",
            ),
            "`transit.engine` or `transit.key` is wrong, or was deleted.",
            "`vault list transit/keys`; `vault write -f transit/keys/NAME` makes one, but not an old one anew.",
        ),
        Message(
            "key … is encrypted by Vault's transit engine: set keystore.vault.transit",
            "The key was made with `transit`, and now there is none.",
            "Set `transit` as it was when the key was made.",
        ),
        # The entries
        Message(
            "the entry … is deleted, but its metadata is still there: delete it too",
            "K/V v2 keeps a name whose versions are deleted.",
            "`vault kv metadata delete` it, if its key is to be made anew; `vault kv undelete`, if it is needed.",
        ),
        Message(
            ("the entry … has no text in a field named …", "key … is not text once decrypted"),
            "Somebody else has written there.",
            "Keep others away from the path: use `prefix`, or an engine of its own.",
        ),
        Message(
            "key … was created by two servers at once; the other one's is kept",
            "Over K/V v1 the later write wins.",
            "Nothing: the one that is stored is used. With K/V v2 it can't happen.",
        ),
        Message(
            "Vault has taken the key … but does not give it back",
            "It was deleted at once, or a node that is behind has answered.",
            "Create it again; look at Vault's replication.",
        ),
        # The configuration
        Message(
            (
                "is not the URL of a Vault server; expected one like https://127.0.0.1:8200",
                "must not hold a user or a password; expected a URL like https://127.0.0.1:8200",
            ),
            "`endpoint` can't be used.",
            "Scheme, host and port, nothing else.",
        ),
        Message(
            "is not a path in Vault; expected one like kv or team/kv",
            "An `engine` or `prefix` has other characters.",
            "Write it without slashes at the ends.",
        ),
        Message("is too short; the shortest is 100ms", "`status.ping` would keep Vault busy.", "`10s` is the default."),
        Message(
            ("is no file that can be read", "the file … can't be read"),
            "The file is not there, or the user of the server may not read it.",
            "Check path and mode.",
        ),
        Message(
            "'secret' and 'secret_file' exclude each other; give one of them",
            "AppRole needs one secret.",
            "Remove one.",
        ),
        Message(
            "no secret is given; set 'secret' or 'secret_file'",
            "AppRole needs a secret.",
            "`secret_file: /run/secrets/approle`.",
        ),
        Message(
            (
                "a private key and its certificate go together; 'cert' is missing",
                "a private key and its certificate go together; 'key' is missing",
            ),
            "`keystore.vault.tls` has one of the two.",
            "Add the other.",
        ),
        Message(
            "the authentication method 'certificate' needs tls.key and tls.cert",
            "Vault is to know the server by its certificate.",
            "Set `keystore.vault.tls.key` and `.cert`.",
        ),
        Message(
            (
                (
                    "no authentication method is given; set one of approle, kubernetes, jwt, certificate, token, "
                    "token_file"
                ),
                "more than one authentication method is given (…); keep one",
            ),
            "The server logs in to Vault by one method.",
            "[Choose one](vault/authentication.md).",
        ),
    ),
)
