"""Rules as a large sender has them, in any number: made of nothing but that number."""

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, insert

from policy_server.rules.layers import BlockDraft, LayerDraft, Scope
from policy_server.rules.site import MxHost, Site
from policy_server.store.tables import provider_matches, rule_blocks, rule_layers, rule_options

LAYER = "benchmark"
_PROVIDER_EVERY = 100


def make_layer(count: int) -> LayerDraft:
    """Make a layer: a default, one provider in a hundred blocks, domains alone and rolled up."""
    return LayerDraft(name=LAYER, blocks=tuple(map(_make_block, range(count))))


def make_sites(count: int) -> Iterator[Site]:
    """Make the sites of the layer's rolled-up domains: each has one of its own."""
    for number in range(count):
        if is_rolled_up(number):
            host = f"mx.d{number}.example"
            yield Site(
                domain=domain_of(number), site_name=host, mx_hosts=(MxHost(host, preference=10),)
            )


def domain_of(number: int) -> str:
    """Name the domain of a block that is neither the default nor a provider."""
    return f"d{number}.example"


def is_rolled_up(number: int) -> bool:
    """Whether a block is a rolled-up domain's."""
    return number % 2 == 0 and number > 0 and number % _PROVIDER_EVERY != 1


def insert_rows(connection: Connection, blocks: Sequence[BlockDraft]) -> None:
    """Insert the rows of *blocks* as fast as the database takes them, with nothing checked."""
    layer = {"id": 1, "name": LAYER, "position": 0}
    connection.execute(insert(rule_layers), layer)
    numbered = list(enumerate(blocks, start=1))
    connection.execute(
        insert(rule_blocks),
        [
            {
                "id": number,
                "layer_id": 1,
                "scope": block.scope.value,
                "name": block.name,
                "mx_rollup": block.mx_rollup,
                "position": number,
            }
            for number, block in numbered
        ],
    )
    connection.execute(insert(rule_options), list(_option_rows(numbered)))
    matches = [
        {"block_id": number, "kind": kind, "value": value}
        for number, block in numbered
        for kind, value in block.matches
    ]
    if matches:
        connection.execute(insert(provider_matches), matches)


def _option_rows(numbered: Sequence[tuple[int, BlockDraft]]) -> Iterator[dict[str, Any]]:
    for number, block in numbered:
        for name, value in block.options.items():
            yield {"block_id": number, "name": name, "value": value}


def _make_block(number: int) -> BlockDraft:
    if number == 0:
        return BlockDraft(
            scope=Scope.DEFAULT, options={"connection_limit": 10, "max_message_rate": "100/s"}
        )
    if number % _PROVIDER_EVERY == 1:
        return BlockDraft(
            scope=Scope.PROVIDER,
            name=f"p{number}",
            matches=(("mx_suffix", f".mx{number}.example"),),
            options={"provider_connection_limit": 5, "max_deliveries_per_connection": 20},
        )
    return BlockDraft(
        scope=Scope.DOMAIN,
        name=domain_of(number),
        mx_rollup=is_rolled_up(number),
        options={
            "connection_limit": 1 + number % 50,
            "max_message_rate": f"{1 + number % 499}/m",
        },
    )
