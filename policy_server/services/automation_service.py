"""
AutomationService: shows the ledger of actions and takes actions back.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from penstock.v1 import automation_service_pb2, automation_service_pb2_grpc
from policy_server.convert import read_states, to_action
from policy_server.errors import InvalidRequest
from policy_server.policy import Policy
from policy_server.store.actions import ActionStore

logger = logging.getLogger(__name__)

_DEFAULT_PAGE = 100
_LARGEST_PAGE = 1000
_LARGEST_ID = 2**63 - 1
#: Callers name themselves by this metadata key while no certificates are configured.
_CALLER_KEY = "penstock-agent"
_NOBODY = "operator"
_LONGEST_CALLER = 255


class AutomationService(automation_service_pb2_grpc.AutomationServiceServicer):
    """Shows actions and takes them back."""

    def __init__(
        self,
        policy: Policy,
        actions: ActionStore,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._actions = actions
        self._clock = clock

    async def ListActions(
        self, request: automation_service_pb2.ListActionsRequest, context: Any
    ) -> automation_service_pb2.ListActionsResponse:
        """List actions, newest first, a page at a time."""
        size = min(request.page_size or _DEFAULT_PAGE, _LARGEST_PAGE)
        found = await self._actions.list(
            read_states(request.states), size + 1, _read_page_token(request.page_token)
        )
        page = found[:size]
        return automation_service_pb2.ListActionsResponse(
            actions=map(to_action, page),
            next_page_token=str(page[-1].id) if len(found) > size else "",
        )

    async def CancelAction(
        self, request: automation_service_pb2.CancelActionRequest, context: Any
    ) -> automation_service_pb2.CancelActionResponse:
        """End an action now, for every agent."""
        if not 0 < request.id <= _LARGEST_ID:
            raise InvalidRequest("id is required", field="id")
        by = _read_caller(context)
        action = await self._actions.cancel(request.id, by, self._clock())
        # Watchers hear of it before the caller does.
        await self._policy.reload()
        logger.info("action cancelled", extra={"action_id": action.id, "by": by})
        return automation_service_pb2.CancelActionResponse(action=to_action(action))


def _read_page_token(token: str) -> int | None:
    if not token:
        return None
    if not (token.isascii() and token.isdecimal()) or len(token) > len(str(_LARGEST_ID)):
        raise InvalidRequest("page_token is none that this call gave", field="page_token")
    return min(int(token), _LARGEST_ID)


def _read_caller(context: Any) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == _CALLER_KEY and isinstance(value, str) and value:
            return value[:_LONGEST_CALLER]
    return _NOBODY
