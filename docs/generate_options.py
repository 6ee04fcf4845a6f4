"""Write docs/options.md from the option catalogue in `proto/penstock/v1/egress_path.proto`."""

from pathlib import Path

from penstock.v1.egress_path_pb2 import EgressPathConfig
from penstock.v1.option_spec_pb2 import OptionSpec, option_spec

_TARGET = Path(__file__).with_name("options.md")

_HEAD = """\
# Options

Every option that a rule may set, with its default and what it does. This page is made from
`proto/penstock/v1/egress_path.proto` by `make generate`; clients in other languages read the same
catalogue from the `option_spec` field option.

How values are spelt:

| kind | spelling |
|---|---|
| limit | an integer of at least 1, or a text: `32`, `"7_000"`, `"local:20"` (per agent) |
| rate | `"[local:]COUNT/[N]UNIT[,max_burst=B]"`: `"100/s"`, `"5/10min"`, `"500/d,max_burst=1"` |
| count | an integer of at least 1, or a text: `"1,024"` |
| duration | seconds, or a text: `60`, `"90m"`, `"1 hour"`, `"1h30m"` |
| secret | a path on the agent's host, `{key_data = "..."}` or `{env = "NAME"}` |
| limit map, rate map | a table of names, each with a limit or a rate; entries merge by name |
| cidr list | a list of addresses and networks: `["127.0.0.0/8", "::1"]` |

| option | kind | default | meaning |
|---|---|---|---|
"""


def _row(name: str, spec: OptionSpec) -> str:
    kind = OptionSpec.Kind.Name(spec.kind).removeprefix("KIND_").lower().replace("_", " ")
    default = f"`{spec.default}`" if spec.default else ""
    notes = " Provider blocks only." * spec.provider_only
    notes += " Passed through; our agents do not use it." * spec.passed_through
    return f"| `{name}` | {kind} | {default} | {spec.meaning}{notes} |\n"


def render_options() -> str:
    """Render the page."""
    fields = EgressPathConfig.DESCRIPTOR.fields
    return _HEAD + "".join(
        _row(field.name, field.GetOptions().Extensions[option_spec]) for field in fields
    )


if __name__ == "__main__":
    _TARGET.write_text(render_options(), encoding="utf-8")
