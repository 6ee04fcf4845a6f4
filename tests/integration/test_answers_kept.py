"""Answers stay known for as long as nothing changes that they were made from."""

from datetime import timedelta

import pytest

from policy_server.dns import MxResolver
from policy_server.metrics import ServerMetrics
from policy_server.policy import Policy
from policy_server.rules.resolve import Question
from policy_server.rules.site import MxHost
from policy_server.store.actions import ActionStore
from policy_server.store.database import Database
from policy_server.store.schema import upgrade

_RULES = (
    "INSERT INTO rule_layers (name, position) VALUES ('base', 0)",
    "INSERT INTO rule_blocks (layer_id, scope, name, mx_rollup) VALUES (1, 'default', '', 1), "
    "(1, 'domain', 'a.example', 0), (1, 'domain', 'b.example', 0), (1, 'provider', 'p', 1)",
    "INSERT INTO rule_options (block_id, name, value) VALUES (2, 'max_ready', '7'), "
    "(3, 'max_ready', '8')",
)


@pytest.fixture
async def policy(tmp_path):
    database = Database(f"sqlite:///{tmp_path / 'rules.db'}")
    upgrade(database)
    await _run(database, *_RULES)
    made = Policy(
        database,
        actions=ActionStore(database),
        resolver=MxResolver(nameservers=("127.0.0.1:9",), timeout=timedelta(seconds=1)),
        metrics=ServerMetrics(),
    )
    await made.reload()
    yield made, database
    await made.close()
    await database.aclose()


async def _run(database, *statements):
    def run(connection):
        for statement in statements:
            connection.exec_driver_sql(statement)

    await database.write(run)


def _ask(policy, domain):
    return policy.answer(
        Question(
            routing_domain=domain,
            egress_source="ip-1",
            site_name="mx.example",
            mx_hosts=(MxHost("mx.example"),),
        )
    )


@pytest.mark.parametrize(
    ("statement", "kept"),
    [
        pytest.param("UPDATE rule_options SET value = '9' WHERE block_id = 3", "a", id="other"),
        pytest.param("UPDATE rule_options SET value = '9' WHERE block_id = 2", "b", id="own"),
        pytest.param("UPDATE rule_blocks SET comment = 'x' WHERE id = 1", "ab", id="comment"),
        pytest.param(
            "INSERT INTO rule_options (block_id, name, value) VALUES (1, 'max_ready', '5')",
            "",
            id="default",
        ),
        pytest.param(
            "INSERT INTO provider_matches (block_id, kind, value) VALUES (4, 'mx_suffix', 'x.y')",
            "ab",
            id="a provider that does not match",
        ),
        pytest.param(
            "INSERT INTO provider_matches (block_id, kind, value) "
            "VALUES (4, 'domain_suffix', 'b.example')",
            "a",
            id="a provider that matches",
        ),
    ],
)
async def test_only_answers_that_depend_on_a_change_are_made_anew(policy, statement, kept):
    policy, database = policy
    before = {name: _ask(policy, f"{name}.example") for name in "ab"}

    await _run(database, statement)
    await policy.reload()

    after = {name: _ask(policy, f"{name}.example") for name in "ab"}
    assert "".join(name for name in "ab" if after[name] is before[name]) == kept
    for name in set("ab") - set(kept):
        # An answer has the revision that made it.
        assert after[name].response.revision == policy.revision > before[name].response.revision
