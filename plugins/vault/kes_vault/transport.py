"""The HTTP connections to Vault: which redirects they follow, and what counts as an answer of Vault."""

from __future__ import annotations

import json
import os
import re
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from kes_core import KeyStoreError

if TYPE_CHECKING:
    from kes_vault.config import VaultConfig

__all__ = ["HEALTH", "ForeignAnswerError", "GatewayError", "RedirectError", "VaultHTTP"]

_KEEP_THE_METHOD: Final = frozenset({307, 308})
_GATEWAY: Final = frozenset({502, 504})
_MAX_REDIRECTS: Final = 3
_WRITES: Final = frozenset({"POST", "PUT", "DELETE"})
_INDEX: Final = "X-Vault-Index"
_USABLE_INDEX: Final = re.compile(r"[!-~]{1,4096}")
"""A value that can be sent back as a header."""
HEALTH: Final = "/v1/sys/health"
_JSON: Final = "application/json"
_NO_CONTENT: Final = 204
_BEHIND: Final = frozenset({412, 429})
"""The node is behind the active one, or overloaded."""
_RETRY: Final = Retry(
    total=None,
    connect=0,
    read=False,
    redirect=False,
    other=0,
    status=6,
    status_forcelist=_BEHIND,
    allowed_methods=None,  # Vault did nothing, so writes may be repeated too
    backoff_factor=0.02,
    respect_retry_after_header=False,
    raise_on_status=False,
)
"""Waits 1.3 seconds in all."""


class RedirectError(requests.exceptions.RequestException):
    """The answer redirects the request in a way that the server must not follow."""


class GatewayError(requests.exceptions.ConnectionError):
    """A proxy in front of Vault gets no answer from it."""


class ForeignAnswerError(requests.exceptions.ConnectionError):
    """The answer does not have the form of Vault's: a proxy or another server sent it."""


