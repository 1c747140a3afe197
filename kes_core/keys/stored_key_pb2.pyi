from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class SecretKey(_message.Message):
    __slots__ = ("key", "type")
    KEY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    type: int
    def __init__(self, key: _Optional[bytes] = ..., type: _Optional[int] = ...) -> None: ...

class HMACKey(_message.Message):
    __slots__ = ("key", "hash")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    key: bytes
    hash: int
    def __init__(self, key: _Optional[bytes] = ..., hash: _Optional[int] = ...) -> None: ...

class Revision(_message.Message):
    __slots__ = ("number", "version", "first", "state", "delete_at", "min_version")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FIRST_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    DELETE_AT_FIELD_NUMBER: _ClassVar[int]
    MIN_VERSION_FIELD_NUMBER: _ClassVar[int]
    number: int
    version: int
    first: bytes
    state: int
    delete_at: int
    min_version: int
    def __init__(self, number: _Optional[int] = ..., version: _Optional[int] = ..., first: _Optional[bytes] = ..., state: _Optional[int] = ..., delete_at: _Optional[int] = ..., min_version: _Optional[int] = ...) -> None: ...

class KeyVersion(_message.Message):
    __slots__ = ("key", "hmac_key", "created_at", "created_by", "revision")
    KEY_FIELD_NUMBER: _ClassVar[int]
    HMAC_KEY_FIELD_NUMBER: _ClassVar[int]
    CREATED_AT_FIELD_NUMBER: _ClassVar[int]
    CREATED_BY_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    key: SecretKey
    hmac_key: HMACKey
    created_at: _timestamp_pb2.Timestamp
    created_by: str
    revision: Revision
    def __init__(self, key: _Optional[_Union[SecretKey, _Mapping]] = ..., hmac_key: _Optional[_Union[HMACKey, _Mapping]] = ..., created_at: _Optional[_Union[_timestamp_pb2.Timestamp, _Mapping]] = ..., created_by: _Optional[str] = ..., revision: _Optional[_Union[Revision, _Mapping]] = ...) -> None: ...
