"""Every statement of docs/sql.md runs, on both databases, and means what the page says."""

import re
from pathlib import Path

import pytest
from sqlalchemy import text

from policy_server.in_force.rule_loader import RuleLoader, read_everything
from policy_server.rules.document import read_document
from policy_server.store.database import Database
from policy_server.store.layers import import_layers
from policy_server.store.schema import upgrade

_PAGE = Path(__file__).parents[2] / "docs/sql.md"
_RULES = {
    "provider": {
        "bigmail": {"match": [{"MXSuffix": ".bigmail.example"}], "connection_limit": 10},
    }
}


def _sections() -> dict[str, list[str]]:
    """The statements of each section, by its title; a transaction is one piece."""
    sections = {}
    for title, body in re.findall(r"^## (.+?)$(.+?)(?=^## |\Z)", _PAGE.read_text(), re.M | re.S):
        blocks = re.findall(r"```sql\n(.+?)```", body, re.S)
        if blocks:
            sections[title] = [
                statement.strip()
                for block in blocks
                for statement in re.split(r";\s*(?:\n|\Z)", block)
                if statement.strip() not in ("", "BEGIN", "COMMIT")
            ]
    return sections


@pytest.fixture
def database(database_url):
    layer, issues = read_document(
        _RULES, name="rules", file="rules.toml", find_line=lambda _place: None
    )
    assert not issues
    database = Database(database_url)
    try:
        upgrade(database)
        database.write_now(lambda connection: import_layers(connection, [layer], author="test"))
        yield database
    finally:
        database.close()


def _run(database, title):
    """Run a section's statements in one transaction; return the rows of its questions."""

    def work(connection):
        rows = []
        for statement in _sections()[title]:
            result = connection.execute(text(statement.replace(":", r"\:")))
            rows += [row._asdict() for row in result] if result.returns_rows else []
        return rows

    return database.write_now(work)


def _blocks(database):
    """The blocks in force, by layer, name and source."""
    loaded = RuleLoader().load(*database.read_now(read_everything))
    assert not loaded.issues
    return {
        (layer.name, block.name, block.source): block
        for layer in loaded.layers
        if layer.enabled
        for block in layer.blocks
    }


def test_the_page_does_what_it_says_from_top_to_bottom(database):
    _run(database, "Raise a limit")
    assert _blocks(database)["rules", "bigmail", ""].options["connection_limit"].value == 20

    _run(database, "Add a layer, and a rule for one domain in it")
    block = _blocks(database)["by-hand", "example.org", ""]
    assert block.options["max_message_rate"].count == 10

    _run(database, "Add a provider")
    block = _blocks(database)["by-hand", "hosting-co", ""]
    assert block.matches[0].value == ".mx.hosting-co.example"
    assert block.automation[0].regexes == ("too many connections",)

    _run(database, "Rules for one egress source alone")
    assert _blocks(database)["by-hand", "hosting-co", "ip-new"].options

    _run(database, "Take away what a lower layer set")
    block = _blocks(database)["by-hand", "example.org", ""]
    assert block.options["max_connection_rate"] is None

    _run(database, "Schedule a layer")
    layers = RuleLoader().load(*database.read_now(read_everything)).layers
    assert layers[1].valid_from is not None
    assert layers[1].valid_from.isoformat() == "2027-11-26T00:00:00+00:00"

    _run(database, "Switch a layer or a block off for a while")
    assert {layer for layer, _, _ in _blocks(database)} == {"rules"}

    assert _run(database, "See what was refused") == []

    changes = _run(database, "Find who changed what")
    assert _blocks(database)["rules", "bigmail", ""].options["connection_limit"].value == 25
    assert any(change["table_name"] == "rule_layers" for change in changes)
    assert "anna" in {change["author"] for change in _run(database, "Find who changed what")}

    _run(database, "Remove")
    assert {layer for layer, _, _ in _blocks(database)} == {"rules"}
