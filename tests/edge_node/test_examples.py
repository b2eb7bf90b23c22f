"""The examples load, and the reference lists every option there is, with its true default."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from edge_node.config import ConfigError, load_config
from edge_node.config_schema import Document
from models.config_validation import convert, find_problems

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
REFERENCE = (EXAMPLES / "gateway.toml").read_text()

# An option that is not set in the reference: "#" and a key or a table's header, without a space between them.
UNSET = re.compile(r"^#(?=[a-z_]+ = |\[)", re.MULTILINE)


def everything_set() -> dict[str, Any]:
    return tomllib.loads(UNSET.sub("", REFERENCE))


def options(kind: inspect.Type, value: object, path: str) -> Iterator[tuple[str, str, inspect.Field, bool]]:
    """(table, key, field, whether ``value`` has it) of every struct in ``kind``; of an array any element."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        for member in kind.types:
            yield from options(member, value, path)
    elif isinstance(kind, inspect.VarTupleType):
        items = value if isinstance(value, list) else []
        merged = [i for i in items if isinstance(i, dict)]
        yield from options(kind.item_type, merged, path)
    elif isinstance(kind, inspect.StructType):
        tables: list[Any] = value if isinstance(value, list) else [value]
        if kind.tag is not None:
            tables = [t for t in tables if t.get(kind.tag_field) == kind.tag]
        for field in kind.fields:
            name = field.encode_name
            found = [t[name] for t in tables if isinstance(t, dict) and name in t]
            yield f"{path} ({kind.cls.__name__})", name, field, bool(found)
            inner: list[object] = [x for f in found for x in (f if isinstance(f, list) else [f])]
            yield from options(field.type, inner, f"{path}.{name}")


def reference_options() -> list[tuple[str, str, inspect.Field, bool]]:
    document = everything_set()
    # What may stand in [defaults] may stand in a device, and is documented in one of the two.
    document["device"] = [{**document["defaults"], **d} for d in document["device"]]
    found = options(inspect.type_info(Document), document, "")
    return [option for option in found if not option[0].startswith(".defaults")]


def test_examples_load() -> None:
    assert [d.device.device_id for d in load_config(EXAMPLES / "gateway.toml").devices] == [
        "press-4",
        "press-4-power",
    ]


def test_a_plant_fits_on_a_page() -> None:
    config = load_config(EXAMPLES / "plant.toml")
    assert [(d.device.machine, len(d.device.channels), d.device.mode) for d in config.devices] == [
        ("press-4", 3, "continuous"),
        ("press-4", 3, "irregular"),
        ("press-4", 2, "irregular"),
    ]
    assert len((EXAMPLES / "plant.toml").read_text().splitlines()) < 60


def test_every_option_is_documented() -> None:
    missing = [f"{table}: {key}" for table, key, _, found in reference_options() if not found]
    assert missing == []
    assert len(reference_options()) > 120


def test_every_documented_option_exists_and_its_example_is_valid(tmp_path: Path) -> None:
    document = everything_set()
    assert find_problems(document, Document) == []
    assert isinstance(convert(document, Document, tmp_path, ()), Document)


DOCUMENTED = [
    (number, line) for number, line in enumerate(REFERENCE.splitlines(), 1) if re.match(r"#?[a-z_]+ = ", line)
]


@pytest.mark.parametrize(("number", "line"), DOCUMENTED, ids=[f"line{n}" for n, _ in DOCUMENTED])
def test_documented_defaults_are_true(number: int, line: str) -> None:
    """A line shows the default, or says what the default is, or that there is none."""
    key, value = next(iter(tomllib.loads(line.removeprefix("#")).items()))
    if re.search(r"#.*\b(default|required)\b", line.removeprefix("#")):
        return
    assert line.startswith("#"), f"line {number} sets {key} and does not say what its default is"
    defaults = [
        field.default if field.default is not msgspec.NODEFAULT else list(field.default_factory())
        for _, name, field, _ in reference_options()
        if name == key and not field.required
    ]
    plain = [list(d) if isinstance(d, tuple) else str(d) if isinstance(d, Path) else d for d in defaults]
    assert value in plain, f"line {number} shows {key} = {value}; the default is one of {plain}"


def test_required_options_are_said_to_be() -> None:
    required = {name for table, name, field, _ in reference_options() if field.required and table[0] == "."}
    assert {"name", "host", "topic", "paths", "id", "channel"} <= required
    for name in required:
        assert re.search(rf"^#?{name} = .*# required", REFERENCE, re.MULTILINE), name


SETTINGS = [n for n, line in enumerate(REFERENCE.splitlines()) if re.match(r"#?[a-z_]+ = |#?\[", line)]
LITERALS = [
    "0",
    "-1",
    "7",
    "1e300",
    "9" * 400,
    "nan",
    "inf",
    "true",
    '"x"',
    '""',
    '"1/3"',
    '"a.b > 1"',
    "1979-05-27",
]
LITERALS += [
    "[]",
    "{}",
    "[1]",
    "[{}]",
    '["x", "x"]',
    "[[1, 2]]",
    "{ a = 1 }",
    '{ name = "x" }',
    '[{ name = "x" }]',
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.dictionaries(st.sampled_from(SETTINGS), st.sampled_from([*LITERALS, None]), max_size=4))
def test_any_change_of_the_reference_loads_or_is_named_by_line(
    tmp_path: Path, changes: dict[int, str | None]
) -> None:
    """Whatever is set to whatever, or left out (None): never another exception."""
    lines = REFERENCE.splitlines()
    for number, literal in changes.items():
        header = "[" in lines[number].split("=")[0]
        if literal is None:
            lines[number] = ""
        elif not header:
            key = lines[number].removeprefix("#").split(" = ")[0]
            lines[number] = f"{key} = {literal}"
    path = tmp_path / "gateway.toml"
    path.write_text("\n".join(lines))
    try:
        config = load_config(path)
    except ConfigError as error:
        problems = str(error).splitlines()
    else:
        problems = []
        for device in config.devices:
            config.settle(device, None)
    assert all(re.match(rf"{re.escape(str(path))}(:\d+)?: ", problem) for problem in problems), problems
