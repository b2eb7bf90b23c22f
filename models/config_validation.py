"""Values from TOML against our structs: all that does not fit, by path, in words a person can act on.

One walk over ``msgspec.inspect``'s description of the types; msgspec itself stops at the first error and
knows no lines. Beyond the types, every number must be finite, every ``…_s`` at least 0, and seconds, rates
and counts small enough for arithmetic in int64 nanoseconds.
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from models.codec import parse_rate
from models.toml_positions import KeyPath

# Keys that people reach for and that are not there for a reason.
_HINTS = {
    "password": "a password does not belong in this file: use password_file or password_env",
}

# Keys that somebody may have taken for a secret's: their values are not shown.
_SECRET = re.compile(r"pas|pwd|pw$|word|secret|token|api.?key|auth|cred", re.IGNORECASE)

MIN_PART = 3  # characters that are not in many names by chance
_MAX_S = 1e9  # 31 years
_MAX_INT = 2**63 - 1
_MAX_RATE_TERM = 10**9


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong at ``path``; ``missing``: the key that should be in the table there, and is not."""

    path: KeyPath
    text: str
    value: object = None
    shows_value: bool = False
    missing: str = ""


class Refused(Exception):
    """What a struct's own rules say against its values."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text)
        self.problem = problem


def convert(value: object, kind: Any, base: Path, path: KeyPath) -> Any:
    """``value`` (at ``path``), which :func:`find_problems` found nothing wrong with, as ``kind``; file names
    are relative to ``base``. Raises Refused where a struct itself refuses a combination of values."""

    def from_toml(wanted: type, given: Any) -> object:
        return base / given if wanted is Path else parse_rate(given)

    try:
        return msgspec.convert(value, type=kind, dec_hook=from_toml)
    except msgspec.ValidationError as error:
        text, _, at = str(error).partition(" - at `$")
        keys = tuple(key for key in at.rstrip("`").split(".") if key and "[" not in key)
        raise Refused(Problem((*path, *keys), text)) from None


def find_problems(value: object, kind: Any, path: KeyPath = ()) -> list[Problem]:
    """Everything in ``value`` (at ``path``) that is not a ``kind``: unknown and missing keys, types,
    ranges."""
    return _check(value, inspect.type_info(kind), path)


def nearest(name: str, names: Iterable[str]) -> str:
    """``; did you mean "x"?`` for the name nearest to ``name``, or nothing where none is near. Nearest is the only one that
    ``name`` is a part of (in any case): "tpu" is "edgetpu", not "cpu"."""
    names = list(names)
    close = [n for n in names if len(name) >= MIN_PART and name.lower() in n.lower()]
    if len(close) != 1:
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def misspelt(table: Iterable[str], names: Collection[str]) -> set[str]:
    """Those of ``names`` that are not in ``table``, but that an unknown key there is nearest to."""
    unknown = [key for key in table if key not in names and key not in _HINTS]
    near = {name for key in unknown for name in difflib.get_close_matches(key, names, n=1)}
    return near.difference(table)


MAX_SHOWN = 160  # a path fits


def show(value: object) -> str:
    """``value`` as TOML would write it, cut short."""
    if isinstance(value, Fraction):
        return str(value)
    if isinstance(value, dict):
        text = "{…}"
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        text = "[…]"
    elif isinstance(value, (str, bool, list)):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 3]}..."


def describe(kind: inspect.Type) -> str:
    """What a value of ``kind`` looks like: ``a number above 0``."""
    match kind:
        case inspect.Metadata(type=inner):
            return describe(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType():
            return ("a whole number" if isinstance(kind, inspect.IntType) else "a number") + _bounds(kind)
        case inspect.StrType(min_length=1, max_length=1):
            return "one character"
        case inspect.StrType(min_length=length):
            return "a string that is not empty" if length else "a string"
        case inspect.LiteralType(values=values):
            return "one of " + ", ".join(show(v) for v in values)
        case inspect.EnumType(cls=cls):
            return "one of " + ", ".join(show(m.value) for m in cls)
        case inspect.CustomType(cls=cls) if cls is Fraction:
            return 'a rate above 0 and at most 1e9: a number or a fraction such as "1/300"'
        case inspect.CustomType():
            return "a path"
        case inspect.VarTupleType(item_type=item):
            return "a list of tables" if _structs(item) == [item] else "a list"
        case inspect.TupleType(item_types=items):
            return f"a list of {len(items)} numbers"
        case inspect.UnionType(types=types):
            return " or ".join(dict.fromkeys(describe(t) for t in types if not _is_none(t)))
        case _:
            return "a table"


def _bounds(kind: inspect.IntType | inspect.FloatType) -> str:
    bounds = (("at least", kind.ge), ("above", kind.gt), ("at most", kind.le), ("below", kind.lt))
    joined = " and ".join(f"{word} {_number(bound)}" for word, bound in bounds if bound is not None)
    return f" {joined}" if joined else ""


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _is_none(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.NoneType)


def _plain(kind: inspect.Type) -> inspect.Type:
    """``kind`` without annotations and without ``None``, which TOML cannot write."""
    while isinstance(kind, inspect.Metadata):
        kind = kind.type
    if isinstance(kind, inspect.UnionType):
        types = tuple(t for t in kind.types if not _is_none(t))
        return _plain(types[0]) if len(types) == 1 else inspect.UnionType(types)
    return kind


def _structs(kind: inspect.Type) -> list[inspect.Type]:
    plain = _plain(kind)
    types = plain.types if isinstance(plain, inspect.UnionType) else (plain,)
    return [t for t in types if isinstance(t, inspect.StructType)]


def _check(value: object, kind: inspect.Type, path: KeyPath) -> list[Problem]:
    kind = _plain(kind)
    if isinstance(value, dict):
        structs = _structs(kind)
        if structs:
            return _check_table(value, structs, path)
        if isinstance(kind, inspect.DictType):
            return [p for k, v in value.items() for p in _check(v, kind.value_type, (*path, k))]
    elif isinstance(value, list):
        if isinstance(kind, inspect.VarTupleType):
            return [p for i, v in enumerate(value) for p in _check(v, kind.item_type, (*path, i))]
        if isinstance(kind, inspect.TupleType) and len(value) == len(kind.item_types):
            pairs = zip(value, kind.item_types, strict=True)
            return [p for i, (v, k) in enumerate(pairs) for p in _check(v, k, (*path, i))]
    elif _fits(value, kind):
        seconds = value if str(path[-1]).endswith("_s") and isinstance(value, (int, float)) else 0
        if 0 <= seconds <= _MAX_S:
            return []
        return [Problem(path, f"expected seconds, at least 0 and at most {_MAX_S:g}", value, True)]
    choices = [str(c) for c in _choices(kind)]
    hint = nearest(value, choices) if isinstance(value, str) else ""
    return [Problem(path, f"expected {describe(kind)}{hint}", value, True)]


def _check_table(value: Mapping[str, object], kinds: list[inspect.Type], path: KeyPath) -> list[Problem]:
    kind = kinds[0]
    assert isinstance(kind, inspect.StructType)
    if kind.tag_field is not None:
        tags = {str(k.tag): k for k in kinds if isinstance(k, inspect.StructType)}
        tag = value.get(kind.tag_field)
        expected = "expected one of " + ", ".join(show(t) for t in tags)
        if tag is None:
            return [Problem(path, f"{kind.tag_field} is missing: {expected}")]
        if not isinstance(tag, str) or tag not in tags:
            hint = nearest(str(tag), tags)
            return [Problem((*path, kind.tag_field), expected + hint, tag, True)]
        kind = tags[tag]
    fields = {f.encode_name: f for f in kind.fields}
    problems = []
    for key, item in value.items():
        if key in fields:
            problems += _check(item, fields[key].type, (*path, key))
        elif key != kind.tag_field:
            hint = f": {_HINTS[key]}" if key in _HINTS else nearest(key, fields)
            shown = None if _SECRET.search(key) else item
            problems.append(Problem((*path, key), f"unknown key{hint}", shown, shown is not None))
    meant = misspelt(value, fields)
    for name, field in fields.items():
        if field.required and name not in value and name not in meant:
            what = f"{name} is missing: expected {describe(field.type)}" if path else f"[{name}] is missing"
            problems.append(Problem(path, what, missing=name))
    return problems


def _fits(value: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.UnionType(types=types):
            return any(_fits(value, _plain(t)) for t in types)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _within(value, kind, _MAX_INT)
        case inspect.FloatType():
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            return number and _within(value, kind, sys.float_info.max)
        case inspect.StrType(min_length=low, max_length=high):
            return isinstance(value, str) and (low or 0) <= len(value) <= (high or len(value))
        case inspect.LiteralType() | inspect.EnumType():
            return any(value == c and type(value) is type(c) for c in _choices(kind))
        case inspect.CustomType(cls=cls) if cls is Fraction:
            return _is_rate(value)
        case inspect.CustomType():
            return isinstance(value, str) and value != "" and "\0" not in value
        case _:
            return False


def _within(value: Any, kind: inspect.IntType | inspect.FloatType, largest: float) -> bool:
    return (
        abs(value) <= largest  # not so for NaN
        and (kind.ge is None or value >= kind.ge)
        and (kind.gt is None or value > kind.gt)
        and (kind.le is None or value <= kind.le)
        and (kind.lt is None or value < kind.lt)
    )


def _choices(kind: inspect.Type) -> list[object]:
    match kind:
        case inspect.LiteralType(values=values):
            return list(values)
        case inspect.EnumType(cls=cls):
            return [m.value for m in cls]
        case inspect.UnionType(types=types):
            return [c for t in types for c in _choices(_plain(t))]
        case _:
            return []


def _is_rate(value: object) -> bool:
    try:
        rate = parse_rate(value)
    except ValueError:
        return False
    return max(rate.numerator, rate.denominator) <= _MAX_RATE_TERM
