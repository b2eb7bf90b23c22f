"""Every key that tomllib finds has a line, and it is the line where the key is written."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from models.toml_positions import KeyPath, Positions

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

DOCUMENT = """\
title = "ä \\" # no comment"  # a comment
"quo ted" = 1
'lit.eral'.dotted."k" = [1, # one
  2,

  [3, 4]]

[a.b]        # a table whose parent has no header
c = { d = 1, "e f" = { g = 2 }, h.i = 3 }
[[t]]
x = '''
[[t]]
x = "not a key"
'''
[t.u]
v = 1
[[t.w]]
z = 1
[[t.w]]
z = 2
[[t]]
x = 1979-05-27
[[t.w]]
z = 3
"""


def paths(value: object, path: KeyPath = ()) -> Iterator[KeyPath]:
    if path:
        yield path
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, item in items:
        yield from paths(item, (*path, key))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("title",), 1),
        (("quo ted",), 2),
        (("lit.eral", "dotted", "k"), 3),
        (("lit.eral", "dotted", "k", 0), 3),
        (("lit.eral", "dotted", "k", 1), 4),
        (("lit.eral", "dotted", "k", 2, 1), 6),
        (("a",), 8),
        (("a", "b", "c", "e f", "g"), 9),
        (("a", "b", "c", "h", "i"), 9),
        (("t", 0), 10),
        (("t", 0, "x"), 11),
        (("t", 0, "u", "v"), 16),
        (("t", 0, "w", 0, "z"), 18),
        (("t", 0, "w", 1, "z"), 20),
        (("t", 1, "x"), 22),
        (("t", 1, "w", 0), 23),
        (("t", 1, "w", 0, "z"), 24),
    ],
)
def test_lines(path: KeyPath, line: int) -> None:
    assert Positions(DOCUMENT.encode()).line(path) == line


def test_what_is_missing_has_the_line_of_what_is_around_it() -> None:
    positions = Positions(DOCUMENT.encode())
    assert positions.line(("t", 1, "w", 0, "missing", 3)) == 23
    assert positions.line(("missing",)) is None
    assert ("t", 1) in positions
    assert ("t", 2) not in positions


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["gateway.toml", "plant.toml", None])
def test_every_path_of_a_document_is_found(name: str | None, newline: str) -> None:
    text = (DOCUMENT if name is None else (EXAMPLES / name).read_text()).replace("\n", newline)
    lines = text.splitlines()
    positions = Positions(text.encode())
    for path in paths(tomllib.loads(text)):
        assert path in positions, path
        line = positions.line(path)
        assert line is not None
        if isinstance(path[-1], str):
            assert path[-1] in lines[line - 1], path
