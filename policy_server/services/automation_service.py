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
from policy_server.services.caller import read_caller
from policy_server.services.paging import read_page_size, read_page_token
from policy_server.store.actions import ActionStore

logger = logging.getLogger(__name__)

_LARGEST_ID = 2**63 - 1
_NOBODY = "operator"


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
        size = read_page_size(request.page_size)
        found = await self._actions.list(
            read_states(request.states), size + 1, read_page_token(request.page_token)
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
        by = read_caller(context) or _NOBODY
        action = await self._actions.cancel(request.id, by, self._clock())
        # Watchers hear of it before the caller does.
        await self._policy.reload()
        logger.info("action cancelled", extra={"action_id": action.id, "by": by})
        return automation_service_pb2.CancelActionResponse(action=to_action(action))
