"""The text of a configuration file: read with lines, and every problem with it written as ``file:line: table: key =
value: what``."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from models.config_validation import Problem, show
from models.toml_positions import KeyPath, Positions

_HINTS = {
    "Cannot overwrite a value": "this key or table stands in the file before",
    "Invalid value": 'text needs quotes, as in name = "pump"; true and false have no capitals',
    "Expected newline or end of document after a statement": "one key = value a line; text needs quotes",
    "Illegal character": "a text that begins in this line does not end in it: where is its second quote?",
}
_TABLES = {
    (name,)
    for name in (
        "gateway",
        "uplink",
        "models",
        "defaults",
        "sink",
        "broker",
        "store",
        "influx",
        "training",
        "rollout",
    )
}
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class ConfigError(ValueError):
    """A configuration that cannot be used; the text has one line a problem, in the order of the file.

    ``partial``: what could not be looked at because of these problems may have more.
    """

    def __init__(self, text: str, *, partial: bool = False) -> None:
        super().__init__(text)
        self.partial = partial


def parse(path: Path, expected: str) -> tuple[dict[str, Any], Positions]:
    """The document in the file ``path``, and where its keys stand; ConfigError when it is no TOML, or
    empty (``expected``: what it should hold)."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 text") from None
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _AT.search(str(error))
        what = str(error)[: found.start()] if found else str(error)
        what += next((f": {hint}" for sign, hint in _HINTS.items() if what.startswith(sign)), "")
        if found and found[1]:
            raise ConfigError(
                f"{path}:{found[1]}: not valid TOML: {what} (column {found[2]})", partial=True
            ) from None
        raise ConfigError(
            f"{path}:{text.count(chr(10)) + 1}: not valid TOML: {what} (end of file)", partial=True
        ) from None
    if not raw:
        raise ConfigError(f"{path}: the file is empty: expected {expected}")
    return raw, Positions(data)


def place(path: KeyPath, lines: Positions) -> KeyPath:
    """``path``, or where the device has it from: the same key of ``[defaults]``."""
    inherited: KeyPath = ("defaults", *path[2:])
    from_defaults = path[:1] == ("device",) and len(path) > 2 and path not in lines and inherited in lines
    return inherited if from_defaults else path


def report(path: Path, problems: Iterable[Problem], lines: Positions, names: Mapping[KeyPath, str]) -> str:
    """One line a problem, in the order of the file; ``names``: what tables of an array are called, by their
    path."""
    found: dict[str, int] = {}
    for problem in problems:
        at = place(problem.path, lines)
        number = lines.line(at)
        where = f"{path}:{number}" if number is not None else str(path)
        table, key = _label(at, names)
        if problem.shows_value:
            table, key = (table, key) if key else ("", str(at[0]))
            key = f"{key} = {show(problem.value)}"
        found.setdefault(": ".join(part for part in (where, table, key, problem.text) if part), number or 0)
    return "\n".join(sorted(found, key=lambda text: found[text]))


def name_tables(raw: Mapping[str, Any]) -> dict[KeyPath, str]:
    """The id of each ``[[device]]`` and the name of each ``[[source]]``, where they have one."""
    names: dict[KeyPath, str] = {}
    for array, key in (("device", "id"), ("source", "name")):
        tables = raw.get(array)
        for i, table in enumerate(tables if isinstance(tables, list) else []):
            if isinstance(table, dict) and isinstance(table.get(key), str):
                names[(array, i)] = table[key]
    return names


def _label(path: KeyPath, names: Mapping[KeyPath, str]) -> tuple[str, str]:
    """The table that ``path`` is in, as written in the file, and the key in it."""
    if len(path) < 2 and path[:1] not in _TABLES:
        return "", "".join(str(part) for part in path)
    n = 2 if len(path) > 1 and isinstance(path[1], int) else 1
    name = names.get(path[:n])
    label = f"[[{path[0]}]]" if n == 2 else f"[{path[0]}]"
    if path[2:3] in (("subscribe",), ("register",), ("limit",)) and len(path) > 3:
        label, n = f"[[{path[0]}.{path[2]}]]", 4
    if name is not None:
        label += f' of "{name}"' if n == 4 else f' "{name}"'
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path[n:])
    return label, key.removeprefix(".")
