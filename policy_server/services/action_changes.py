"""
What of the actions in force has changed, as far as a watching client can see it. Pure.

An action changes with every reply that matches it, most often in what only the ledger shows, or in
that it lasts a little longer. The first is nobody's business, and the second can wait a moment:
a storm of replies must not become a storm of messages to every client.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from penstock.v1 import policy_service_pb2 as pb
from policy_server.automation.actions import (
    BOUNCES,
    OVERRIDES,
    SUSPENSIONS,
    ActionInForce,
    ActionKind,
    ActionScope,
)

#: The types that a resource named by an action's number is, or may have been.
ResourceTypes = tuple[pb.ResourceType, ...]

#: What ends sooner than this is said at once to last longer.
_ENDS_SOON = timedelta(seconds=10)
_SUSPENSION = (pb.ResourceType.RESOURCE_TYPE_SUSPENSION,)
_BOUNCE = (pb.ResourceType.RESOURCE_TYPE_BOUNCE,)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionChanges:
    """What is to be looked at."""

    #: Suspensions and bounces that began, changed or ended.
    held: Mapping[int, ResourceTypes] = field(default_factory=dict)
    #: Those that only last longer.
    extended: Mapping[int, ResourceTypes] = field(default_factory=dict)
    #: Those of `held` that began, and that ended.
    begun: frozenset[int] = frozenset()
    ended: frozenset[int] = frozenset()
    #: Where overrides began, changed or ended.
    scopes: tuple[ActionScope, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.held or self.extended or self.scopes)


def types_of(kind: ActionKind | None) -> ResourceTypes:
    """Say as what a client knows an action; one of an unknown kind as either."""
    if kind in SUSPENSIONS:
        return _SUSPENSION
    return _BOUNCE if kind in BOUNCES else _SUSPENSION + _BOUNCE


def compare_actions(
    known: Mapping[int, ActionInForce], present: Mapping[int, ActionInForce], now: datetime
) -> ActionChanges:
    """Find what differs between the actions *known* and those in force at *now*."""
    held: dict[int, ResourceTypes] = {}
    extended: dict[int, ResourceTypes] = {}
    scopes: dict[ActionScope, None] = {}
    for action_id in {**known, **present}:
        old, new = known.get(action_id), present.get(action_id)
        if old is new or _view(old) == _view(new):
            continue
        for action in (old, new):
            if action is None:
                continue
            if action.kind in OVERRIDES:
                scopes[action.scope] = None
            elif _lasts_longer(old, new, now):
                extended[action_id] = types_of(action.kind)
            else:
                held[action_id] = types_of(action.kind)
    return ActionChanges(
        held=held,
        extended=extended,
        begun=frozenset(held.keys() - known.keys()),
        ended=frozenset(held.keys() - present.keys()),
        scopes=tuple(scopes),
    )


def _view(action: ActionInForce | None) -> Any:
    """Return all of an action that clients are sent, or that answers are made from."""
    if action is None:
        return None
    if action.kind in OVERRIDES:
        return action.kind, action.scope, action.option, action.new_value, action.end
    return action.kind, action.scope, action.reason, action.end


def _lasts_longer(old: ActionInForce | None, new: ActionInForce | None, now: datetime) -> bool:
    if old is None or new is None or old.end is None or new.end is None:
        return False
    is_same = (old.kind, old.scope, old.reason) == (new.kind, new.scope, new.reason)
    return is_same and new.end >= old.end and old.end - now > _ENDS_SOON
