"""What requests and answers look like, for the documentation of the API (OpenAPI).

The routes themselves read and write plain JSON: making a model for each request costs more than its cryptography.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import BaseModel, Field

__all__ = ["ANSWERS", "BODIES", "Error"]

Base64 = Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]
Time = Annotated[str, Field(json_schema_extra={"format": "date-time"})]
Patterns = dict[str, dict[str, Any]]


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
    keystore_latency: Annotated[int | None, Field(description="Nanoseconds.")] = None
    keystore_reason: Annotated[str | None, Field(description="Why the key store can't serve, if that is known.")] = None
    keystore_unreachable: bool = False
    keystore_unavailable: bool = False


class API(BaseModel):
    method: str
    path: str
    max_body: Annotated[int, Field(description="Bytes.")]
    timeout: Annotated[int, Field(description="Seconds; 0: none.")]


class ImportKey(BaseModel):
    key: Base64
    cipher: Annotated[str, Field(examples=["AES256", "ChaCha20"])]


class Key(BaseModel):
    name: str
    algorithm: str
    created_at: Time
    created_by: str = ""


class Names(BaseModel):
    names: list[str]
    continue_at: Annotated[str, Field(description="The pattern that asks for the next page.")] = ""


class Context(BaseModel):
    context: Base64 = ""


class DataKeyAnswer(BaseModel):
    plaintext: Base64
    ciphertext: Base64


class Plaintext(BaseModel):
    plaintext: Base64 = ""


class PlaintextInContext(Plaintext, Context):
    pass


class Ciphertext(BaseModel):
    ciphertext: Base64


class CiphertextInContext(Ciphertext, Context):
    pass


class Message(BaseModel):
    message: Base64 = ""


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
    "/v1/key/describe/": Key,
    "/v1/key/list/": Names,
    "/v1/key/generate/": DataKeyAnswer,
    "/v1/key/encrypt/": Ciphertext,
    "/v1/key/decrypt/": Plaintext,
    "/v1/key/hmac/": HMAC,
    "/v1/key/bulk/decrypt/": list[Plaintext],
    "/v1/policy/describe/": Policy,
    "/v1/policy/read/": PolicyWithPatterns,
    "/v1/policy/list/": Names,
    "/v1/identity/describe/": Identity,
    "/v1/identity/self/describe": Self,
    "/v1/identity/list/": Identities,
}
"""What a route answers, by its path; nothing where it is missing."""

BODIES: Final[Mapping[str, Any]] = {
    "/v1/key/import/": ImportKey,
    "/v1/key/generate/": Context,
    "/v1/key/encrypt/": PlaintextInContext,
    "/v1/key/decrypt/": CiphertextInContext,
    "/v1/key/hmac/": Message,
    "/v1/key/bulk/decrypt/": list[CiphertextInContext],
}
"""What a route takes as its body, by its path."""
