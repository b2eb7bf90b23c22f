"""What can be said of a table with mistakes in it: the rest of it, so that one mistake hides no other.

A value that cannot be used, or that a misspelt key may have meant, becomes :data:`UNKNOWN`; everything else is what it
is. Whatever is asked of UNKNOWN raises :class:`NotKnown`, and the rule that asked says nothing more. So no rule needs to
know what it depends on, and none complains of what follows from another mistake. Only ``is`` cannot raise: rules ask
:func:`given` in place of ``is not None``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NoReturn, TypeGuard, TypeVar, Union, get_args, get_origin

import msgspec

from models.config_validation import Problem, Refused, convert, misspelt
from models.toml_positions import KeyPath

T = TypeVar("T")


class NotKnown(Exception):
    """A rule asked for a value that nobody knows."""


class Unknown:
    """The type of :data:`UNKNOWN`."""

    def _refuse(self, *_: object) -> NoReturn:
        raise NotKnown

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _refuse
    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __getattr__ = _refuse
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _refuse
    __float__ = __int__ = __index__ = __str__ = __format__ = __fspath__ = _refuse


UNKNOWN: Any = Unknown()


def known(*values: object) -> bool:
    """Whether none of ``values`` is UNKNOWN."""
    return not any(isinstance(value, Unknown) for value in values)


def sure(value: T) -> T:
    """``value``, for those who would take UNKNOWN for something else; raises NotKnown."""
    if not known(value):
        raise NotKnown
    return value


def given(value: T | None) -> TypeGuard[T]:
    """Whether something was given for ``value``; raises NotKnown."""
    return sure(value) is not None


def as_far_as_known(*rules: Iterable[Problem]) -> Iterator[Problem]:
    """What ``rules`` find, each until it asks for what is not known."""
    for rule in rules:
        try:
            for problem in rule:
                yield problem if known(problem.value) else replace(problem, value=None, shows_value=False)
        except NotKnown:
            continue


class Names(dict[str, tuple[str, ...]]):
    """Channel names by device id, UNKNOWN where some cannot be read. Where ``complete`` is False there may be devices
    of other names, too."""

    complete = True

    def __contains__(self, name: object) -> bool:
        if super().__contains__(name):
            return True
        if not self.complete:
            raise NotKnown
        return False


class Salvage:
    """Reads what is sound in a document in which ``problems`` were found; it notes there what it finds itself."""

    def __init__(self, problems: list[Problem], base: Path) -> None:
        self._problems = problems
        self._base = base

    def read(self, value: object, kind: Any, path: KeyPath, found: Iterable[Problem]) -> Any:
        """``value`` at ``path`` as ``kind``, in which ``found`` is wrong: UNKNOWN in its place, or within it. None
        stays."""
        if value is None:
            return None
        wrong = {(*p.path, p.missing) if p.missing else p.path for p in found}
        return self._read(value, kind, path, {at for at in wrong if at[: len(path)] == path})

    def _read(self, value: object, kind: Any, path: KeyPath, wrong: set[KeyPath]) -> Any:
        if path in wrong:
            return UNKNOWN
        within = {at for at in wrong if at[: len(path)] == path}
        if not within:
            try:
                return convert(value, kind, self._base, path)
            except Refused as refused:
                self._problems.append(refused.problem)
                return UNKNOWN
        kinds = _members(kind)
        if isinstance(value, dict):
            for struct in kinds:
                if (
                    isinstance(struct, type)
                    and issubclass(struct, msgspec.Struct)
                    and _has_tag(value, struct)
                ):
                    return self._read_struct(value, struct, path, within)
        if isinstance(value, list):
            for sequence in kinds:
                items = get_args(sequence)
                if get_origin(sequence) is tuple and items[1:] == (Ellipsis,):
                    return tuple(self._read(v, items[0], (*path, i), within) for i, v in enumerate(value))
        return UNKNOWN

    def _read_struct(
        self, table: Mapping[str, Any], struct: type[msgspec.Struct], path: KeyPath, wrong: set[KeyPath]
    ) -> Any:
        fields = msgspec.structs.fields(struct)
        meant = misspelt(table, [field.encode_name for field in fields])
        values: dict[str, Any] = {}
        for field in fields:
            key = field.encode_name
            if key in table:
                values[field.name] = self._read(table[key], field.type, (*path, key), wrong)
            elif key in meant or field.required:
                values[field.name] = UNKNOWN
        return struct(**values)


def _members(kind: Any) -> list[Any]:
    """The types that ``kind`` stands for."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _members(get_args(kind)[0])
    if origin in (Union, UnionType):
        return [member for part in get_args(kind) for member in _members(part)]
    return [kind]


def _has_tag(table: Mapping[str, Any], struct: type[msgspec.Struct]) -> bool:
    config = struct.__struct_config__
    return config.tag_field is None or table.get(config.tag_field) == config.tag
