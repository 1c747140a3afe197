"""How a client talks to servers: credentials, requests and retries."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import ssl
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import httpx

from kes_core.client.errors import APIError, ClientUnusableError, KESConnectionError, KESError, raise_for_status
from kes_core.client.requests import Request
from kes_core.identity import APIKey

__all__ = [
    "DEFAULT_ENDPOINT",
    "MAX_ANSWER",
    "SELF_SIGNED_HINT",
    "MissingCredentialsError",
    "Settings",
    "arguments_from_environment",
    "connection_errors",
    "content_of",
    "failed",
    "may_repeat",
    "parsed",
    "read_answer",
    "retries",
    "running_loop",
    "too_large",
]

T = TypeVar("T")

DEFAULT_ENDPOINT: Final = "https://127.0.0.1:7373"
MAX_ANSWER: Final = 4 * 1024 * 1024
MAX_REQUEST: Final = 1024 * 1024
"""The longest body, in bytes, that any release of the server accepts."""
_ATTEMPTS: Final = 3
"""The number of times that the client tries each endpoint."""
_EXPECTED: Final = "expected a URL like https://127.0.0.1:7373"
_HTTP: Final = re.compile(r"(?<![^\s,])http://", re.IGNORECASE)
SELF_SIGNED_HINT: Final = "; if the server's certificate is self-signed, trust it or skip its verification"
_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
"""The errors that httpx raises before it sends a request."""

# The first variable with a value wins (protocol section 9).
_SERVER: Final = ("MINIO_KES_SERVER", "KES_SERVER", "MINIO_KMS_KES_ENDPOINT")
_API_KEY: Final = ("MINIO_KES_API_KEY", "KES_API_KEY", "MINIO_KMS_KES_API_KEY")
_KEY_FILE: Final = ("MINIO_KES_KEY_FILE", "KES_CLIENT_KEY", "MINIO_KES_CLIENT_KEY")
_CERT_FILE: Final = ("MINIO_KES_CERT_FILE", "KES_CLIENT_CERT", "MINIO_KES_CLIENT_CERT")
_PASSWORD: Final = "KES_CLIENT_KEY_PASSWORD"


class MissingCredentialsError(ValueError):
    """Neither an API key nor a certificate is given, or both are."""


def arguments_from_environment(
    environment: Mapping[str, str], *, endpoints: str | None = None, api_key: str | None = None
) -> dict[str, Any]:
    """Return a client's arguments from environment variables (protocol section 9).

    Args:
        environment: The variables.
        endpoints: A command-line option. It overrides the variables.
        api_key: A command-line option. It overrides the variables, including those that name files.

    Raises:
        MissingCredentialsError: The client credentials are missing, or given twice.
    """

    def first(names: Sequence[str]) -> str | None:
        return next((value for name in names if (value := environment.get(name))), None)

    servers = endpoints or first(_SERVER) or DEFAULT_ENDPOINT
    # Like the Go tool, because servers speak only TLS.
    arguments: dict[str, Any] = {"endpoints": _HTTP.sub("https://", servers)}
    key_file, cert_file = first(_KEY_FILE), first(_CERT_FILE)
    if api_key is not None:
        return arguments | {"api_key": api_key}
    api_key = first(_API_KEY)
    if api_key is not None and (key_file or cert_file):
        raise MissingCredentialsError(
            "both an API key and a key file are set; unset KES_API_KEY, or KES_CLIENT_CERT and KES_CLIENT_KEY"
        )
    if api_key is not None:
        return arguments | {"api_key": api_key}
    if key_file is None and cert_file is None:
        raise MissingCredentialsError("no client credentials: set KES_API_KEY, or KES_CLIENT_CERT and KES_CLIENT_KEY")
    return arguments | {"key_file": key_file, "cert_file": cert_file, "password": environment.get(_PASSWORD)}


class Settings:
    """The servers' endpoints and how to connect to them. Both clients and their logs use this."""

    def __init__(
        self,
        endpoints: str | Sequence[str],
        *,
        api_key: str | APIKey | None,
        key_file: str | os.PathLike[str] | None,
        cert_file: str | os.PathLike[str] | None,
        password: str | None,
        ca: str | os.PathLike[str] | None,
        insecure: bool,
        timeout: float,
        has_transport: bool = False,
    ) -> None:
        given = endpoints.split(",") if isinstance(endpoints, str) else list(endpoints)
        self.endpoints = [_endpoint(text) for text in given if text.strip()]
        if not self.endpoints:
            raise ValueError(f"no endpoint is given: {_EXPECTED}")
        self._first = 0
        self._user: tuple[int, object] | None = None
        if api_key is not None and (key_file is not None or cert_file is not None):
            raise ValueError("an API key and a key file are given: give only one of them")
        if (key_file is None) != (cert_file is None):
            raise ValueError("a private key or its certificate is missing: give both files")
        self.timeout = timeout
        self.ssl: ssl.SSLContext | bool = False
        if has_transport:
            return
        self.ssl = _ssl_context(ca, insecure)
        if api_key is not None:
            _load_api_key(self.ssl, api_key if isinstance(api_key, APIKey) else APIKey.parse(api_key))
        elif key_file is not None and cert_file is not None:
            _load_key_pair(self.ssl, key_file, cert_file, password)

    def in_turn(self) -> Iterator[str]:
        """Yield the endpoints forever, first the one that answered last, so that a dead one costs time only once."""
        return itertools.cycle(self.endpoints[self._first :] + self.endpoints[: self._first])

    def check_usable(self, loop: object = None, *, closed: bool) -> None:
        """Check that the connections belong to this process and event loop. The first request decides that.

        Args:
            loop: The event loop of an asynchronous client.
            closed: Whether the client is closed.

        Raises:
            ClientUnusableError: The client is closed, or was used in another process or event loop before.
        """
        if closed:
            raise ClientUnusableError("the client is closed: make a new one")
        user = (os.getpid(), loop)
        if self._user is None:
            self._user = user
        elif self._user[0] != user[0]:
            raise ClientUnusableError("the client was used before this process was forked: make a new one")
        elif self._user[1] is not loop:
            raise ClientUnusableError("the client was used in another event loop: make a new one")

    @property
    def endpoint(self) -> str:
        """The endpoint that answered last; before the first answer, the one that is asked first."""
        return self.endpoints[self._first]

    def answered(self, endpoint: str) -> None:
        """Ask `endpoint` first from now on."""
        self._first = self.endpoints.index(endpoint)


