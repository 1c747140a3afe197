"""The models of requests and answers, for the documentation of the API (OpenAPI).

The routes themselves read and write plain JSON: making a model for each request costs more than its cryptography. The
running server does not import this module: building its models takes a tenth of a start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field, TypeAdapter

from kes_core.protocol import ROUTES, Route

__all__ = ["ANSWERS", "BODIES", "Error", "document"]

_TITLE: Final = "kes-core"


Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Patterns = dict[str, dict[str, Any]]

_STATES: Final = "`disabled`, `decrypt-only`, `scheduled-for-deletion` or `deleting`, of a key that is not enabled."
_DELETE_AT: Final = "When the key is deleted, as in RFC 3339, if its deletion is scheduled."
_MIN_VERSION: Final = "The oldest version that decrypts, if it is not the first one."


_ABOUT: Final = (
    "The API of a KES server. Clients show who they are with a certificate in the TLS handshake. "
    "POST may be used wherever the method is PUT."
)


class Error(BaseModel):
    """The answer to a request that is refused or fails."""

    message: str


class Version(BaseModel):
    version: str
    commit: str


class Status(BaseModel):
    version: str
    os: str
    arch: str
    uptime: Annotated[int, Field(description="Seconds.")]
    num_cpu: int
    num_cpu_used: int
    mem_heap_used: Annotated[int, Field(description="Bytes.")]
    mem_stack_used: Annotated[int, Field(description="Bytes.")]
    workers: Annotated[int, Field(description="Processes that serve requests.")]
    keystore: Annotated[
        str | None,
        Field(description="The kind of key store. Like the next three, not for strangers if skip_auth is on."),
    ] = None
    policies: int | None = None
    identities: Annotated[int | None, Field(description="Identities that have a policy.")] = None
    frontends: Annotated[
        dict[str, str] | None, Field(description='The front ends, if there are any: "ready", or why it can\'t serve.')
    ] = None
    certificate_expires_at: Annotated[
        str | None, Field(description="When the server's certificate expires, as in RFC 3339.")
    ] = None
    client_certificates_expiring: Annotated[
        int | None, Field(description="Clients whose certificate expires within 14 days, if there are any.")
    ] = None
    keystore_latency: Annotated[int | None, Field(description="Nanoseconds.")] = None
    keystore_reason: Annotated[str | None, Field(description="Why the key store can't serve, if that is known.")] = None
    keystore_unreachable: bool = False
    keystore_unavailable: bool = False


class API(BaseModel):
    method: str
    path: str
    max_body: Annotated[int, Field(description="Bytes.")]
    timeout: Annotated[int, Field(description="Seconds; 0: none.")]


class Material(BaseModel):
    key: Annotated[Base64, Field(description="The 32 bytes of a key, if it is not wrapped.")] = ""
    wrapped_key: Annotated[Base64, Field(description="The 552 bytes of a wrapped key.")] = ""
    wrapping_key: Annotated[str, Field(description="The id of the wrapping key, if the key is wrapped.")] = ""


class ImportKey(Material):
    cipher: Annotated[str, Field(examples=["AES256", "ChaCha20"])]


class ImportKeyVersion(Material):
    cipher: Annotated[str, Field(description="That of the key if it is missing.", examples=["AES256", "ChaCha20"])] = ""


class WrappingKeyAnswer(BaseModel):
    id: Annotated[str, Field(description="The SHA-256 of the public key in DER, in hex.")]
    public_key: Annotated[str, Field(description="In PEM.")]
    algorithm: Annotated[str, Field(description="How keys are wrapped.", examples=["RSA-4096-OAEP-SHA256+AES-256-KWP"])]
    created_at: Time
    created_by: str = ""
    expires_at: Annotated[Time, Field(description="Until then the server imports what is wrapped for it.")]


class Key(BaseModel):
    name: str
    algorithm: str
    created_at: Time
    created_by: str = ""


class VersionedKey(Key):
    version: Annotated[str | None, Field(description="The newest version, of a key that was rotated.")] = None
    state: Annotated[str | None, Field(description=_STATES)] = None
    delete_at: Annotated[str | None, Field(description=_DELETE_AT)] = None
    min_decryption_version: Annotated[str | None, Field(description=_MIN_VERSION)] = None


class Disable(BaseModel):
    allow_decrypt: Annotated[bool, Field(description="Still allow to decrypt, and HMAC.")] = False


class ScheduleDelete(BaseModel):
    in_: Annotated[
        float | None, Field(alias="in", description="Seconds; `deletion.delay` of the configuration if it is missing.")
    ] = None


class MinVersion(BaseModel):
    version: Annotated[int, Field(description="A version of the key.")]


class KeyStateAnswer(BaseModel):
    state: Annotated[
        str, Field(description="`enabled`, `disabled`, `decrypt-only`, `scheduled-for-deletion` or `deleting`.")
    ]
    delete_at: Annotated[str | None, Field(description=_DELETE_AT)] = None
    min_decryption_version: Annotated[str | None, Field(description=_MIN_VERSION)] = None


class KeyVersionFacts(BaseModel):
    version: str
    algorithm: str
    created_at: Time
    created_by: str = ""


class Versions(BaseModel):
    name: str
    versions: Annotated[list[KeyVersionFacts], Field(description="The oldest one first.")]
    state: Annotated[str | None, Field(description=_STATES)] = None
    delete_at: Annotated[str | None, Field(description=_DELETE_AT)] = None
    min_decryption_version: Annotated[str | None, Field(description=_MIN_VERSION)] = None


class Rotate(BaseModel):
    if_older_than: Annotated[
        float, Field(description="Seconds. Leave the key as it is if its newest version is younger.")
    ] = 0


class Rotation(BaseModel):
    version: Annotated[str, Field(description="The newest version.")]
    created_at: Time
    rotated: Annotated[bool, Field(description="Whether this request made the version.")]


class Names(BaseModel):
    names: list[str]
    continue_at: Annotated[str, Field(description="The pattern that asks for the next page.")] = ""


class Context(BaseModel):
    context: Base64 = ""


class DataKeyAnswer(BaseModel):
    plaintext: Base64
    ciphertext: Base64
    version: Annotated[str | None, Field(description="The version of the key, if the key was rotated.")] = None


class Plaintext(BaseModel):
    plaintext: Base64 = ""


class PlaintextInContext(Plaintext, Context):
    pass


class Ciphertext(BaseModel):
    ciphertext: Base64


class CiphertextAnswer(Ciphertext):
    version: Annotated[str | None, Field(description="The version of the key, if the key was rotated.")] = None


class CiphertextInContext(Ciphertext, Context):
    pass


class Message(BaseModel):
    message: Base64 = ""
    hmac_version: Annotated[
        int | None, Field(description="The version whose HMAC key to use; version 1 if it is missing.")
    ] = None


class HMAC(BaseModel):
    hmac: Base64


class Policy(BaseModel):
    name: str
    created_at: Time
    created_by: str = ""


class PolicyWithPatterns(Policy):
    allow: Patterns = {}
    deny: Patterns = {}


class Identity(BaseModel):
    admin: bool = False
    policy: str = ""
    created_at: Time
    created_by: str = ""


class Self(Identity):
    identity: str
    allow: Patterns = {}
    deny: Patterns = {}


class Identities(BaseModel):
    identities: list[str]
    continue_at: str = ""


ANSWERS: Final[Mapping[str, Any]] = {
    "/version": Version,
    "/v1/status": Status,
    "/v1/api": list[API],
    "/v1/key/describe/": VersionedKey,
    "/v1/key/list/": Names,
    "/v1/key/generate/": DataKeyAnswer,
    "/v1/key/encrypt/": CiphertextAnswer,
    "/v1/key/decrypt/": Plaintext,
    "/v1/key/hmac/": HMAC,
    "/v1/key/bulk/decrypt/": list[Plaintext],
    "/v1/key/bulk/generate/": list[DataKeyAnswer],
    "/v1/key/bulk/encrypt/": list[CiphertextAnswer],
    "/v1/key/bulk/rewrap/": list[CiphertextAnswer],
    "/v1/key/rotate/": Rotation,
    "/v1/key/import-version/": Rotation,
    "/v1/key/wrapping-key": WrappingKeyAnswer,
    "/v1/key/rewrap/": CiphertextAnswer,
    "/v1/key/versions/": Versions,
    "/v1/key/disable/": KeyStateAnswer,
    "/v1/key/enable/": KeyStateAnswer,
    "/v1/key/schedule-delete/": KeyStateAnswer,
    "/v1/key/undelete/": KeyStateAnswer,
    "/v1/key/min-version/": KeyStateAnswer,
    "/v1/policy/describe/": Policy,
    "/v1/policy/read/": PolicyWithPatterns,
    "/v1/policy/list/": Names,
    "/v1/identity/describe/": Identity,
    "/v1/identity/self/describe": Self,
    "/v1/identity/list/": Identities,
}
"""The model of each route's answer, by path. A missing route has an empty answer."""

