"""
AutomationService: shows the ledger of actions, takes actions back, puts an operator's in force, and
tries rules.
"""

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from penstock.v1 import automation_service_pb2, automation_service_pb2_grpc
from policy_server.automation.actions import OPERATOR, ActionInForce
from policy_server.conversions.actions import (
    read_request,
    read_states,
    read_until,
    to_action,
    to_evidence,
)
from policy_server.errors import InvalidRequest
from policy_server.operator_actions import create_by_hand
from policy_server.policy import Policy
from policy_server.services.caller import read_caller
from policy_server.services.paging import read_page_size, read_page_token
from policy_server.services.rule_trials import RuleTrials
from policy_server.store.actions import ActionStore
from policy_server.store.operator_actions import OperatorActionStore

logger = logging.getLogger(__name__)

_LARGEST_ID = 2**63 - 1


class AutomationService(automation_service_pb2_grpc.AutomationServiceServicer):
    """Shows actions, takes them back, and puts an operator's own in force."""

    def __init__(
        self,
        policy: Policy,
        actions: ActionStore,
        operator_actions: OperatorActionStore,
        *,
        trials: RuleTrials,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._policy = policy
        self._actions = actions
        self._operator_actions = operator_actions
        self._trials = trials
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

    async def GetAction(
        self, request: automation_service_pb2.GetActionRequest, context: Any
    ) -> automation_service_pb2.GetActionResponse:
        """Show one action and what it rests on."""
        action = await self._actions.get(_read_id(request.id))
        return automation_service_pb2.GetActionResponse(
            action=to_action(action),
            evidence=map(to_evidence, await self._actions.evidence(action.id)),
        )

    async def CreateAction(
        self, request: automation_service_pb2.CreateActionRequest, context: Any
    ) -> automation_service_pb2.CreateActionResponse:
        """Put an operator's action in force, for every agent."""
        action = await create_by_hand(
            read_request(request),
            policy=self._policy,
            store=self._operator_actions,
            by=_read_person(context),
            fresh_key=uuid4().hex,
            now=self._clock(),
        )
        return automation_service_pb2.CreateActionResponse(
            action=await self._tell("action created", action)
        )

    async def CancelAction(
        self, request: automation_service_pb2.CancelActionRequest, context: Any
    ) -> automation_service_pb2.CancelActionResponse:
        """End an action now, for every agent."""
        number, by = _read_id(request.id), _read_person(context)
        action = await self._actions.cancel(number, by, self._clock())
        return automation_service_pb2.CancelActionResponse(
            action=await self._tell("action cancelled", action)
        )

    async def ExtendAction(
        self, request: automation_service_pb2.ExtendActionRequest, context: Any
    ) -> automation_service_pb2.ExtendActionResponse:
        """Set when an action ends by itself."""
        number, now = _read_id(request.id), self._clock()
        until = read_until(request, now)
        action = await self._operator_actions.extend(number, until, _read_person(context), now)
        return automation_service_pb2.ExtendActionResponse(
            action=await self._tell("action extended", action)
        )

    async def PinAction(
        self, request: automation_service_pb2.PinActionRequest, context: Any
    ) -> automation_service_pb2.PinActionResponse:
        """Keep an action in force until somebody extends or cancels it."""
        number, by = _read_id(request.id), _read_person(context)
        action = await self._operator_actions.pin(number, by, self._clock())
        return automation_service_pb2.PinActionResponse(
            action=await self._tell("action pinned", action)
        )

    async def TestRules(
        self, request: automation_service_pb2.TestRulesRequest, context: Any
    ) -> automation_service_pb2.TestRulesResponse:
        """Say what rules would have done; nothing is put in force."""
        return await self._trials.test(request)

    async def _tell(
        self, event: str, action: ActionInForce
    ) -> automation_service_pb2.AutomationAction:
        """Let watchers hear of a change before the caller does, and log it."""
        await self._policy.reload()
        logger.info(event, extra={"action_id": action.id, "by": action.changed_by})
        return to_action(action)


def _read_id(number: int) -> int:
    if not 0 < number <= _LARGEST_ID:
        raise InvalidRequest("id is required", field="id")
    return number


def _read_person(context: Any) -> str:
    return read_caller(context) or OPERATOR