class VaultHTTP(requests.Session):
    """Connections that are kept and used again, with the certificates of the configuration.

    Standby nodes of a cluster may answer reads themselves, and may be behind. So every request names the last write of
    ours that the answer must reflect: https://openbao.org/community/rfcs/index-headers/ and, for Vault,
    https://developer.hashicorp.com/vault/docs/enterprise/consistency. A node that is behind forwards the request to the
    active node, or refuses it if forwarding is not allowed; then the request is repeated.
    """

    def __init__(self, config: VaultConfig, *, connections: int) -> None:
        super().__init__()
        for scheme in ("https://", "http://"):
            adapter = HTTPAdapter if config.tls.ca else _SystemRoots
            self.mount(scheme, adapter(pool_maxsize=connections, max_retries=_RETRY))
        self.max_redirects = _MAX_REDIRECTS
        self._bundle = _CABundle(Path(config.tls.ca)) if config.tls.ca and Path(config.tls.ca).is_dir() else None
        self.verify = self._bundle.path if self._bundle is not None else config.tls.ca or True
        if config.tls.cert:
            self.cert = (config.tls.cert, config.tls.key)
        self._index = ""
        self.trust_env = False  # ignore proxies and .netrc: the configuration decides

    def read_cas_again(self) -> None:
        """Read a directory of CAs again. Each new connection reads a single file again anyway.

        Raises:
            KeyStoreError: The directory has no certificate, or can't be read.
        """
        if self._bundle is not None:
            self._bundle.read()

    def close(self) -> None:
        super().close()
        if self._bundle is not None:
            self._bundle.close()

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        """Send a request; see the base class.

        Raises:
            GatewayError: A proxy says that Vault does not answer.
            ForeignAnswerError: Another program answered instead of Vault.
        """
        index = self._index
        if index:
            request.headers.update({_INDEX: index, "X-Vault-Inconsistent": "forward-active-node"})
        response = super().send(request, **kwargs)
        if index and not response.ok and _INDEX.encode() in response.content:
            # Vault can't read the index: it comes from another cluster or is damaged. Vault did nothing.
            self._index = ""
            del request.headers[_INDEX], request.headers["X-Vault-Inconsistent"]
            response = super().send(request, **kwargs)
        if response.status_code in _GATEWAY:
            raise GatewayError(f"status {response.status_code}", response=response)
        if not _is_of_vault(response):
            raise ForeignAnswerError(response=response)
        if "Content-Type" in response.headers:
            response.headers["Content-Type"] = _JSON  # without parameters, as hvac expects it
        if request.method in _WRITES:  # a refused write too: the next answer must reflect that the name is taken
            given = response.headers.get(_INDEX, index)
            self._index = given if _USABLE_INDEX.fullmatch(given) else ""
        if response.status_code in _BEHIND:
            self._index = ""  # useless: another cluster, or a restored one
        return response

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Return where a standby node redirects the request: to the active node.

        requests turns a POST into a GET when it follows a 301, 302 or 303. Such an answer must not count: the server
        would report a key as created that does not exist.

        Raises:
            RedirectError: The redirect has another status, or leads away from TLS.
        """
        if not 300 <= resp.status_code < 400:  # noqa: PLR2004 # the statuses of redirects
            return None
        target = super().get_redirect_target(resp) if resp.status_code in _KEEP_THE_METHOD else None
        was_secure = str(resp.request.url).startswith("https:")
        if target is None or (was_secure and target.lower().startswith("http:")):
            resp.close()
            raise RedirectError(f"status {resp.status_code}", response=resp)
        return target


def _is_of_vault(response: requests.Response) -> bool:
    """Tell whether an answer has the form of Vault's: https://developer.hashicorp.com/vault/api-docs#error-response.

    Vault answers with a JSON object; one of an error has a list of errors. A health check has the field "sealed",
    whatever its status. A deleted version of an entry is a 404 with data. An empty success counts as Vault's, as does a
    redirect, which has rules of its own.
    """
    status = response.status_code
    if status == _NO_CONTENT or 300 <= status < 400:  # noqa: PLR2004 # the statuses of redirects
        return True
    answer = _json_object(response)
    if answer is None:
        return False
    is_health = str(response.request.url).partition("?")[0].endswith(HEALTH)
    if response.ok or (is_health and "sealed" in answer):
        return not is_health or "sealed" in answer
    errors = answer.get("errors")
    if isinstance(errors, list):
        return all(isinstance(error, str) for error in errors)
    return errors is None and isinstance(answer.get("data"), dict)


def _json_object(response: requests.Response) -> dict[str, Any] | None:
    """Return the JSON object in an answer; None if its content is something else."""
    if response.headers.get("Content-Type", "").partition(";")[0].strip().lower() != _JSON:
        return None
    try:
        answer = json.loads(response.content)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


class _SystemRoots(HTTPAdapter):
    """Trusts the CAs that the operating system trusts, or those of SSL_CERT_FILE and SSL_CERT_DIR.

    requests itself trusts the CAs of the package certifi instead.
    """

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=ssl.create_default_context(), **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: bool | str, cert: Any) -> None:
        super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call] # its stub has no types
        conn.ca_certs = None  # keep the context from loading certifi's CAs too


class _CABundle:
    """The certificates in a directory as one file, in memory.

    OpenSSL finds only files that `openssl rehash` named; operators put files with any name there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._content = b""
        self._file = os.memfd_create("kes-vault-ca", os.MFD_CLOEXEC)
        self.path = f"/proc/{os.getpid()}/fd/{self._file}"
        try:
            self.read()
        except KeyStoreError:
            self.close()
            raise

    def read(self) -> None:
        try:
            files = sorted(path for path in self._directory.iterdir() if path.is_file())
            content = b"\n".join(data for path in files if b"-----BEGIN CERTIFICATE" in (data := path.read_bytes()))
        except OSError as error:
            raise KeyStoreError(f"the CAs in {str(self._directory)!r} can't be read: {error.strerror}") from None
        if not content:
            raise KeyStoreError(
                f"there is no certificate in {str(self._directory)!r}: put the CA of Vault there as PEM"
            )
        if content != self._content:
            os.pwrite(self._file, content, 0)
            os.ftruncate(self._file, len(content))
            self._content = content

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
