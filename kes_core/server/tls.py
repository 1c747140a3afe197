"""The server's TLS: settings, and connections that ask for a client certificate which no CA need have signed.

Python's `ssl` can't ask for a client certificate and accept one that it can't verify: it has no verify callback. So
TLS runs on pyOpenSSL, which has one, between asyncio's transport and the HTTP protocol, through memory BIOs. OpenSSL
does all the work; this module carries bytes, bounds what is buffered and sees to it that alerts reach the client.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from OpenSSL import SSL, crypto

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

__all__ = [
    "ClientCertificate",
    "TLSConnection",
    "TLSError",
    "TLSSettings",
    "load_certificates",
    "load_client_cas",
    "make_context",
]

_TLS12_CIPHERS: Final = b":".join(
    [
        b"ECDHE-ECDSA-AES128-GCM-SHA256",
        b"ECDHE-RSA-AES128-GCM-SHA256",
        b"ECDHE-ECDSA-AES256-GCM-SHA384",
        b"ECDHE-RSA-AES256-GCM-SHA384",
        b"ECDHE-ECDSA-CHACHA20-POLY1305",
        b"ECDHE-RSA-CHACHA20-POLY1305",
    ]
)
"""Forward secret and authenticated only. TLS 1.3 has no other kind, so OpenSSL's own choice stands there."""

_VERIFY_ERRORS: Final = {
    9: "it is not valid yet; is the clock right?",
    10: "it has expired",
    18: "it is self-signed, and tls.auth: on asks for one that a CA in tls.ca vouches for",
    19: "its CA is not in tls.ca",
    20: "no CA in tls.ca vouches for it",
    21: "no CA in tls.ca vouches for it",
    24: "its issuer is no CA",
    26: "it is not meant for TLS clients (extended key usage)",
}
"""What OpenSSL's numbers (openssl/x509_vfy.h) mean for a client."""
_REASONS: Final = {
    "peer did not return a certificate": "the client presented no certificate",
    "http request": "the client speaks plain HTTP",
    "unsupported protocol": "the client speaks no TLS from 1.2 on",
    "no shared cipher": "the client knows none of the server's ciphers",
    "wrong version number": "the client speaks no TLS",
}
"""What OpenSSL's reasons mean."""
_MAX_SUBJECT: Final = 200
_MAX_RECORD: Final = 16 * 1024
_MAX_UNREAD: Final = 128 * 1024
"""Decrypted bytes that may wait for the HTTP protocol before the client is made to wait."""


class TLSError(Exception):
    """The TLS settings can't be used. The message names the file and what is wrong with it."""


class ClientCertificate(enum.Enum):
    """What a client has to present in the handshake."""

    REQUIRE = "require"
    """Some certificate, whoever issued it (`tls.auth: off`)."""
    REQUIRE_AND_VERIFY = "require_and_verify"
    """A certificate that the configured CAs vouch for (`tls.auth: on`)."""
    REQUEST = "request"
    """As REQUIRE, but none at all is accepted too: the routes check (`skip_auth`)."""
    VERIFY_IF_GIVEN = "verify_if_given"
    """As REQUIRE_AND_VERIFY, but none at all is accepted too."""

    @property
    def required(self) -> bool:
        return self in {ClientCertificate.REQUIRE, ClientCertificate.REQUIRE_AND_VERIFY}

    @property
    def verified(self) -> bool:
        return self in {ClientCertificate.REQUIRE_AND_VERIFY, ClientCertificate.VERIFY_IF_GIVEN}


@dataclass(frozen=True, slots=True)
class TLSSettings:
    """The server's certificate and what it asks of its clients."""

    key: Path
    cert: Path
    password: Callable[[], str] | None = None
    """Returns the passphrase of an encrypted private key."""
    client_certificate: ClientCertificate = ClientCertificate.REQUIRE
    ca: Path | None = None
    """A PEM file or a directory of them; the system's CAs where there is none."""


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TLSError(f"{what} {str(path)!r} can't be read: {error.strerror}") from error


def _load_private_key(settings: TLSSettings) -> PrivateKeyTypes:
    pem = _read(settings.key, "the private key")
    password = settings.password().encode() if settings.password is not None else None
    try:
        return load_pem_private_key(pem, password)
    except TypeError:
        if password is None:
            reason = "is encrypted: set tls.password"
        else:
            reason = "is not encrypted, but tls.password is set: remove it"
    except ValueError:
        reason = "is no PEM private key" if password is None else "can't be decrypted: tls.password is wrong"
    raise TLSError(f"the private key {str(settings.key)!r} {reason}")


