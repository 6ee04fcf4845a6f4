"""
Drafts made of rows, whether the rows are those in force or those of an earlier time.

A row that can't be read becomes an issue and makes its block unusable; what the others mean is
decided in `policy_server.rules.parse`, the same for files and rows.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from policy_server.rules.layers import AutomationDraft, BlockDraft, Issue, Scope
from policy_server.store.rows import read_bool, read_json

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockParts:
    """The rows that belong to a block, each kind in order."""

    options: Iterable[Row] = ()
    matches: Iterable[Row] = ()
    automation: Iterable[Row] = ()


class DraftMaker:
    """Makes drafts of plain rows and notes what can't be read."""

    def __init__(self) -> None:
        self.issues: list[Issue] = []
        #: Blocks that a row makes unusable.
        self.unreadable: set[int] = set()

    def block(self, row: Row, parts: BlockParts) -> BlockDraft:
        """Make the draft of a block."""
        block_id = row["id"]
        place = _Place("rule_blocks", block_id)
        options, matches = list(parts.options), list(parts.matches)
        return BlockDraft(
            id=block_id,
            scope=Scope(row["scope"]),
            name=str(row["name"]),
            source=str(row["source"]),
            comment=str(row["comment"]),
            mx_rollup=self._bool(row, "mx_rollup", place, fallback=True),
            replace_base=self._bool(row, "replace_base", place, fallback=False),
            enabled=self._bool(row, "enabled", place, fallback=True),
            options={str(option["name"]): self._option(option) for option in options},
            option_comments={
                str(option["name"]): str(option["comment"])
                for option in options
                if option["comment"]
            },
            matches=tuple(map(_match, matches)),
            match_comments={
                _match(match): str(match["comment"]) for match in matches if match["comment"]
            },
            automation=tuple(
                self._automation(rule, f"automation[{position}]")
                for position, rule in enumerate(parts.automation)
            ),
        )

    def _option(self, row: Row) -> Any:
        place = _Place("rule_options", row["block_id"], str(row["name"]))
        return self._json(row, "value", place)

    def _automation(self, row: Row, option: str) -> AutomationDraft:
        place = _Place("automation_rules", row["block_id"], option)
        regexes = self._json(row, "regexes", place)
        actions = self._json(row, "actions", place)
        return AutomationDraft(
            id=row["id"],
            regexes=tuple(regexes) if isinstance(regexes, list) else (regexes,),
            actions=tuple(actions) if isinstance(actions, list) else (actions,),
            trigger=self._json(row, "trigger", place),
            duration=self._json(row, "duration", place),
            match_internal=self._bool(row, "match_internal", place, fallback=False),
            mode=row["mode"],
            enabled=self._bool(row, "enabled", place, fallback=True),
            comment=str(row["comment"]),
        )

    def _json(self, row: Row, column: str, place: "_Place") -> Any:
        try:
            return read_json(row[column])
        except ValueError:
            # Not the value: it may be a secret, spelt badly.
            self._refuse(
                place,
                None,
                f'{column} is not JSON; write texts in double quotes, such as "50/s"',
            )
            return None

    def _bool(self, row: Row, column: str, place: "_Place", *, fallback: bool) -> bool:
        try:
            return read_bool(row[column])
        except ValueError as error:
            self._refuse(place, row[column], f"{column}: {error}")
            return fallback

    def _refuse(self, place: "_Place", value: Any, message: str) -> None:
        self.unreadable.add(place.block_id)
        self.issues.append(
            Issue(
                code="unreadable_row",
                message=message,
                option=place.option,
                value=value,
                block_id=place.block_id,
                table=place.table,
            )
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a row stands."""

    table: str
    block_id: int
    option: str = ""


def _match(row: Row) -> tuple[str, str]:
    return str(row["kind"]), str(row["value"])
