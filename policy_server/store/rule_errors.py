"""
What the server refused or found odd in the rules, as it has written it down.
"""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from policy_server.rules.issues import block_title, plain
from policy_server.rules.layers import Scope
from policy_server.store.tables import rule_blocks, rule_errors, rule_layers


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleError:
    """One finding, with the place that it concerns."""

    id: int
    severity: str
    code: str
    #: Where the block stands; both empty if no block is to blame, or it is gone.
    layer: str
    block: str
    block_id: int | None
    option: str
    value: Any
    message: str
    since_revision: int


def list_rule_errors(
    connection: Connection, *, limit: int, after: int = 0
) -> tuple[RuleError, ...]:
    """List up to *limit* findings in the order in which they came up, those after *after*."""
    blocks = rule_errors.outerjoin(rule_blocks, rule_blocks.c.id == rule_errors.c.block_id)
    joined = blocks.outerjoin(rule_layers, rule_layers.c.id == rule_blocks.c.layer_id)
    statement = (
        select(
            rule_errors,
            rule_layers.c.name.label("layer_name"),
            rule_blocks.c.scope,
            rule_blocks.c.name,
            rule_blocks.c.source,
        )
        .select_from(joined)
        .where(rule_errors.c.id > after)
        .order_by(rule_errors.c.id)
        .limit(limit)
    )
    return tuple(map(_to_error, connection.execute(statement)))


def _to_error(row: Any) -> RuleError:
    has_block = row.scope is not None
    return RuleError(
        id=row.id,
        severity=row.severity,
        code=row.code,
        layer=row.layer_name or "",
        block=block_title(Scope(row.scope), row.name, row.source) if has_block else "",
        block_id=row.block_id,
        option=row.option,
        value=plain(row.value),
        message=row.message,
        since_revision=row.since_revision,
    )
