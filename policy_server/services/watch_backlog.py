"""
What one client has yet to be told of, as names and numbers alone: a coalescing map, not a queue.
What changes again meanwhile is looked at once. Pure: times are the event loop's, in seconds.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

from policy_server.rules.book import RulesChange
from policy_server.services.action_changes import ActionChanges, ResourceTypes
from policy_server.services.watch_timing import WatchTiming
from policy_server.services.watched_paths import WatchedPaths

NEVER = float("inf")
#: More changed answers than this are not sent but named in an invalidation.
MAX_CHANGED = 50

_AT_ONCE = (0.0, 0.0)
_Key = TypeVar("_Key")


class WatchBacklog:
    """What is to be looked at for one client."""

    def __init__(self, paths: WatchedPaths, timing: WatchTiming) -> None:
        self._paths, self._timing = paths, timing
        #: To be sent: actions by id, paths by name, and those that are paths no more.
        self._actions: dict[int, ResourceTypes] = {}
        self._names: dict[str, None] = {}
        self._gone: dict[str, None] = {}
        #: Suspensions and bounces that only last longer, and when they are to be sent.
        self._extended: dict[int, ResourceTypes] = {}
        self._extended_due = NEVER
        #: Paths on which an override began, changed or ended.
        self._touched: dict[str, None] = {}
        #: Actions to be sent that the client has not been told of yet.
        self._untold: set[int] = set()
        #: When the first and the last change of rules came that is yet to be compared.
        self._rules_changed: tuple[float, float] | None = None
        #: Names to compare after a change of rules; None: all.
        self._concerned: dict[str, None] | None = {}
        self._is_held_back = False
        self._since: float | None = None

    def __len__(self) -> int:
        kept = (
            self._actions, self._names, self._gone, self._extended, self._touched, self._untold,
            self._concerned or (),
        )  # fmt: skip
        return sum(map(len, kept))

    # What is noted.

    def begin(self, actions: Mapping[int, ResourceTypes], *, is_snapshot: bool) -> None:
        """Note what a client lacks that comes; with a snapshot it has been told of nothing yet."""
        self._actions.update(actions)
        # What began before now it may have been told of by another server.
        self._untold = set(actions) if is_snapshot else set()

    def note_actions(self, changes: ActionChanges, now: float) -> None:
        """Note actions that began, changed or ended."""
        if changes.held:
            self._note_since(now)
            self._note_held(changes)
        if changes.extended:
            self._note_since(now)
            self._extended.update(changes.extended)
            self._extended_due = min(self._extended_due, now + self._timing.extension)
        touched = self._paths.names_in(changes.scopes)
        if touched:
            self._note_since(now)
            self._touched.update(dict.fromkeys(touched))
        if len(self._touched) > MAX_CHANGED:
            # Too many to send one by one: compare all, at once.
            self._rules_changed, self._concerned = _AT_ONCE, None

    def _note_held(self, changes: ActionChanges) -> None:
        for action_id, types in changes.held.items():
            self._extended.pop(action_id, None)
            if action_id in changes.begun and action_id not in self._actions:
                # One whose end waits here, and that begins anew, the client may still have.
                self._untold.add(action_id)
            if action_id in changes.ended and action_id in self._untold:
                # It has come and gone, and the client need not know: so no list of what has
                # ended grows while a client is slow.
                self._untold.discard(action_id)
                self._actions.pop(action_id, None)
            else:
                self._actions[action_id] = types

    def note_rules(self, change: RulesChange | None, now: float) -> None:
        """Note that rules or sites changed; None: any answer may have."""
        if self._note_concerned(change):
            self._begin_debounce(now)

    def hold_rules(self, change: RulesChange | None, now: float) -> bool:
        """Note that rules changed, for `release_rules`; say whether anything is held back."""
        if len(self._paths) and self._note_concerned(change):
            self._note_since(now)
            self._is_held_back = True
        return self._is_held_back

    def release_rules(self, now: float) -> bool:
        """Have the changes that were held back compared; say whether there were any."""
        was_held_back, self._is_held_back = self._is_held_back, False
        if was_held_back:
            self._begin_debounce(now)
        return was_held_back

    def note_paths(self, names: Iterable[str]) -> None:
        """Note paths whose answer is to be sent."""
        self._names.update(dict.fromkeys(names))

    def note_gone(self, name: str) -> None:
        """Note that *name* is a path no more."""
        self._names.pop(name, None)
        self._touched.pop(name, None)
        self._gone[name] = None

    def take_back(self, name: str) -> None:
        """Note that *name* is a path after all."""
        self._gone.pop(name, None)

    def forget_actions(self) -> None:
        """Forget what is known of actions: the full state follows."""
        self._actions.clear()
        self._extended.clear()
        self._extended_due = NEVER

    def compare_again(self, touched: Mapping[str, None], now: float) -> None:
        """Have all compared anew, as the rules changed on the way; *touched* was not sent yet."""
        self._touched.update(touched)
        if self._is_held_back and not touched:
            # The newer rules are not to be told yet, and no action waits for an answer.
            self._concerned = None
        else:
            self.note_rules(None, now)

    def note_all_told(self) -> None:
        """Note that what was to be looked at is as the client has it."""
        self._since = None

    def _note_since(self, now: float) -> None:
        self._since = self._since or now

    def _note_concerned(self, change: RulesChange | None) -> bool:
        """Note what to compare after a change; say whether there is anything."""
        if change is None or change.is_wide:
            self._concerned = None
        elif self._concerned is not None:
            self._concerned |= self._paths.names_concerned(change)
        return self._concerned is None or bool(self._concerned)

    def _begin_debounce(self, now: float) -> None:
        self._note_since(now)
        first = self._rules_changed[0] if self._rules_changed else now
        self._rules_changed = (first, now)

    # What there is.

    @property
    def is_held_back(self) -> bool:
        """Whether a change of rules waits for `release_rules`."""
        return self._is_held_back

    @property
    def is_packable(self) -> bool:
        """Whether something can be sent as it is."""
        return bool(self._actions or self._names or self._gone)

    @property
    def is_urgent(self) -> bool:
        """Whether something is to be sent at once."""
        return self.is_packable or 0 < len(self._touched) <= MAX_CHANGED

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing that the client has yet to be told of."""
        return not (
            self.is_packable
            or self._touched
            or self._extended
            or self._rules_changed is not None
            or self._is_held_back
        )

    @property
    def has_actions(self) -> bool:
        """Whether suspensions or bounces are to be sent at once."""
        return bool(self._actions)

    @property
    def has_extended(self) -> bool:
        """Whether suspensions or bounces that only last longer wait."""
        return bool(self._extended)

    def has_path(self, name: str) -> bool:
        """Whether the answer of a path is to be sent."""
        return name in self._names

    @property
    def gone(self) -> int:
        """How many names are to be confirmed as removed."""
        return len(self._gone)

    @property
    def since(self) -> float | None:
        """Since when there has been something; None: the client has been told of everything."""
        return self._since

    @property
    def rules_due(self) -> float:
        """When answers are to be compared."""
        if self._rules_changed is None:
            return NEVER
        first, last = self._rules_changed
        return min(last + self._timing.debounce, first + self._timing.debounce_most)

    @property
    def extended_due(self) -> float:
        """When what only lasts longer is to be sent."""
        return self._extended_due

    # What is taken.

    def take_touched(self) -> None:
        """Have the paths that actions touched sent, unless they are so many as to be compared."""
        if 0 < len(self._touched) <= MAX_CHANGED:
            self._names.update(self._touched)
            self._touched.clear()

    def take_extended(self) -> None:
        """Have what only lasts longer sent now."""
        if self._extended:
            self._actions.update(self._extended)
            self._extended.clear()
        self._extended_due = NEVER

    def take_comparison(self) -> tuple[list[str], dict[str, None]]:
        """
        Take the names to compare, and those of them that actions touched; all names where so many
        are that an invalidation may be.
        """
        touched, self._touched = self._touched, {}
        concerned, self._concerned = self._concerned, {}
        self._rules_changed = None
        if concerned is None or len(concerned) > MAX_CHANGED:
            return self._paths.names(), touched
        return list(dict.fromkeys([*concerned, *touched])), touched

    def take_action(self) -> tuple[int, ResourceTypes] | None:
        """Take the action that has waited longest; None: there is none."""
        if not self._actions:
            return None
        action_id = next(iter(self._actions))
        self._untold.discard(action_id)
        return action_id, self._actions.pop(action_id)

    def take_gone(self) -> str | None:
        """Take the oldest name that is a path no more; None: there is none."""
        return _take(self._gone) if self._gone else None

    def take_path(self) -> str:
        """Take the path that has waited longest; there must be one."""
        return _take(self._names)


def _take(keys: dict[_Key, None]) -> _Key:
    key = next(iter(keys))
    del keys[key]
    return key
