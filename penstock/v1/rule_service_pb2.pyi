import datetime

from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RuleFileFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_FILE_FORMAT_UNSPECIFIED: _ClassVar[RuleFileFormat]
    RULE_FILE_FORMAT_TOML: _ClassVar[RuleFileFormat]
    RULE_FILE_FORMAT_JSON: _ClassVar[RuleFileFormat]

class RuleSeverity(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_SEVERITY_UNSPECIFIED: _ClassVar[RuleSeverity]
    RULE_SEVERITY_WARNING: _ClassVar[RuleSeverity]
    RULE_SEVERITY_ERROR: _ClassVar[RuleSeverity]

class RuleChange(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RULE_CHANGE_UNSPECIFIED: _ClassVar[RuleChange]
    RULE_CHANGE_ADDED: _ClassVar[RuleChange]
    RULE_CHANGE_REMOVED: _ClassVar[RuleChange]
    RULE_CHANGE_CHANGED: _ClassVar[RuleChange]
RULE_FILE_FORMAT_UNSPECIFIED: RuleFileFormat
RULE_FILE_FORMAT_TOML: RuleFileFormat
RULE_FILE_FORMAT_JSON: RuleFileFormat
RULE_SEVERITY_UNSPECIFIED: RuleSeverity
RULE_SEVERITY_WARNING: RuleSeverity
RULE_SEVERITY_ERROR: RuleSeverity
RULE_CHANGE_UNSPECIFIED: RuleChange
RULE_CHANGE_ADDED: RuleChange
RULE_CHANGE_REMOVED: RuleChange
RULE_CHANGE_CHANGED: RuleChange

class Layer(_message.Message):
    __slots__ = ("name", "position", "enabled", "block_count", "description", "valid_from_time", "valid_until_time")
    NAME_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    ENABLED_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    DESCRIPTION_FIELD_NUMBER: _ClassVar[int]
    VALID_FROM_TIME_FIELD_NUMBER: _ClassVar[int]
    VALID_UNTIL_TIME_FIELD_NUMBER: _ClassVar[int]
    name: str
    position: int
    enabled: bool
    block_count: int
    description: str
    valid_from_time: _timestamp_pb2.Timestamp
    valid_until_time: _timestamp_pb2.Timestamp
    def __init__(self, name: _Optional[str] = ..., position: _Optional[int] = ..., enabled: bool = ..., block_count: _Optional[int] = ..., description: _Optional[str] = ..., valid_from_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., valid_until_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class RuleIssue(_message.Message):
    __slots__ = ("severity", "code", "file", "line", "block", "option", "value", "message")
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    FILE_FIELD_NUMBER: _ClassVar[int]
    LINE_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    severity: RuleSeverity
    code: str
    file: str
    line: int
    block: str
    option: str
    value: str
    message: str
    def __init__(self, severity: _Optional[_Union[RuleSeverity, str]] = ..., code: _Optional[str] = ..., file: _Optional[str] = ..., line: _Optional[int] = ..., block: _Optional[str] = ..., option: _Optional[str] = ..., value: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class OptionChange(_message.Message):
    __slots__ = ("option", "change", "old_value", "new_value")
    OPTION_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    OLD_VALUE_FIELD_NUMBER: _ClassVar[int]
    NEW_VALUE_FIELD_NUMBER: _ClassVar[int]
    option: str
    change: RuleChange
    old_value: str
    new_value: str
    def __init__(self, option: _Optional[str] = ..., change: _Optional[_Union[RuleChange, str]] = ..., old_value: _Optional[str] = ..., new_value: _Optional[str] = ...) -> None: ...

class BlockChange(_message.Message):
    __slots__ = ("block", "change", "options")
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    block: str
    change: RuleChange
    options: _containers.RepeatedCompositeFieldContainer[OptionChange]
    def __init__(self, block: _Optional[str] = ..., change: _Optional[_Union[RuleChange, str]] = ..., options: _Optional[_Iterable[_Union[OptionChange, _Mapping]]] = ...) -> None: ...

class LayerChange(_message.Message):
    __slots__ = ("layer", "change", "blocks", "block_count", "reordered")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    CHANGE_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    BLOCK_COUNT_FIELD_NUMBER: _ClassVar[int]
    REORDERED_FIELD_NUMBER: _ClassVar[int]
    layer: str
    change: RuleChange
    blocks: _containers.RepeatedCompositeFieldContainer[BlockChange]
    block_count: int
    reordered: bool
    def __init__(self, layer: _Optional[str] = ..., change: _Optional[_Union[RuleChange, str]] = ..., blocks: _Optional[_Iterable[_Union[BlockChange, _Mapping]]] = ..., block_count: _Optional[int] = ..., reordered: bool = ...) -> None: ...

class RuleRevision(_message.Message):
    __slots__ = ("revision", "commit_time", "author", "summary", "row_count")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    COMMIT_TIME_FIELD_NUMBER: _ClassVar[int]
    AUTHOR_FIELD_NUMBER: _ClassVar[int]
    SUMMARY_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    commit_time: _timestamp_pb2.Timestamp
    author: str
    summary: str
    row_count: int
    def __init__(self, revision: _Optional[int] = ..., commit_time: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., author: _Optional[str] = ..., summary: _Optional[str] = ..., row_count: _Optional[int] = ...) -> None: ...

class RuleError(_message.Message):
    __slots__ = ("id", "severity", "code", "layer", "block", "block_id", "option", "value", "message", "since_revision")
    ID_FIELD_NUMBER: _ClassVar[int]
    SEVERITY_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    BLOCK_ID_FIELD_NUMBER: _ClassVar[int]
    OPTION_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SINCE_REVISION_FIELD_NUMBER: _ClassVar[int]
    id: int
    severity: RuleSeverity
    code: str
    layer: str
    block: str
    block_id: int
    option: str
    value: str
    message: str
    since_revision: int
    def __init__(self, id: _Optional[int] = ..., severity: _Optional[_Union[RuleSeverity, str]] = ..., code: _Optional[str] = ..., layer: _Optional[str] = ..., block: _Optional[str] = ..., block_id: _Optional[int] = ..., option: _Optional[str] = ..., value: _Optional[str] = ..., message: _Optional[str] = ..., since_revision: _Optional[int] = ...) -> None: ...

class ImportLayerRequest(_message.Message):
    __slots__ = ("layer_name", "content", "format", "file_name", "expected_revision")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    content: bytes
    format: RuleFileFormat
    file_name: str
    expected_revision: int
    def __init__(self, layer_name: _Optional[str] = ..., content: _Optional[bytes] = ..., format: _Optional[_Union[RuleFileFormat, str]] = ..., file_name: _Optional[str] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class ImportLayerResponse(_message.Message):
    __slots__ = ("layer", "revision", "warnings")
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    layer: Layer
    revision: int
    warnings: _containers.RepeatedCompositeFieldContainer[RuleIssue]
    def __init__(self, layer: _Optional[_Union[Layer, _Mapping]] = ..., revision: _Optional[int] = ..., warnings: _Optional[_Iterable[_Union[RuleIssue, _Mapping]]] = ...) -> None: ...

class ExportLayerRequest(_message.Message):
    __slots__ = ("layer_name", "format")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    format: RuleFileFormat
    def __init__(self, layer_name: _Optional[str] = ..., format: _Optional[_Union[RuleFileFormat, str]] = ...) -> None: ...

class ExportLayerResponse(_message.Message):
    __slots__ = ("content", "layer", "revision")
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    LAYER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    content: bytes
    layer: Layer
    revision: int
    def __init__(self, content: _Optional[bytes] = ..., layer: _Optional[_Union[Layer, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ListLayersRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListLayersResponse(_message.Message):
    __slots__ = ("layers", "next_page_token", "revision")
    LAYERS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    layers: _containers.RepeatedCompositeFieldContainer[Layer]
    next_page_token: str
    revision: int
    def __init__(self, layers: _Optional[_Iterable[_Union[Layer, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., revision: _Optional[int] = ...) -> None: ...

class DeleteLayerRequest(_message.Message):
    __slots__ = ("layer_name", "expected_revision")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    expected_revision: int
    def __init__(self, layer_name: _Optional[str] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class DeleteLayerResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ReorderLayersRequest(_message.Message):
    __slots__ = ("layer_names", "expected_revision")
    LAYER_NAMES_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    layer_names: _containers.RepeatedScalarFieldContainer[str]
    expected_revision: int
    def __init__(self, layer_names: _Optional[_Iterable[str]] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class ReorderLayersResponse(_message.Message):
    __slots__ = ("revision",)
    REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    def __init__(self, revision: _Optional[int] = ...) -> None: ...

class ValidateLayerRequest(_message.Message):
    __slots__ = ("layer_name", "content", "format", "file_name")
    LAYER_NAME_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    FILE_NAME_FIELD_NUMBER: _ClassVar[int]
    layer_name: str
    content: bytes
    format: RuleFileFormat
    file_name: str
    def __init__(self, layer_name: _Optional[str] = ..., content: _Optional[bytes] = ..., format: _Optional[_Union[RuleFileFormat, str]] = ..., file_name: _Optional[str] = ...) -> None: ...

class ValidateLayerResponse(_message.Message):
    __slots__ = ("errors", "warnings", "layer_change", "revision")
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    LAYER_CHANGE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    errors: _containers.RepeatedCompositeFieldContainer[RuleIssue]
    warnings: _containers.RepeatedCompositeFieldContainer[RuleIssue]
    layer_change: LayerChange
    revision: int
    def __init__(self, errors: _Optional[_Iterable[_Union[RuleIssue, _Mapping]]] = ..., warnings: _Optional[_Iterable[_Union[RuleIssue, _Mapping]]] = ..., layer_change: _Optional[_Union[LayerChange, _Mapping]] = ..., revision: _Optional[int] = ...) -> None: ...

class ListRevisionsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRevisionsResponse(_message.Message):
    __slots__ = ("revisions", "next_page_token")
    REVISIONS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    revisions: _containers.RepeatedCompositeFieldContainer[RuleRevision]
    next_page_token: str
    def __init__(self, revisions: _Optional[_Iterable[_Union[RuleRevision, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class RollbackToRevisionRequest(_message.Message):
    __slots__ = ("revision", "expected_revision")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    EXPECTED_REVISION_FIELD_NUMBER: _ClassVar[int]
    revision: int
    expected_revision: int
    def __init__(self, revision: _Optional[int] = ..., expected_revision: _Optional[int] = ...) -> None: ...

class RollbackToRevisionResponse(_message.Message):
    __slots__ = ("revision", "row_count")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    ROW_COUNT_FIELD_NUMBER: _ClassVar[int]
    revision: int
    row_count: int
    def __init__(self, revision: _Optional[int] = ..., row_count: _Optional[int] = ...) -> None: ...

class ListRuleErrorsRequest(_message.Message):
    __slots__ = ("page_size", "page_token")
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    page_size: int
    page_token: str
    def __init__(self, page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ListRuleErrorsResponse(_message.Message):
    __slots__ = ("rule_errors", "next_page_token")
    RULE_ERRORS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    rule_errors: _containers.RepeatedCompositeFieldContainer[RuleError]
    next_page_token: str
    def __init__(self, rule_errors: _Optional[_Iterable[_Union[RuleError, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...
