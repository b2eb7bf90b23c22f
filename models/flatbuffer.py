"""A bounds-checked reader of FlatBuffers, for files that nobody vouches for.

Every offset, vtable, vector and string is checked against the file's length before it is followed, every
scalar against its alignment, every vector against the largest count its schema allows; a field that the
schema does not name is refused. So what comes back is a tree of plain values, and any input at all ends
either in that tree or in :class:`Malformed`.

Format: https://flatbuffers.dev/internals (32-bit little-endian offsets; a table begins with the signed
distance back to its vtable). This module is pure and knows nothing of TFLite.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

MAX_STRING = 4096

_SCALARS = {
    "bool": struct.Struct("<B"),
    "i8": struct.Struct("<b"),
    "u8": struct.Struct("<B"),
    "i32": struct.Struct("<i"),
    "u32": struct.Struct("<I"),
    "i64": struct.Struct("<q"),
    "u64": struct.Struct("<Q"),
    "f32": struct.Struct("<f"),
}
_U16 = struct.Struct("<H")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")


class Malformed(ValueError):
    """Bytes that are no FlatBuffer of the expected schema; the text says where."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a table: ``kind`` is a scalar ("i32"), "string", "bytes", "union", a vector of scalars
    ("[i32]"), a table ("Tensor") or a vector of tables ("[Tensor]"). ``most`` bounds the elements of a
    vector.
    """

    name: str
    kind: str
    default: int = 0
    most: int = 4096


@dataclass(frozen=True, slots=True)
class Span:
    """Where bytes of the file lie: ``[start, start + length)``."""

    start: int
    length: int


Schema = Mapping[str, tuple[Field, ...]]
Table = dict[str, Any]


class Reader:
    """Reads tables of ``schema`` from ``data``."""

    def __init__(self, data: bytes, schema: Schema) -> None:
        self._data = data
        self._schema = schema

    def root(self, table: str) -> Table:
        """The root table; Malformed when anything reachable from it leaves the file."""
        return self.table(self._offset(0, "root"), table, table)

    def table(self, at: int, kind: str, path: str) -> Table:
        """The table of schema ``kind`` at ``at``: field name -> value, absent fields as their default or
        None.

        A "bytes" vector is returned as a :class:`Span`, a "union" as the position of its table (None where
        absent).
        """
        fields = self._schema[kind]
        vtable = at - self._read(_I32, at, path)
        vtable_size = self._read(_U16, vtable, path)
        table_size = self._read(_U16, vtable + 2, path)
        if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > len(self._data):
            raise Malformed(f"{path}: a vtable of {vtable_size} bytes at {vtable} does not fit")
        if table_size < 4 or at + table_size > len(self._data):
            raise Malformed(f"{path}: a table of {table_size} bytes at {at} does not fit")
        values: Table = {f.name: f.default if f.kind in _SCALARS else None for f in fields}
        for i in range((vtable_size - 4) // 2):
            offset = self._read(_U16, vtable + 4 + 2 * i, path)
            if offset == 0:
                continue
            if i >= len(fields):
                raise Malformed(f"{path}: field {i} is unknown")
            field = fields[i]
            size = _SCALARS[field.kind].size if field.kind in _SCALARS else 4
            if offset < 4 or offset + size > table_size:
                raise Malformed(f"{path}.{field.name} lies outside its table")
            values[field.name] = self._value(at + offset, field, f"{path}.{field.name}")
        return values

    def _value(self, at: int, field: Field, path: str) -> Any:
        kind = field.kind
        if kind in _SCALARS:
            return self._read(_SCALARS[kind], at, path)
        target = self._offset(at, path)
        if kind == "union":
            return target
        if kind == "string":
            return self._string(target, path)
        if kind == "bytes":
            return Span(target + 4, self._count(target, 1, len(self._data), path))
        if not kind.startswith("["):
            return self.table(target, kind, path)
        element = kind[1:-1]
        if element in _SCALARS:
            scalar = _SCALARS[element]
            n = self._count(target, scalar.size, field.most, path)
            if n and (target + 4) % scalar.size:
                raise Malformed(f"{path} is not aligned to {scalar.size} bytes")
            return struct.unpack_from(f"<{n}{scalar.format[-1]}", self._data, target + 4)
        n = self._count(target, 4, field.most, path)
        places = [target + 4 + 4 * i for i in range(n)]
        return [
            self.table(self._offset(p, f"{path}[{i}]"), element, f"{path}[{i}]") for i, p in enumerate(places)
        ]

    def _string(self, at: int, path: str) -> str:
        n = self._count(at, 1, MAX_STRING, path)
        end = at + 4 + n
        # Runtimes hand the C string on, so the terminator matters as much as the length.
        if end >= len(self._data) or self._data[end] != 0:
            raise Malformed(f"{path} is not terminated")
        try:
            return self._data[at + 4 : end].decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed(f"{path} is not UTF-8") from None

    def _count(self, at: int, size: int, most: int, path: str) -> int:
        n = int(self._read(_U32, at, path))
        if n > most:
            raise Malformed(f"{path} has {n} elements, more than {most}")
        if at + 4 + n * size > len(self._data):
            raise Malformed(f"{path} runs past the end of the file")
        return n

    def _offset(self, at: int, path: str) -> int:
        return at + int(self._read(_U32, at, path))

    def _read(self, scalar: struct.Struct, at: int, path: str) -> int:
        if at < 0 or at + scalar.size > len(self._data):
            raise Malformed(f"{path} points outside the file (byte {at})")
        if at % scalar.size:
            raise Malformed(f"{path} is not aligned (byte {at})")
        value: int = scalar.unpack_from(self._data, at)[0]
        return value
