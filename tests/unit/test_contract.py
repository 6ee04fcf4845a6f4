"""The wire contract: generated code is current, and the option catalogue is complete."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.v1 import egress_path_pb2, option_spec_pb2

_ROOT = Path(__file__).parents[2]
_FIELDS: list[Any] = list(egress_path_pb2.EgressPathConfig.DESCRIPTOR.fields)


def _generate(into: Path) -> None:
    protos = sorted((_ROOT / "proto/penstock/v1").glob("*.proto"))
    services = [path for path in protos if path.stem.endswith("_service")]
    for outputs, files in (
        ([f"--python_out={into}", f"--pyi_out={into}"], protos),
        ([f"--grpc_python_out={into}"], services),
    ):
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{_ROOT / 'proto'}", *outputs]
        subprocess.run([*command, *map(str, files)], check=True, timeout=60)


def test_generated_code_is_current(tmp_path):
    _generate(tmp_path)

    made = {path.name: path.read_text() for path in (tmp_path / "penstock/v1").iterdir()}
    kept = {
        path.name: path.read_text()
        for path in (_ROOT / "penstock/v1").iterdir()
        if re.search(r"_pb2(_grpc)?\.pyi?$", path.name)
    }
    assert made == kept, "run `make generate`"


@pytest.mark.parametrize("field", _FIELDS, ids=lambda field: field.name)
def test_every_option_carries_its_specification(field):
    spec = field.GetOptions().Extensions[option_spec_pb2.option_spec]

    assert spec.kind != option_spec_pb2.OptionSpec.KIND_UNSPECIFIED
    assert spec.meaning.endswith(".")


def test_comments_and_specification_of_options_say_the_same():
    text = (_ROOT / "proto/penstock/v1/egress_path.proto").read_text()
    body = text[text.index("message EgressPathConfig {") :]
    for field in _FIELDS:
        spec = field.GetOptions().Extensions[option_spec_pb2.option_spec]
        match = re.search(rf"((?:  //.*\n)+)  [^\n]*\b{field.name} = {field.number} ", body)
        assert match is not None, field.name
        comment = " ".join(line.strip().removeprefix("// ") for line in match[1].splitlines())
        said = f"{field.name}: {spec.meaning} Default: {spec.default or 'none'}."
        assert comment.startswith(said), field.name
        assert spec.unit == "" or f"Unit: {spec.unit}." in comment, field.name


def test_options_page_is_current():
    spec = importlib.util.spec_from_file_location("options", _ROOT / "docs/generate_options.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    page = (_ROOT / "docs/options.md").read_text(encoding="utf-8")
    assert page == module.render_options(), "run `make generate`"
