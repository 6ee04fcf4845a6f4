"""What is known of the scopes of a question is what the rules say now, not what they said."""

import gc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from penstock.v1 import limit_pb2
from policy_server.answering.answers import Answer, build_answer
from policy_server.answering.limit_refs import find_limits
from policy_server.answering.scope_answers import ScopeAnswers
from policy_server.rules.book import BookEntry, RuleBook
from policy_server.rules.config import to_config
from policy_server.rules.layers import Block, Layer, Scope
from policy_server.rules.resolve import Override, Question, resolve
from policy_server.rules.scopes import find_scopes
from policy_server.rules.snapshot import Snapshot
from policy_server.rules.values import Limit
from tests.unit.policy_server.rules.drafts import ask, make_sites, make_snapshot
from tests.unit.policy_server.rules.made_rules import MX, QUESTIONS, made_blocks, made_layers

_ALL = [ask(MX, domain, source) for domain, source in product([*MX, "unknown.example"], "ab")]
_END = datetime(2026, 8, 1, tzinfo=UTC)


def _answer(snapshot: Snapshot, known: ScopeAnswers, question: Question) -> Answer:
    scopes = find_scopes(snapshot, question)
    return build_answer(scopes, question, (), revision=1, find_ruled=known.find)


def _plainly(snapshot: Snapshot, question: Question) -> Answer:
    return build_answer(find_scopes(snapshot, question), question, (), revision=1)


@given(st.lists(made_layers(), min_size=1, max_size=6), st.integers(1, 4))
def test_what_is_known_is_what_the_rules_in_force_say(states: list[list[Layer]], kept: int) -> None:
    """Rules come and go; of those that went nothing is held but what is known."""
    known = ScopeAnswers(kept)
    questions = [*_ALL, *(structs.replace(one, egress_source="ip-1") for one in _ALL)]
    for layers in states:
        snapshot = make_snapshot(layers, MX)
        for question in questions:
            assert _answer(snapshot, known, question) == _plainly(snapshot, question)
        assert len(known) <= kept


@given(
    st.lists(made_blocks(), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 7), made_blocks()), min_size=1, max_size=6),
    st.lists(QUESTIONS, min_size=1, max_size=4),
)
def test_what_is_known_outlasts_changes_of_single_rules_in_a_book(
    blocks: list[Block], changes: list[tuple[int, Block]], questions: list[Question]
) -> None:
    book, known = RuleBook(), ScopeAnswers()
    book.set_layers([1])
    book.set_sites(make_sites(MX))
    entries = [_enter(number, block) for number, block in enumerate(blocks)]
    book.replace([], entries)
    for index, block in changes:
        snapshot = book.compile(1).after
        for question in questions:
            assert _answer(snapshot, known, question) == _plainly(snapshot, question)
        old = entries[index % len(entries)]
        new = _enter(old.id, block)
        book.replace([old], [new])
        entries[entries.index(old)] = new


def _enter(number: int, block: Block) -> BookEntry:
    return BookEntry(id=number, layer_id=1, position=number, own=replace(block, id=number))


@given(made_layers(), QUESTIONS, st.none() | st.integers(1, 9), st.booleans())
def test_an_answer_put_together_from_parts_is_the_resolution(
    layers: list[Layer], question: Question, limit: int | None, of_domain: bool
) -> None:
    snapshot = make_snapshot(layers, MX)
    overrides = () if limit is None else (_override(question, limit, of_domain=of_domain),)
    scopes = find_scopes(snapshot, question)
    answer = build_answer(scopes, question, overrides, revision=7)

    resolution = resolve(snapshot, question, overrides)
    response = answer.response
    assert response.config == to_config(resolution)
    assert response.HasField("ruled_config") == bool(overrides)
    if overrides:
        assert response.ruled_config == to_config(resolve(snapshot, question))
    assert (response.site_name, response.path_name) == (question.site_name, resolution.path_name)
    assert tuple(response.provider_names) == resolution.provider_names
    assert (response.etag, response.revision) == (answer.etag, 7)
    assert response.max_age.ToTimedelta() == timedelta(seconds=60)
    limits = {limit.key_on(answer.path_name): limit for limit in find_limits(response.config)}
    assert [ref.key for ref in response.limit_refs] == list(limits)
    lent = {ref.key for ref in response.limit_refs if ref.sharing == limit_pb2.LIMIT_SHARING_FLEET}
    assert answer.limits == {key: limits[key].spec for key in limits if key in lent}


@given(made_layers(), made_layers(), QUESTIONS, QUESTIONS)
def test_answers_have_equal_etags_if_and_only_if_they_say_the_same(
    some: list[Layer], others: list[Layer], one: Question, other: Question
) -> None:
    first = _plainly(make_snapshot(some, MX), one).response
    second = _plainly(make_snapshot(others, MX), other).response
    etags = first.etag, second.etag
    first.ClearField("etag")
    second.ClearField("etag")

    assert (etags[0] == etags[1]) == (first == second)


def _override(question: Question, limit: int, *, of_domain: bool) -> Override:
    return Override(
        action_id=1,
        routing_domain=question.routing_domain if of_domain else "",
        site_name=question.site_name,
        egress_source=question.egress_source,
        option="connection_limit",
        value=Limit(limit),
        expire_time=_END,
    )


def _snapshot_of(limit: int, *, source: str = "") -> Snapshot:
    block = Block(
        id=1,
        layer="base",
        scope=Scope.DEFAULT,
        name="",
        source=source,
        mx_rollup=True,
        replace_base=False,
        options={"connection_limit": Limit(limit)},
    )
    return make_snapshot([Layer(id=1, name="base", blocks=(block,))], MX)


def test_rules_that_are_gone_are_not_taken_for_those_in_their_place_in_memory() -> None:
    known, answers, question = ScopeAnswers(), [], ask(MX, "a.example")
    # Else each collection goes through all that the tests hold.
    gc.freeze()
    for limit in range(1, 100):
        snapshot = _snapshot_of(limit)
        answers.append(_answer(snapshot, known, question))
        assert answers[-1].response.config.connection_limit.value == limit
        # What is made next takes the place of what is gone.
        del snapshot, answers[0 : limit % 7]
        gc.collect()
    gc.unfreeze()


@pytest.mark.parametrize("source", ["", "ip-1"])
def test_sources_share_what_is_said_for_all_of_them(source: str) -> None:
    snapshot = _snapshot_of(3, source=source)
    known = ScopeAnswers()
    for name in ("ip-1", "ip-2", "ip-3"):
        _answer(snapshot, known, ask(MX, "a.example", name))

    assert len(known) == (3 if source else 1)
