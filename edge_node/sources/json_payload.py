"""JSON payloads: rows and batches.

Strategy: the common batch, an object with one array of numbers per channel, goes through a typed decoder
that is built for its keys, and from there to an array without a Python object per row; whatever that
decoder refuses is decoded again without types and walked, which either understands it or says what is
wrong. The literals ``NaN`` and ``Infinity`` of encoders that do not keep to JSON are read as missing
values. This module is pure.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.sources.layout import (
    Layout,
    Refusal,
    TimeReader,
    Unreadable,
    number,
    rate_of,
    rate_of_period,
    shown,
    timed_block,
    uniform_block,
)
from edge_node.sources.payload_spec import PayloadSpec
from edge_node.sources.rows import Rows
from models.signal import SampleBlock

LayoutOf = Callable[[str | None], Layout]  # the layout of the device that a payload names; raises Unreadable

_NOT_JSON = re.compile(rb"(?<=[\[,:\s])[+-]?(?:nan|inf|infinity)(?=[\s,\]}])", re.IGNORECASE)
_DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_any = msgspec.json.Decoder()


class JsonPayload:
    """Decodes an object with a value, or an array of values, per channel; or an array of such objects."""

    def __init__(self, spec: PayloadSpec, times: TimeReader) -> None:
        self._spec = spec
        self._clock = spec.clock
        self._times = times
        self._typed: dict[tuple[str, ...], msgspec.json.Decoder[Any] | None] = {}
        self._expect_batch = True
        self._rate_key: tuple[object, ...] | None = None  # of the last batch: most carry the same rate
        self._last_rate = Fraction(1)

    def decode(
        self, payload: bytes, layout_of: LayoutOf, arrival_ns: int
    ) -> tuple[list[SampleBlock], list[Refusal]]:
        """Blocks, and what was refused. Raises Unreadable when nothing of the payload can be used."""
        if self._expect_batch and self._spec.device_key is None:
            block = self._fast(payload, layout_of(None), arrival_ns)
            if block is not None:
                return [block], []
        decoded = _decode_any(payload)
        items = decoded if isinstance(decoded, list) else [decoded]
        if not items:
            raise Unreadable("an empty array")
        blocks: list[SampleBlock] = []
        rows = Rows(arrival_ns, self._clock)
        for item in items:
            try:
                block = self._item(item, layout_of, arrival_ns, rows)
            except Unreadable as error:
                rows.refused.append(error.refusal)
            else:
                if block is not None:
                    blocks.append(block)
        self._expect_batch = bool(blocks) and not isinstance(decoded, list)
        return blocks + rows.blocks(), rows.refused

    def _fast(self, payload: bytes, layout: Layout, arrival_ns: int) -> SampleBlock | None:
        """The block of a flat, complete, uniform batch; None when it is anything else, or wrong."""
        try:
            decoder = self._typed[layout.keys]
        except KeyError:
            decoder = self._typed[layout.keys] = _typed_decoder(self._spec, layout.keys)
        if decoder is None:
            return None
        try:
            batch = decoder.decode(payload)
        except _DECODE_ERRORS:
            return None
        columns = msgspec.structs.astuple(batch)[: len(layout.keys)]
        n = len(columns[0])
        if n == 0:
            return None
        for column in columns:
            if len(column) != n:
                return None
        key = (layout, batch.rate, batch.period)
        if key != self._rate_key:
            self._rate_key, self._last_rate = key, self._rate(batch.rate, batch.period, layout)
        start = None if self._spec.time_key is None else self._times.value(batch.time)
        return uniform_block(layout, _stack(columns, n), start, self._last_rate, arrival_ns, self._clock)

    def _item(self, item: object, layout_of: LayoutOf, arrival_ns: int, rows: Rows) -> SampleBlock | None:
        """The block of a batch; None when ``item`` is a row, which is added to ``rows``."""
        spec = self._spec
        if not isinstance(item, dict):
            raise Unreadable(f"{shown(item)} in place of a JSON object")
        layout = layout_of(None if spec.device_key is None else self._device_name(item))
        at = None if spec.time_key is None else _required(item, spec.time_key, "time")
        if spec.rows_key is not None:
            return self._batch(item, layout, self._row_matrix(item, layout), at, arrival_ns)
        found = [(i, _find(item, key)) for i, key in enumerate(layout.keys)]
        found = [(i, value) for i, value in found if value is not msgspec.UNSET]
        if not found:
            raise Unreadable(f"no key of {', '.join(layout.keys)} among {_keys(item)}")
        present = tuple(i for i, _ in found)
        if any(isinstance(value, list) for _, value in found):
            part = layout if len(present) == len(layout.keys) else layout.subset(present)
            return self._batch(item, part, self._column_matrix(part, [v for _, v in found]), at, arrival_ns)
        values = [number(value, layout.keys[i], spec) for i, value in found]
        rows.add(layout, present, None if at is None else self._times.value(at), values)
        return None

    def _batch(
        self, item: dict[str, Any], layout: Layout, raw: NDArray[np.float64], at: object, arrival_ns: int
    ) -> SampleBlock:
        spec = self._spec
        if isinstance(at, list):
            if len(at) != len(raw):
                raise Unreadable(f"{len(at)} times for {len(raw)} rows")
            times = np.array([self._times.value(t) for t in at], dtype=np.int64)
            return timed_block(layout, raw, times, arrival_ns, self._clock)
        rate = self._rate(
            msgspec.UNSET if spec.rate_key is None else _find(item, spec.rate_key),
            msgspec.UNSET if spec.period_key is None else _find(item, spec.period_key),
            layout,
        )
        start = None if at is None else self._times.value(at)
        return uniform_block(layout, raw, start, rate, arrival_ns, self._clock)

    def _rate(self, rate: object, period: object, layout: Layout) -> Fraction:
        spec = self._spec
        if rate is not msgspec.UNSET:
            return rate_of(rate)
        if period is not msgspec.UNSET:
            return rate_of_period(period, spec.period_unit)
        if spec.rate_hz is not None:
            return spec.rate_hz
        if spec.rate_key is not None or spec.period_key is not None:
            raise Unreadable(f"no rate: no key {spec.rate_key or spec.period_key!r}")
        return layout.device.rate_hz

    def _column_matrix(self, layout: Layout, values: list[Any]) -> NDArray[np.float64]:
        """float64[n, c] of one array per channel."""
        columns = []
        for key, value in zip(layout.keys, values, strict=True):
            if not isinstance(value, list):
                raise Unreadable(f"{key} is {shown(value)}, expected an array of numbers")
            columns.append([number(v, key, self._spec) for v in value])
        lengths = {len(c) for c in columns}
        if len(lengths) > 1:
            text = ", ".join(f"{key} {len(c)}" for key, c in zip(layout.keys, columns, strict=True))
            raise Unreadable(f"arrays of different lengths: {text}")
        if lengths == {0}:
            raise Unreadable("the arrays are empty")
        return _stack(columns, len(columns[0]))

    def _row_matrix(self, item: dict[str, Any], layout: Layout) -> NDArray[np.float64]:
        """float64[n, c] of one array of rows."""
        assert self._spec.rows_key is not None
        key, n_channels = self._spec.rows_key, len(layout.keys)
        rows = _required(item, key, "rows")
        if not isinstance(rows, list) or not rows:
            raise Unreadable(f"{key} is {shown(rows)}, expected an array of rows")
        flat: list[float] = []
        for row in rows:
            if not isinstance(row, list) or len(row) != n_channels:
                given = f"{len(row)} values" if isinstance(row, list) else shown(row)
                raise Unreadable(f"a row has {given}, expected {n_channels}: {', '.join(layout.channels)}")
            flat += [number(v, key, self._spec) for v in row]
        return np.array(flat, dtype=np.float64).reshape(len(rows), n_channels)

    def _device_name(self, item: dict[str, Any]) -> str:
        assert self._spec.device_key is not None
        name = _required(item, self._spec.device_key, "device")
        if isinstance(name, bool) or not isinstance(name, (str, int)):
            raise Unreadable(f"{self._spec.device_key} is {shown(name)}, expected the device's name")
        return str(name)


def _decode_any(payload: bytes) -> Any:
    """``payload`` as builtins; NaN and infinity literals as None. Raises Unreadable."""
    try:
        return _any.decode(payload)
    except _DECODE_ERRORS as error:
        cleaned = _NOT_JSON.sub(b"null", payload)
        if cleaned == payload:
            raise Unreadable(f"not JSON: {error}") from None
    try:
        return _any.decode(cleaned)
    except _DECODE_ERRORS as error:
        raise Unreadable(f"not JSON: {error}") from None


def _find(item: dict[str, Any], key: str) -> Any:
    """The value at ``key`` or at the path it spells (``sensor.temp``); ``msgspec.UNSET`` when there is
    none."""
    if key in item:
        return item[key]
    value: Any = item
    for part in key.split("."):
        if not isinstance(value, dict) or part not in value:
            return msgspec.UNSET
        value = value[part]
    return value


def _required(item: dict[str, Any], key: str, what: str) -> Any:
    value = _find(item, key)
    if value is msgspec.UNSET:
        raise Unreadable(f"no {what}: no key {key!r} among {_keys(item)}")
    return value


def _keys(item: dict[str, Any]) -> str:
    return shown(", ".join(item))


def _typed_decoder(spec: PayloadSpec, keys: tuple[str, ...]) -> msgspec.json.Decoder[Any] | None:
    """A decoder of flat batches to structs whose first fields are lists of floats, one a key; None where the keys need
    a walk."""
    given = {"time": spec.time_key, "rate": spec.rate_key, "period": spec.period_key}
    outer = {name: key for name, key in given.items() if key is not None}
    wanted = [*keys, *outer.values()]
    if spec.rows_key is not None or any("." in k for k in wanted) or len(set(wanted)) < len(wanted):
        return None
    names = tuple(f"c{i}" for i in range(len(keys)))
    scalar = int | float | str
    fields: list[Any] = [(name, list[float]) for name in names]
    fields += [
        (name, scalar) if name == "time" else (name, scalar | msgspec.UnsetType, msgspec.UNSET)
        for name in outer
    ]
    namespace: dict[str, Any] = {name: msgspec.UNSET for name in given if name not in outer}
    rename = dict(zip(names, keys, strict=True)) | outer
    kind = msgspec.defstruct("Batch", fields, namespace=namespace, rename=rename, gc=False, kw_only=True)
    return msgspec.json.Decoder(kind)


def _stack(columns: Sequence[list[float]], n: int) -> NDArray[np.float64]:
    """float64[n, c] of one list per channel. ``struct`` fills an array from a list three times as fast as
    numpy."""
    flat: list[float] = []
    for column in columns:
        flat += column
    packed = struct.pack(f"{len(flat)}d", *flat)
    return np.frombuffer(packed, dtype=np.float64).reshape(len(columns), n).T
