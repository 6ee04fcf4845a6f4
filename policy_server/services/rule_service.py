"""
RuleService: layers of rules, from rule files and back, and their history.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sqlalchemy import Connection

from penstock.v1 import rule_service_pb2 as pb
from penstock.v1 import rule_service_pb2_grpc
from policy_server.conversions.rules import (
    MOST_LISTED,
    read_format,
    refuse,
    to_issue,
    to_layer,
    to_layer_change,
    to_revision,
    to_rule_error,
)
from policy_server.errors import InvalidRequest, NotFound, RulesNotLoaded
from policy_server.importing.checks import check_drafts, find_name_mistake
from policy_server.importing.preview import KnownRules, preview_checks, preview_layers, read_known
from policy_server.policy import Policy
from policy_server.rule_files.reader import read_content
from policy_server.rule_files.writer import write_rules
from policy_server.rules.layers import Issue, LayerDraft, Severity
from policy_server.services.caller import read_caller
from policy_server.services.paging import read_page_size, read_page_token
from policy_server.store.database import Database
from policy_server.store.history import list_revisions
from policy_server.store.layers import (
    LayerRow,
    delete_layer,
    import_layers,
    list_layers,
    read_layer,
    reorder_layers,
)
from policy_server.store.rollback import rollback_to
from policy_server.store.rule_errors import list_rule_errors

logger = logging.getLogger(__name__)

_Result = TypeVar("_Result")
_NOBODY = "operator"


class RuleService(rule_service_pb2_grpc.RuleServiceServicer):
    """Changes rules a layer at a time, and shows what was changed."""

    def __init__(self, policy: Policy, database: Database) -> None:
        self._policy = policy
        self._database = database

    async def ImportLayer(
        self, request: pb.ImportLayerRequest, context: Any
    ) -> pb.ImportLayerResponse:
        """Make a rule file a layer."""
        _check_expected(request.expected_revision)
        draft, issues = await _read_draft(request)
        errors = _choose(issues, Severity.ERROR)
        if errors:
            raise refuse(errors, field="content", what="nothing was imported")
        known = await self._read(read_known)
        issues += await asyncio.to_thread(preview_checks, known, [draft])
        author = _read_author(context)

        def write(connection: Connection) -> tuple[int, LayerRow]:
            revision, _ = import_layers(
                connection, [draft], author=author, expected_revision=request.expected_revision
            )
            return revision, _find_layer(list_layers(connection)[1], draft.name)

        revision, layer = await self._change("layer imported", write, layer=draft.name)
        return pb.ImportLayerResponse(
            layer=to_layer(layer),
            revision=revision,
            warnings=map(to_issue, _choose(issues, Severity.WARNING)),
        )

    async def ExportLayer(
        self, request: pb.ExportLayerRequest, context: Any
    ) -> pb.ExportLayerResponse:
        """Write a layer as a rule file."""
        name = _require_name(request.layer_name)
        format = read_format(request.format)

        def read(
            connection: Connection,
        ) -> tuple[LayerDraft, tuple[Issue, ...], int, tuple[LayerRow, ...]]:
            return *read_layer(connection, name), *list_layers(connection)

        draft, unreadable, revision, rows = await self._read(read)
        text, obstacles = await asyncio.to_thread(write_rules, draft, format)
        if unreadable or obstacles:
            what = f'layer "{name}" can\'t be written as a file'
            raise refuse((*unreadable, *obstacles), field="layer_name", what=what)
        return pb.ExportLayerResponse(
            content=text.encode(),
            layer=to_layer(_find_layer(rows, name)),
            revision=revision,
        )

    async def ListLayers(
        self, request: pb.ListLayersRequest, context: Any
    ) -> pb.ListLayersResponse:
        """List the layers in order, a page at a time."""
        size = read_page_size(request.page_size)
        last = read_page_token(request.page_token)
        revision, layers = await self._read(list_layers)
        rest = layers if last is None else _list_after(layers, last)
        page = rest[:size]
        return pb.ListLayersResponse(
            layers=map(to_layer, page),
            next_page_token=str(page[-1].id) if len(rest) > size else "",
            revision=revision,
        )

    async def DeleteLayer(
        self, request: pb.DeleteLayerRequest, context: Any
    ) -> pb.DeleteLayerResponse:
        """Delete a layer with everything in it."""
        _check_expected(request.expected_revision)
        name, author = _require_name(request.layer_name), _read_author(context)
        revision = await self._change(
            "layer deleted",
            lambda connection: delete_layer(
                connection, name, author=author, expected_revision=request.expected_revision
            ),
            layer=name,
        )
        return pb.DeleteLayerResponse(revision=revision)

    async def ReorderLayers(
        self, request: pb.ReorderLayersRequest, context: Any
    ) -> pb.ReorderLayersResponse:
        """Put all layers in a new order."""
        _check_expected(request.expected_revision)
        names = [_check_name(name, field="layer_names") for name in request.layer_names]
        author = _read_author(context)
        revision = await self._change(
            "layers reordered",
            lambda connection: reorder_layers(
                connection, names, author=author, expected_revision=request.expected_revision
            ),
        )
        return pb.ReorderLayersResponse(revision=revision)

    async def ValidateLayer(
        self, request: pb.ValidateLayerRequest, context: Any
    ) -> pb.ValidateLayerResponse:
        """Check a rule file, and say what it would change."""
        draft, issues = await _read_draft(request)
        known = await self._read(read_known)
        errors = _choose(issues, Severity.ERROR)
        response = pb.ValidateLayerResponse(
            errors=map(to_issue, errors[:MOST_LISTED]), revision=known.revision
        )
        if not errors:
            issues += await asyncio.to_thread(preview_checks, known, [draft])
            response.layer_change.CopyFrom(await asyncio.to_thread(_preview, known, draft))
        warnings = _choose(issues, Severity.WARNING)[:MOST_LISTED]
        response.warnings.extend(map(to_issue, warnings))
        return response

    async def ListRevisions(
        self, request: pb.ListRevisionsRequest, context: Any
    ) -> pb.ListRevisionsResponse:
        """List the revisions of the rules, newest first, a page at a time."""
        size = read_page_size(request.page_size)
        before = read_page_token(request.page_token)
        found = await self._read(
            lambda connection: list_revisions(connection, limit=size + 1, before=before)
        )
        page = found[:size]
        return pb.ListRevisionsResponse(
            revisions=map(to_revision, page),
            next_page_token=str(page[-1].id) if len(found) > size else "",
        )

    async def RollbackToRevision(
        self, request: pb.RollbackToRevisionRequest, context: Any
    ) -> pb.RollbackToRevisionResponse:
        """Make all rules what they were at a revision."""
        _check_expected(request.expected_revision)
        if request.revision < 0:
            raise InvalidRequest("revision is 0 or more", field="revision")
        author = _read_author(context)
        done = await self._change(
            "rules rolled back",
            lambda connection: rollback_to(
                connection,
                request.revision,
                author=author,
                expected_revision=request.expected_revision,
            ),
            to=request.revision,
        )
        return pb.RollbackToRevisionResponse(revision=done.revision, row_count=done.rows)

    async def ListRuleErrors(
        self, request: pb.ListRuleErrorsRequest, context: Any
    ) -> pb.ListRuleErrorsResponse:
        """List what is refused in the rules or odd in them, a page at a time."""
        size = read_page_size(request.page_size)
        after = read_page_token(request.page_token) or 0
        found = await self._read(
            lambda connection: list_rule_errors(connection, limit=size + 1, after=after)
        )
        page = found[:size]
        return pb.ListRuleErrorsResponse(
            rule_errors=map(to_rule_error, page),
            next_page_token=str(page[-1].id) if len(found) > size else "",
        )

    async def _read(self, question: Callable[[Connection], _Result]) -> _Result:
        self._require_rules()
        return await self._database.read(question)

    async def _change(
        self, what: str, change: Callable[[Connection], _Result], **facts: Any
    ) -> _Result:
        """Carry out a change of the rules and put it in force."""
        self._require_rules()
        done = await self._database.write(change)
        # Watchers hear of it before the caller does.
        await self._policy.reload()
        logger.info(what, extra=facts)
        return done

    def _require_rules(self) -> None:
        # Until then the database may not even have the tables.
        if not self._policy.is_loaded:
            raise RulesNotLoaded


async def _read_draft(
    request: pb.ImportLayerRequest | pb.ValidateLayerRequest,
) -> tuple[LayerDraft, list[Issue]]:
    """Read the file of a request, with all that is wrong in it."""
    name = _require_name(request.layer_name)
    if mistake := find_name_mistake(name):
        raise InvalidRequest(f"layer_name: {mistake}", field="layer_name")
    format = read_format(request.format)

    def read() -> tuple[LayerDraft, list[Issue]]:
        draft, found = read_content(
            request.content, name=name, file=request.file_name or name, format=format
        )
        return draft, [*found, *check_drafts([draft])]

    return await asyncio.to_thread(read)


def _preview(known: KnownRules, draft: LayerDraft) -> pb.LayerChange:
    return to_layer_change(preview_layers(known, [draft])[0])


def _require_name(name: str) -> str:
    if not name:
        raise InvalidRequest("layer_name is required", field="layer_name")
    return _check_name(name, field="layer_name")


def _check_name(name: str, *, field: str) -> str:
    # A layer that was made in SQL may have any other character in its name.
    if "\x00" in name:
        raise InvalidRequest(f"{field} has a control character", field=field)
    return name


def _check_expected(revision: int) -> None:
    if revision < 0:
        raise InvalidRequest("expected_revision is 0 or more", field="expected_revision")


def _read_author(context: Any) -> str:
    return read_caller(context) or _NOBODY


def _choose(issues: Sequence[Issue], severity: Severity) -> list[Issue]:
    return [issue for issue in issues if issue.severity is severity]


def _list_after(layers: tuple[LayerRow, ...], last: int) -> tuple[LayerRow, ...]:
    for place, row in enumerate(layers, start=1):
        if row.id == last:
            return layers[place:]
    message = "page_token: the layer where the page before ended is gone; list from the start"
    raise InvalidRequest(message, field="page_token")


def _find_layer(layers: Sequence[LayerRow], name: str) -> LayerRow:
    for row in layers:
        if row.name == name:
            return row
    raise NotFound(f'no layer "{name}"')
