from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
OPTION_SPEC_FIELD_NUMBER: _ClassVar[int]
option_spec: _descriptor.FieldDescriptor

class OptionSpec(_message.Message):
    __slots__ = ("kind", "default", "unit", "meaning", "provider_only", "passed_through")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[OptionSpec.Kind]
        KIND_LIMIT: _ClassVar[OptionSpec.Kind]
        KIND_RATE: _ClassVar[OptionSpec.Kind]
        KIND_COUNT: _ClassVar[OptionSpec.Kind]
        KIND_DURATION: _ClassVar[OptionSpec.Kind]
        KIND_BOOL: _ClassVar[OptionSpec.Kind]
        KIND_STRING: _ClassVar[OptionSpec.Kind]
        KIND_ENUM: _ClassVar[OptionSpec.Kind]
        KIND_STRING_LIST: _ClassVar[OptionSpec.Kind]
        KIND_CIDR_LIST: _ClassVar[OptionSpec.Kind]
        KIND_LIMIT_MAP: _ClassVar[OptionSpec.Kind]
        KIND_RATE_MAP: _ClassVar[OptionSpec.Kind]
        KIND_SECRET: _ClassVar[OptionSpec.Kind]
    KIND_UNSPECIFIED: OptionSpec.Kind
    KIND_LIMIT: OptionSpec.Kind
    KIND_RATE: OptionSpec.Kind
    KIND_COUNT: OptionSpec.Kind
    KIND_DURATION: OptionSpec.Kind
    KIND_BOOL: OptionSpec.Kind
    KIND_STRING: OptionSpec.Kind
    KIND_ENUM: OptionSpec.Kind
    KIND_STRING_LIST: OptionSpec.Kind
    KIND_CIDR_LIST: OptionSpec.Kind
    KIND_LIMIT_MAP: OptionSpec.Kind
    KIND_RATE_MAP: OptionSpec.Kind
    KIND_SECRET: OptionSpec.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_FIELD_NUMBER: _ClassVar[int]
    UNIT_FIELD_NUMBER: _ClassVar[int]
    MEANING_FIELD_NUMBER: _ClassVar[int]
    PROVIDER_ONLY_FIELD_NUMBER: _ClassVar[int]
    PASSED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    kind: OptionSpec.Kind
    default: str
    unit: str
    meaning: str
    provider_only: bool
    passed_through: bool
    def __init__(self, kind: _Optional[_Union[OptionSpec.Kind, str]] = ..., default: _Optional[str] = ..., unit: _Optional[str] = ..., meaning: _Optional[str] = ..., provider_only: bool = ..., passed_through: bool = ...) -> None: ...