def _endpoint(text: str) -> str:
    text = text.strip().rstrip("/")
    if "@" in text:  # do not repeat the text: it may contain a password
        raise ValueError(f"an endpoint can't have a user name or password: {_EXPECTED}")
    try:
        url = httpx.URL(text if "://" in text else f"https://{text}")
        host = url.host
        url.raw_host.decode("ascii").encode("idna")  # connecting would do the same, but raise another type of error
    except (httpx.InvalidURL, UnicodeError):
        raise ValueError(f"{text!r} is not a valid URL: {_EXPECTED}") from None
    if url.scheme != "https" or not host or url.raw_path != b"/" or url.fragment:
        raise ValueError(f"{text!r} is not a valid URL: {_EXPECTED}")
    return str(url).rstrip("/")


def _ssl_context(ca: str | os.PathLike[str] | None, insecure: bool) -> ssl.SSLContext:
    if insecure:
        # Do not read the system's CAs: that takes longer than a request, and they would not be used.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        if ca is None:
            context = ssl.create_default_context()
        elif Path(ca).is_dir():
            context = ssl.create_default_context(capath=os.fspath(ca))
        else:
            context = ssl.create_default_context(cafile=os.fspath(ca))
    except ssl.SSLError:
        raise ValueError(f"the CA file {os.fspath(ca or '')!r} does not hold a PEM certificate") from None
    except OSError as error:
        raise ValueError(f"the CA file {os.fspath(ca or '')!r} can't be read: {error.strerror}") from None
    return context


def _load_api_key(context: ssl.SSLContext, api_key: APIKey) -> None:
    """Let `context` present a certificate made for `api_key`. Python's ssl can read it only from a file."""
    key_pem, cert_pem = api_key.certificate()
    # Only its owner can read the directory, which exists just long enough to read the file.
    with tempfile.TemporaryDirectory(prefix="kes-") as directory:
        file = Path(directory) / "client.pem"
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(key_pem + cert_pem)
        context.load_cert_chain(file)


def _load_key_pair(
    context: ssl.SSLContext,
    key_file: str | os.PathLike[str],
    cert_file: str | os.PathLike[str],
    password: str | None,
) -> None:
    for file, what in ((key_file, "private key"), (cert_file, "certificate")):
        if not os.access(file, os.R_OK) or Path(file).is_dir():
            raise ValueError(f"the client's {what} {os.fspath(file)!r} can't be read")

    asked = False

    def ask() -> str:
        nonlocal asked
        asked = True
        if password is None:
            raise ValueError(f"the private key {os.fspath(key_file)!r} is encrypted: a password is needed")
        return password

    try:
        context.load_cert_chain(cert_file, key_file, ask)
    except ssl.SSLError as error:
        if asked and error.reason != "KEY_VALUES_MISMATCH":
            raise ValueError(f"the private key {os.fspath(key_file)!r} is encrypted: the password is wrong") from None
        reason = error.reason or "they are not a PEM private key with its certificate"
        files = f"{os.fspath(key_file)!r} and {os.fspath(cert_file)!r}"
        raise ValueError(f"the private key and certificate {files} can't be used: {reason}") from None


