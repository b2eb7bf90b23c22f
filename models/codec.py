"""JSON of our structs: msgspec, plus exact rates as ``"n/d"`` strings. One codec for manifests, state and logs."""

from __future__ import annotations

from fractions import Fraction
from typing import TypeVar

import msgspec
import numpy as np

T = TypeVar("T")


def encode(value: object) -> bytes:
    """Compact JSON of ``value``; struct fields in their order, so equal values are equal bytes."""
    return msgspec.json.encode(value, enc_hook=_to_builtin)


def decode(data: bytes, kind: type[T]) -> T:
    """``data`` as ``kind``. Raises msgspec.DecodeError / msgspec.ValidationError, which name the path."""
    return msgspec.json.decode(data, type=kind, dec_hook=_from_builtin)


def convert(value: object, kind: type[T]) -> T:
    """Builtins (from TOML) as ``kind``; raises msgspec.ValidationError, which names the path."""
    return msgspec.convert(value, type=kind, dec_hook=_from_builtin)


def plain_float(text: str) -> float:
    """The number that ``text`` writes in decimal digits (or as ``nan``, ``inf``), blanks around it aside. Raises
    ValueError, also for what only Python takes for a number: ``6_0``, digits of other scripts."""
    text = text.strip()
    if "_" in text or not text.isascii():
        raise ValueError(f"{text!r} is not a number")
    return float(text)


def parse_rate(value: object) -> Fraction:
    """A positive rate from ``"12800"``, ``"1/300"``, an int or a float (the nearest fraction below 1e6)."""
    if isinstance(value, bool) or not isinstance(value, (str, int, float, Fraction)):
        raise ValueError(f"a rate is a number or a string like '1/300', not {value!r}")
    try:
        # Through float, because Fraction("1e999999999") would compute all of its digits.
        if isinstance(value, str) and "e" in value.lower():
            value = float(value)
        rate = Fraction(value)
    except (ValueError, ZeroDivisionError, OverflowError):
        raise ValueError(f"{value!r} is not a rate: use a number or a fraction such as '1/300'") from None
    if isinstance(value, float):
        rate = rate.limit_denominator(1_000_000)
    if rate <= 0:
        raise ValueError(f"a rate must be positive, not {value!r}")
    return rate


def _to_builtin(value: object) -> object:
    if isinstance(value, Fraction):
        return str(value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def _from_builtin(kind: type, value: object) -> object:
    if kind is Fraction:
        return parse_rate(value)
    raise TypeError(f"no way to build {kind.__name__}")


def pack_state(value: object) -> bytes:
    """MessagePack of a state struct; numpy arrays keep dtype and shape, bit for bit."""
    return msgspec.msgpack.encode(value, enc_hook=_state_to_builtin)


def unpack_state(data: bytes, kind: type[T]) -> T:
    """The inverse of :func:`pack_state`. Raises msgspec.DecodeError / ValidationError when ``data`` is not of ``kind``."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_state_from_builtin)


def _state_to_builtin(value: object) -> object:
    if isinstance(value, np.ndarray):
        contiguous = np.ascontiguousarray(value)
        return [contiguous.dtype.str, list(value.shape), contiguous.tobytes()]
    return _to_builtin(value)


def _state_from_builtin(kind: type, value: object) -> object:
    # A parametrised NDArray reaches the hook as its origin, numpy.ndarray.
    if getattr(kind, "__origin__", kind) is np.ndarray:
        if not (isinstance(value, list) and len(value) == 3):
            raise ValueError("an array is [dtype, shape, bytes]")
        dtype, shape, raw = value
        return np.frombuffer(raw, dtype=np.dtype(dtype)).reshape(shape).copy()
    return _from_builtin(kind, value)