TEXTS: Final[Mapping[str, str]] = {
    "/v1/metrics": "text/plain",
    "/v1/log/error": "application/x-ndjson",
    "/v1/log/audit": "application/x-ndjson",
}
"""The media types of answers that are not a single JSON value, by path."""

BODIES: Final[Mapping[str, Any]] = {
    "/v1/key/import/": ImportKey,
    "/v1/key/import-version/": ImportKeyVersion,
    "/v1/key/generate/": Context,
    "/v1/key/encrypt/": PlaintextInContext,
    "/v1/key/decrypt/": CiphertextInContext,
    "/v1/key/hmac/": Message,
    "/v1/key/bulk/decrypt/": list[CiphertextInContext],
    "/v1/key/bulk/generate/": list[Context],
    "/v1/key/bulk/encrypt/": list[PlaintextInContext],
    "/v1/key/bulk/rewrap/": list[CiphertextInContext],
    "/v1/key/rotate/": Rotate,
    "/v1/key/disable/": Disable,
    "/v1/key/schedule-delete/": ScheduleDelete,
    "/v1/key/min-version/": MinVersion,
    "/v1/key/rewrap/": CiphertextInContext,
}
"""The model of each route's body, by path."""


def _add_route(app: FastAPI, route: Route) -> None:
    """Add a route of the table to an application, with its documentation."""
    body = BODIES.get(route.path)
    extra: dict[str, Any] = {}
    if route.argument is not None:
        extra["parameters"] = [
            {"name": route.argument.value, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    if body is not None:
        extra["requestBody"] = {"content": {"application/json": {"schema": _schema(body)}}}
    responses: dict[int | str, dict[str, Any]] = {"default": {"model": Error, "description": "Refused, or failed"}}
    if route.path in TEXTS:
        responses[200] = {"content": {TEXTS[route.path]: {"schema": {"type": "string"}}}}
    app.add_api_route(
        route.template,
        _no_handler,
        methods=[route.method],  # and POST for PUT, which is an older spelling and not documented
        summary=route.summary,
        operation_id="_".join(part for part in route.path.split("/") if part not in {"", "v1"}),
        response_model=ANSWERS.get(route.path),
        response_description="Success",
        response_class=JSONResponse if route.path in ANSWERS else Response,
        responses=responses,
        openapi_extra=extra,
    )


def document(version: str) -> dict[str, Any]:
    """Return the OpenAPI document of the API, for this version of the server."""
    app = FastAPI(title=_TITLE, version=version, description=_ABOUT)
    for route in ROUTES:
        _add_route(app, route)
    return app.openapi()


async def _no_handler() -> None:
    # Without a docstring: FastAPI would make it the description of every route.
    return


def _schema(body: Any) -> dict[str, Any]:
    """Return the self-contained JSON schema of a body: FastAPI collects only the models of answers."""
    schema = TypeAdapter(body).json_schema()
    for model in schema.pop("$defs", {}).values():  # the model of a list's elements
        schema["items"] = model
    return schema