def running_loop() -> object:
    """Return the running event loop of asyncio; `None` in another framework."""
    asyncio = sys.modules.get("asyncio")
    try:
        return asyncio.get_running_loop() if asyncio is not None else None
    except RuntimeError:
        return None


def content_of(request: Request[T]) -> tuple[bytes | None, dict[str, str]]:
    """Return the body of a request, if it has one, and its headers.

    Raises:
        KESError: The body is larger than any server accepts.
    """
    # Do not accept compression: it hides the real length of an answer.
    headers = {"accept": "text/plain" if request.is_text else "application/json", "accept-encoding": "identity"}
    if request.body is None:
        return None, headers
    content = json.dumps(request.body, separators=(",", ":")).encode()
    if len(content) > MAX_REQUEST:
        # The server would stop reading such a body before its end, and its answer could get lost.
        raise KESError(f"the request has {len(content)} bytes: servers accept up to {MAX_REQUEST}")
    return content, headers | {"content-type": "application/json"}


def read_answer(request: Request[T], status: int, body: bytes) -> T:
    """Return the parsed answer to a request.

    Raises:
        APIError: It is an error, or does not follow the protocol.
    """
    raise_for_status(status, body)
    if request.is_text:
        return request.parse(body.decode("utf-8", "replace"))
    return parsed(request.parse, status, body)


def parsed(parse: Callable[[Any], T], status: int, body: bytes) -> T:
    """Return what `parse` reads from the JSON in `body`; it gets `None` if the body is empty."""
    try:
        return parse(json.loads(body) if body else None)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise APIError(status, "the server's answer does not follow the protocol") from error


def too_large(endpoint: str) -> KESError:
    """Return the error for an answer that the client stops reading."""
    return KESError(f"{endpoint}: the answer is larger than {MAX_ANSWER} bytes")


@contextlib.contextmanager
def connection_errors(endpoint: str) -> Iterator[None]:
    """Turn connection errors into httpx's. On asyncio, httpx does not convert some, such as a refused certificate."""
    try:
        yield
    except OSError as error:
        raise httpx.ReadError(str(error), request=httpx.Request("GET", endpoint)) from error


def may_repeat(request: Request[T], error: BaseException | None, settings: Settings, attempt: int) -> bool:
    """Return whether the client may send a request again, after `error` in an attempt with the given number, from 1.

    A TLS failure would repeat itself: after one, the client asks each other endpoint once.
    """
    if _is_tls_failure(error) and attempt >= len(settings.endpoints):
        return False
    return isinstance(error, _NOT_SENT) or (isinstance(error, httpx.TransportError) and request.repeatable)


def _is_tls_failure(error: BaseException | None) -> bool:
    """Return whether one side refused the TLS handshake, for example because it does not trust a certificate."""
    while error is not None and not isinstance(error, ssl.SSLError):
        error = error.__cause__ or error.__context__
    # All other errors mean that the connection broke.
    return error is not None and not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)


def retries(request: Request[Any], settings: Settings) -> dict[str, Any]:
    """Return how often and when to retry a request, as arguments of tenacity's classes."""
    import tenacity

    def again(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        return may_repeat(request, error, settings, state.attempt_number + 1)  # not counting the first

    return {
        "retry": again,
        "stop": tenacity.stop_after_attempt(_ATTEMPTS * len(settings.endpoints) - 1),
        "wait": tenacity.wait_random_exponential(multiplier=0.05, max=1.0),
        "reraise": True,
    }


def failed(error: httpx.TransportError) -> KESConnectionError:
    """Return the client's error for an error of httpx, with the endpoint and the reason."""
    endpoint = f"{error.request.url.scheme}://{error.request.url.netloc.decode('ascii')}"
    reason = str(error) or type(error).__name__
    if isinstance(error, httpx.ProtocolError):  # its text may be only a stream ID
        reason = f"the connection broke in the middle of an answer: {type(error.__cause__ or error).__name__} {reason}"
    return KESConnectionError(f"{endpoint}: {reason}{_cure_of(reason)}")


def _cure_of(reason: str) -> str:
    """Return what to do if the client does not accept the server's certificate, in OpenSSL's words for it."""
    if "CERTIFICATE_VERIFY_FAILED" not in reason:
        return ""
    if "ostname mismatch" in reason or "IP address mismatch" in reason:
        return "; connect by a name in the server's certificate, or give it one with this name"
    if "has expired" in reason or "not yet valid" in reason:
        return "; the server needs a new certificate, or a clock is wrong"
    return SELF_SIGNED_HINT
