"""
The shapes rules have: drafts as written, and the parsed layers that answers are made from.

A *draft* holds values as an operator wrote them, whether in a rule file or in SQL rows; it may be
wrong. `policy_server.rules.parse` turns drafts into parsed blocks and says what is wrong.
Nothing here reads files or SQL, and nothing here decides which rule wins (see `resolve`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from policy_server.rules.values import Limit, OptionValue, Rate


class Scope(StrEnum):
    """What a block applies to."""

    DEFAULT = "default"
    PROVIDER = "provider"
    DOMAIN = "domain"


class MatchKind(StrEnum):
    """How a provider's pattern is compared, spelt as in SQL."""

    MX_SUFFIX = "mx_suffix"
    DOMAIN_SUFFIX = "domain_suffix"
    HOST_NAME = "host_name"


class Severity(StrEnum):
    """Whether an issue stops an import."""

    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """One thing wrong with a rule, with the place, the value and the remedy."""

    code: str
    message: str
    severity: Severity = Severity.ERROR
    #: Path or URL of the rule file; empty for rows.
    file: str = ""
    #: Line in the file, from 1.
    line: int | None = None
    #: The block as rule files write it.
    block: str = ""
    option: str = ""
    value: Any = None
    #: Row of rule_blocks, for rules that come from SQL.
    block_id: int | None = None
    #: The table whose row is wrong, likewise.
    table: str = "rule_blocks"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderMatch:
    """One pattern of a provider: lower case, without trailing dots."""

    kind: MatchKind
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomationDraft:
    """An automation rule as written."""

    regexes: tuple[Any, ...]
    #: Each as in rule files: "Suspend" or {"SetConfig": {"name": ..., "value": ...}}.
    actions: tuple[Any, ...]
    trigger: Any = "Immediate"
    duration: Any = None
    match_internal: Any = False
    mode: Any = "enforce"
    enabled: bool = True
    comment: str = ""
    id: int = 0
    line: int | None = None
    #: Lines of single fields, where known.
    field_lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockDraft:
    """A block as written: one scope, for one source or for all."""

    scope: Scope
    #: Provider or domain name; empty for default.
    name: str = ""
    #: Egress source; empty for every source.
    source: str = ""
    mx_rollup: bool = True
    replace_base: bool = False
    enabled: bool = True
    #: Values as written; None unsets what lower layers set.
    options: Mapping[str, Any] = field(default_factory=dict)
    #: (kind, value) pairs as written.
    matches: tuple[tuple[str, str], ...] = ()
    automation: tuple[AutomationDraft, ...] = ()
    comment: str = ""
    #: Comments of single options and matches, where there are any.
    option_comments: Mapping[str, str] = field(default_factory=dict)
    match_comments: Mapping[tuple[str, str], str] = field(default_factory=dict)
    id: int = 0
    line: int | None = None
    #: Lines of single options, where known.
    option_lines: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDraft:
    """A layer as written."""

    name: str
    blocks: tuple[BlockDraft, ...] = ()
    enabled: bool = True
    description: str = ""
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    id: int = 0
    #: Where it was read from; empty for rows.
    file: str = ""


class Trigger:
    """When an automation rule fires."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Immediate(Trigger):
    """Fires at every match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold(Trigger):
    """Fires from the count-th match within the preceding period on."""

    count: int
    period: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """The path (source, site) sends nothing until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendTenant:
    """A tenant's mail to the domain waits until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuspendCampaign:
    """A tenant's mail of one campaign to the domain waits until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """Mail to the domain bounces until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceTenant:
    """A tenant's mail to the domain bounces until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BounceCampaign:
    """A tenant's mail of one campaign to the domain bounces until expiry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetConfig:
    """An option is overridden for the rule's scope and the outcome's source."""

    name: str
    value: OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDomainConfig:
    """An option is overridden for the outcome's domain alone and its source."""

    name: str
    value: OptionValue


@dataclass(frozen=True, slots=True, kw_only=True)
class AdjustConfig:
    """A limit or rate is lowered by a factor, and recovers by steps once matches stop."""

    name: str
    #: Between 0 and 1.
    factor: float
    #: Never gone under; of the same kind as the option's value.
    floor: Limit | Rate
    #: Above 1.
    recover_step: float
    recover_every: timedelta


Action = (
    Suspend
    | SuspendTenant
    | SuspendCampaign
    | Bounce
    | BounceTenant
    | BounceCampaign
    | SetConfig
    | SetDomainConfig
    | AdjustConfig
)
#: Actions that change an option's value.
OptionAction = SetConfig | SetDomainConfig | AdjustConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class AutomationRule:
    """A parsed automation rule, with its place in the rules."""

    #: Stable over re-imports of the same text in the same place; thresholds count under it.
    key: str
    layer: str
    scope: Scope
    name: str
    source: str
    mx_rollup: bool
    position: int
    regexes: tuple[str, ...]
    actions: tuple[Action, ...]
    trigger: Trigger
    duration: timedelta
    match_internal: bool = False
    observe: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A parsed block: every value is good."""

    id: int
    layer: str
    scope: Scope
    name: str
    source: str
    mx_rollup: bool
    replace_base: bool
    #: Parsed values by option name; None unsets.
    options: Mapping[str, OptionValue | None]
    matches: tuple[ProviderMatch, ...] = ()
    automation: tuple[AutomationRule, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A parsed layer; its blocks are in order and enabled."""

    id: int
    name: str
    blocks: tuple[Block, ...]
    enabled: bool = True
    valid_from: datetime | None = None
    valid_until: datetime | None = None
