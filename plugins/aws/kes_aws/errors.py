"""Translate errors of AWS and its SDK to the core's, with a line that says what to do.

The codes are those of https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html and of each
operation's page there. The status of an answer says little: most errors have 400.
"""

from __future__ import annotations

import re
import ssl
from typing import Final

from botocore import exceptions as sdk
from urllib3.util.ssl_match_hostname import CertificateError

from kes_core import (
    EntryExistsError,
    EntryNotFoundError,
    KeyStoreError,
    KeyStoreReason,
    KeyStoreThrottledError,
    KeyStoreUnreachableError,
)
from kes_core.errors import causes_of, connection_problem

__all__ = [
    "CredentialsRefusedError",
    "MisconfiguredError",
    "NotAWSError",
    "OperationRefusedError",
    "SecretPendingDeletionError",
    "code_of",
    "is_about_credentials",
    "translate",
]

_MAX_TEXT: Final = 300
_CODE: Final = re.compile(r"[A-Za-z][A-Za-z0-9.]{0,63}", re.ASCII)
_CREDENTIALS: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "IncompleteSignatureException",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "RequestExpired",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_PENDING: Final = re.compile(r"(scheduled|marked) (for deletion|deleted)")
_LATE: Final = ("expired:", "not yet current", "date stamp")
"""What AWS says of a signature, which has the time of its request, if the clocks differ."""
_EXPIRED: Final = frozenset({"ExpiredToken", "ExpiredTokenException"})
_REFUSED: Final = frozenset({"AccessDenied", "AccessDeniedException", "UnauthorizedOperation"})
_THROTTLED: Final = frozenset(
    {
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "ThrottledException",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
_TELLING: Final = frozenset({"InvalidRequestException", "LimitExceededException"})
"""Codes whose text tells the operator more, and repeats no value."""
_KMS: Final = frozenset({"DecryptionFailure", "EncryptionFailure"})
_WITHOUT_CREDENTIALS: Final = (
    sdk.NoCredentialsError,
    sdk.PartialCredentialsError,
    sdk.CredentialRetrievalError,
    sdk.MetadataRetrievalError,
    sdk.UnauthorizedSSOTokenError,
    sdk.TokenRetrievalError,
    sdk.ProfileNotFound,
    sdk.ConfigParseError,
    sdk.InvalidConfigError,
)
_TOO_MANY_REQUESTS, _SERVER_ERROR = 429, 500
_VERIFY_EXPIRED: Final = 10
_OTHER_HOST: Final = "is for another host: set endpoint to a name that is in the certificate"
_MISMATCHES: Final = frozenset({62, 64})  # of the host name, of the IP address: openssl/x509_vfy.h


class OperationRefusedError(KeyStoreError):
    """AWS accepts the credentials, but they do not permit the operation."""

    default_reason = KeyStoreReason.FORBIDDEN


class CredentialsRefusedError(KeyStoreError):
    """There are no credentials, or AWS does not accept them."""

    default_reason = KeyStoreReason.FORBIDDEN


class SecretPendingDeletionError(KeyStoreError):
    """The secret is scheduled for deletion: it can't be read, and its name is taken."""


class MisconfiguredError(KeyStoreError):
    """AWS answers, but not as the configuration expects."""

    default_reason = KeyStoreReason.MISCONFIGURED


class NotAWSError(Exception):
    """The answer does not have the form of Secrets Manager's: a proxy or another server sent it."""


def code_of(error: sdk.ClientError) -> str:
    """Return the code of an error of AWS, or an empty text if another program answered."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _CODE.fullmatch(code) else ""


def _text_of(error: sdk.ClientError) -> str:
    """Return AWS's own reason, in one line. Only for codes whose text never repeats a value or a signature."""
    text = str(error.response.get("Error", {}).get("Message") or "no reason given")
    return "".join(letter for letter in " ".join(text.split()) if letter.isprintable())[:_MAX_TEXT]


def is_about_credentials(error: Exception) -> bool:
    """Tell whether other credentials may help."""
    if isinstance(error, sdk.ClientError):
        return code_of(error) in _CREDENTIALS
    return isinstance(error, _WITHOUT_CREDENTIALS)


def translate(error: Exception, what: str, endpoint: str) -> KeyStoreError:
    """Return the core's error for a failed call.

    Args:
        error: What the SDK raised. Its text is passed on only where it is known to hold no secret.
        what: What was tried, as in "read the secret 'my-key'".
        endpoint: The URL of Secrets Manager.
    """
    if isinstance(error, sdk.ClientError):
        return _of_aws(error, what, endpoint)
    if isinstance(error, _WITHOUT_CREDENTIALS):
        return CredentialsRefusedError(
            f"there are no usable credentials for AWS ({type(error).__name__}): set credentials.accesskey and "
            "credentials.secretkey, or give the server a role"
        )
    if isinstance(error, sdk.HTTPClientError | sdk.ConnectionError):
        return _of_connection(error, what, endpoint)
    if isinstance(error, sdk.BotoCoreError):
        return KeyStoreError(f"AWS's SDK can't {what}: {type(error).__name__}")
    return KeyStoreUnreachableError(_foreign(what, endpoint))  # the SDK does not check the form of answers


def _foreign(what: str, endpoint: str, status: int = 0) -> str:
    shown = f"status {status}, " if status else ""
    return (
        f"the server at {endpoint} does not answer like AWS Secrets Manager ({shown}tried to {what}): look at the "
        "proxy in front of it, or set endpoint to an address of AWS"
    )


def _of_aws(error: sdk.ClientError, what: str, endpoint: str) -> KeyStoreError:
    code, status = code_of(error), int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code in _THROTTLED or status == _TOO_MANY_REQUESTS:
        return KeyStoreThrottledError(f"AWS throttles requests ({code or status}, tried to {what})")
    if not code:
        kind = KeyStoreUnreachableError if status >= _SERVER_ERROR else MisconfiguredError
        return kind(_foreign(what, endpoint, status))
    if status >= _SERVER_ERROR:
        return KeyStoreUnreachableError(
            f"AWS Secrets Manager at {endpoint} is not available at the moment ({code}, tried to {what})"
        )
    if code in _CREDENTIALS:
        return _of_credentials(code, _text_of(error))
    if code in _REFUSED:
        return OperationRefusedError(f"AWS refuses to {what}: {_text_of(error)}")
    return _of_secret(error, code, what)


def _of_credentials(code: str, text: str) -> CredentialsRefusedError:
    if code in _EXPIRED:
        return CredentialsRefusedError(
            f"the credentials for AWS have expired ({code}): give the server new ones, or a role, whose credentials "
            "the SDK renews"
        )
    if code == "RequestExpired" or any(part in text for part in _LATE):
        return CredentialsRefusedError(
            f"AWS does not accept the time of the requests ({code}): set the clock of this machine by NTP"
        )
    return CredentialsRefusedError(
        f"AWS does not accept the credentials ({code}): check credentials.accesskey, secretkey and token, or the role "
        "of the server"
    )


def _of_secret(error: sdk.ClientError, code: str, what: str) -> KeyStoreError:
    text = _text_of(error)
    if code == "ResourceExistsException":
        return EntryExistsError(f"AWS refuses to {what}: the name is taken")
    if code == "ResourceNotFoundException" and "staging label" not in text:
        return EntryNotFoundError(f"AWS can't {what}: there is none of that name")
    if code == "InvalidRequestException" and _PENDING.search(text):
        return SecretPendingDeletionError(f"AWS can't {what}: the secret is scheduled for deletion")
    if code == "ResourceNotFoundException":
        problem = ": the secret has no current value"
    elif code in _KMS:
        return MisconfiguredError(
            f"AWS can't {what} ({code}): the KMS key of the secret is disabled, is scheduled for deletion, or does not "
            "exist"
        )
    else:
        problem = f" ({code}): {text}" if code in _TELLING else f": {code}"
    return KeyStoreError(f"AWS can't {what}{problem}")


def _of_connection(error: Exception, what: str, endpoint: str) -> KeyStoreError:
    causes = list(causes_of(error))
    problem = connection_problem(causes)
    if any(isinstance(cause, CertificateError) for cause in causes):
        return MisconfiguredError(f"the certificate of AWS at {endpoint} {_OTHER_HOST}")
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if untrusted is not None:
        return MisconfiguredError(f"the certificate of AWS at {endpoint} {_what_is_wrong_with(untrusted)}")
    if isinstance(error, sdk.ConnectTimeoutError | sdk.ReadTimeoutError):
        return KeyStoreUnreachableError(f"AWS Secrets Manager at {endpoint} does not answer in time (tried to {what})")
    if isinstance(error, sdk.ProxyConnectionError):
        return KeyStoreUnreachableError(
            f"the proxy in front of AWS can't be reached: {problem} (tried to {what}): check HTTPS_PROXY"
        )
    return KeyStoreUnreachableError(f"AWS Secrets Manager at {endpoint} can't be reached: {problem} (tried to {what})")


def _what_is_wrong_with(certificate: ssl.SSLCertVerificationError) -> str:
    if certificate.verify_code == _VERIFY_EXPIRED:
        return "has expired: look at the proxy in front of it, and at the clock of this machine"
    if certificate.verify_code in _MISMATCHES:
        return _OTHER_HOST
    return "is not trusted: if a proxy of yours opens the TLS connections to AWS, set tls.ca to its CA"