def load_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates in a PEM file, the leaf first.

    Raises:
        TLSError: There is none.
    """
    try:
        return x509.load_pem_x509_certificates(_read(path, "the certificate"))
    except ValueError:
        raise TLSError(f"the certificate {str(path)!r} holds no valid PEM certificate") from None


def _use_key_pair(context: SSL.Context, settings: TLSSettings) -> None:
    key = _load_private_key(settings)
    leaf, *chain = load_certificates(settings.cert)
    if not isinstance(
        key, (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey, ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey)
    ):
        kind = "DSA" if isinstance(key, dsa.DSAPrivateKey) else type(key).__name__
        raise TLSError(f"the private key {str(settings.key)!r} is of a kind that TLS can't use ({kind})")
    if _spki(key.public_key()) != _spki(leaf.public_key()):
        raise TLSError(
            f"the private key {str(settings.key)!r} does not belong to the certificate {str(settings.cert)!r}"
        )
    context.use_privatekey(key)
    context.use_certificate(leaf)
    for certificate in chain:
        context.add_extra_chain_cert(certificate)


def _spki(key: object) -> bytes:
    der: bytes = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined] # every public key has it
    return der


def load_client_cas(context: SSL.Context, ca: Path | None) -> None:
    """Let `context` trust the CAs in a PEM file or a directory of them; the system's where there is none.

    Raises:
        TLSError: There is none that can be read.
    """
    if ca is None:
        context.set_default_verify_paths()
        return
    files = sorted(path for path in ca.iterdir() if path.is_file()) if ca.is_dir() else [ca]
    loaded = 0
    for file in files:
        try:
            context.load_verify_locations(str(file))
            loaded += 1
        except SSL.Error as error:
            if not ca.is_dir():
                raise TLSError(f"tls.ca {str(ca)!r} holds no valid PEM certificate") from error
    if not loaded:
        raise TLSError(f"no file in the directory tls.ca {str(ca)!r} holds a valid PEM certificate")


def _select_protocol(_connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    for protocol in (b"h2", b"http/1.1"):
        if protocol in offered:
            return protocol
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _verify(connection: SSL.Connection, certificate: object, error: int, _depth: int, ok: int) -> bool:
    if not ok and isinstance(certificate, crypto.X509):
        subject = certificate.to_cryptography().subject.rfc4514_string()
        reason = _VERIFY_ERRORS.get(error, f"it is not valid (X.509 error {error})")
        # The subject is the client's word: nothing of it may break a line.
        connection.set_app_data(f"the client's certificate {subject[:_MAX_SUBJECT]!r} is refused: {reason}")
    return bool(ok)


def make_context(settings: TLSSettings) -> SSL.Context:
    """Make the OpenSSL context for `settings`.

    Raises:
        TLSError: A file can't be read or used; nothing has been changed.
    """
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(_TLS12_CIPHERS)
    # A resumed session brings no certificate, and an identity must come from a handshake that proved it.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.set_alpn_select_callback(_select_protocol)
    _use_key_pair(context, settings)

    wanted = settings.client_certificate
    mode = SSL.VERIFY_PEER
    if wanted.required:
        mode |= SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    if wanted.verified:
        load_client_cas(context, settings.ca)
        context.set_verify(mode, _verify)
    else:
        # The identity is the hash of the public key, whose possession the handshake proves; chain, dates and usage
        # say nothing about it (protocol section 1).
        context.set_verify(mode, lambda _connection, _certificate, _error, _depth, _ok: True)
    return context


class TLSConnection(asyncio.Protocol):
    """One client's connection: TLS on one side, decrypted bytes for the HTTP protocol on the other."""

    def __init__(
        self,
        context: SSL.Context,
        *,
        on_connect: Callable[[TLSConnection], bool],
        on_established: Callable[[TLSConnection], None],
        on_failed: Callable[[TLSConnection, str], None],
        on_closed: Callable[[TLSConnection], None],
    ) -> None:
        """Wait for a connection.

        Args:
            context: From `make_context`.
            on_connect: Called when the client has connected, before the handshake; false turns it away.
            on_established: Called once, when the handshake has succeeded.
            on_failed: Called once, when it has failed, with the reason.
            on_closed: Called once, when the connection is gone.
        """
        self._on_connect = on_connect
        self._on_established = on_established
        self._on_failed = on_failed
        self._on_closed = on_closed
        self._ssl = SSL.Connection(context, None)
        self._ssl.set_accept_state()
        self._transport: asyncio.Transport | None = None
        self._unread: list[bytes] = []
        self._unread_size = 0
        self._eof = False
        self._reading_paused = False
        self._readable: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._writing_paused = False
        self._failed = False
        self.established = False
        self.client: tuple[str, int] | None = None
        self.server: tuple[str, int] | None = None

    # What the HTTP side uses

    @property
    def alpn(self) -> str:
        """The protocol agreed on: `h2`, or `http/1.1` also where the client did not say."""
        return self._ssl.get_alpn_proto_negotiated().decode("ascii") or "http/1.1"

    def client_certificates(self) -> tuple[str, ...]:
        """Return the certificates that the client presented as PEM, its own first; empty if it presented none."""
        leaf = self._ssl.get_peer_certificate(as_cryptography=True)
        if leaf is None:
            return ()
        chain = self._ssl.get_peer_cert_chain(as_cryptography=True) or []
        # OpenSSL counts the leaf among the chain on some sides and versions and not on others.
        certificates = [leaf, *(chain[1:] if chain and chain[0] == leaf else chain)]
        return tuple(certificate.public_bytes(Encoding.PEM).decode("ascii") for certificate in certificates)

    async def read(self) -> bytes:
        """Return the decrypted bytes that have come in, waiting for the first; empty at the end of the stream."""
        if not self._unread and not self._eof:
            self._readable = asyncio.get_running_loop().create_future()
            try:
                await self._readable
            finally:
                self._readable = None
        data = b"".join(self._unread)
        self._unread.clear()
        self._unread_size = 0
        if self._reading_paused and self._transport is not None:
            self._reading_paused = False
            self._transport.resume_reading()
        return data

    def write(self, data: bytes) -> None:
        """Encrypt and send `data`. What the client does not take at once is buffered: see `drain`."""
        if self._transport is None or self._transport.is_closing():
            return
        view = memoryview(data)
        try:
            while view:
                view = view[self._ssl.send(view) :]
        except SSL.Error:
            self.abort()
        else:
            self._flush()

    async def drain(self) -> None:
        """Wait until the client has taken enough of what was written."""
        if self._writing_paused:
            if self._writable is None:
                self._writable = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._writable)

    @property
    def writing_paused(self) -> bool:
        """Whether the client takes no more data for the moment."""
        return self._writing_paused

    def close(self) -> None:
        """Say goodbye and close once everything written is sent."""
        if self._transport is None or self._transport.is_closing():
            return
        if self.established:
            try:
                self._ssl.shutdown()
            except SSL.Error:
                pass
            else:
                self._flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once, dropping what is not yet sent."""
        if self._transport is not None:
            self._transport.abort()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.client = _address(transport.get_extra_info("peername"))
        self.server = _address(transport.get_extra_info("sockname"))
        if not self._on_connect(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._failed:
            return
        self._ssl.bio_write(data)
        if not self.established and not self._handshake():
            return
        # The client's first request often arrives together with the end of its handshake.
        self._decrypt()

    def eof_received(self) -> bool:
        self._end_of_stream()
        return False

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        self._end_of_stream()
        self.resume_writing()
        self._on_closed(self)

    def pause_writing(self) -> None:
        self._writing_paused = True

    def resume_writing(self) -> None:
        self._writing_paused = False
        if self._writable is not None:
            self._writable.set_result(None)
            self._writable = None

    # TLS

    def _handshake(self) -> bool:
        try:
            self._ssl.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return False
        except SSL.Error as error:
            self._failed = True
            self._flush()  # the alert that tells the client why
            self._on_failed(self, self._ssl.get_app_data() or _reason(error))
            if self._transport is not None:
                # Closing with the client's data unread would reset the connection and lose the alert on its way.
                self._transport.write_eof()
            return False
        self._flush()
        self.established = True
        self._on_established(self)
        return True

    def _decrypt(self) -> None:
        try:
            while True:
                chunk = self._ssl.recv(_MAX_RECORD)
                self._unread.append(chunk)
                self._unread_size += len(chunk)
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self._end_of_stream()
        except SSL.Error:
            self._flush()
            self._end_of_stream()
            self.abort()
        self._flush()  # answers to key updates
        if self._unread_size > _MAX_UNREAD and not self._reading_paused and self._transport is not None:
            self._reading_paused = True
            self._transport.pause_reading()
        self._wake_reader()

    def _end_of_stream(self) -> None:
        self._eof = True
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._readable is not None and not self._readable.done() and (self._unread or self._eof):
            self._readable.set_result(None)

    def _flush(self) -> None:
        if self._transport is None:
            return
        while True:
            try:
                self._transport.write(self._ssl.bio_read(4 * _MAX_RECORD))
            except SSL.WantReadError:
                return


def _reason(error: SSL.Error) -> str:
    """Return why a handshake failed, in a few words of ours or OpenSSL's."""
    queue = error.args[0] if error.args else []
    text = queue[-1][-1] if isinstance(queue, list) and queue else "the handshake failed"
    return _REASONS.get(text, text)


def _address(name: object) -> tuple[str, int] | None:
    if isinstance(name, tuple) and len(name) >= 2:  # noqa: PLR2004 # host and port; IPv6 has more
        return str(name[0]), int(name[1])
    return None
