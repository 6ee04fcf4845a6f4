"""
Answers that are known: each holds for as long as what it was made from stays the same.

How much is kept is bounded, both of whole answers and of what many of them have in common.
"""

from collections import OrderedDict

import msgspec

from policy_server.answering.answers import Answer, build_answer
from policy_server.answering.scope_answers import ScopeAnswers
from policy_server.in_force.state import State
from policy_server.metrics import ServerMetrics
from policy_server.rules.resolve import Override, Question
from policy_server.rules.scopes import Scopes, find_scopes

_KEPT = 20_000


class _KnownAnswer(msgspec.Struct, frozen=True, gc=False):
    #: Of the state, when it was last found to hold.
    generation: int
    scopes: Scopes
    overrides: tuple[Override, ...]
    answer: Answer


class KnownAnswers:
    """Answers questions from a state, from the cache where nothing changed since."""

    def __init__(self, metrics: ServerMetrics, *, kept: int = _KEPT) -> None:
        self._metrics = metrics
        self._kept = kept
        #: Counts the states that answers were made from.
        self._generation = 0
        self._known: OrderedDict[Question, _KnownAnswer] = OrderedDict()
        self._of_scopes = ScopeAnswers()

    def note_change(self) -> None:
        """There is another state: what is known may not hold any more."""
        self._generation += 1

    def answer(self, state: State, question: Question) -> Answer:
        """Answer a question from *state*, which is the same until `note_change` is called."""
        known = self._known.get(question)
        if known is not None and known.generation == self._generation:
            self._known.move_to_end(question)
            return known.answer
        scopes = find_scopes(state.snapshot, question)
        overrides = state.overrides_of(question)
        if known is not None and known.scopes == scopes and known.overrides == overrides:
            answer = known.answer
        else:
            answer = build_answer(
                scopes,
                question,
                overrides,
                revision=state.revision,
                find_ruled=self._of_scopes.find,
            )
            self._metrics.answers_made.inc()
        self._known.pop(question, None)
        self._known[question] = _KnownAnswer(self._generation, scopes, overrides, answer)
        if len(self._known) > self._kept:
            self._known.popitem(last=False)
        return answer
