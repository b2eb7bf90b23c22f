"""Numbers as people read them: rounded to what tells them apart, with a prefix where zeros would hide them,
durations in the unit that one would say. Pure."""

from __future__ import annotations

import math

from models.signal import NS_PER_S

# The prefixes that each unit is used with; a kilo-g would be read as a mass.
_PREFIXES = {
    **dict.fromkeys(("V", "A", "W", "Hz", "N", "J", "Pa", "VA", "var", "Ω"), "µmkM"),
    **dict.fromkeys(("m", "g", "s", "m/s", "m/s²", "m/s2", "m/s^2", "bar"), "µm"),
}
_POWERS = {"µ": -6, "m": -3, "k": 3, "M": 6}
_LONG, _SHORT = 1e4, 1e-2  # from here on a number is given a prefix


def quantity(value: float, unit: str) -> str:
    """``value`` with its unit, to three significant digits: "91.2 °C", "2.13 mg", "12400 rpm"."""
    factor, prefix = _prefix(value, unit)
    return _with_unit(significant(value * factor), prefix + unit)


def compared(observed: float, low: float, high: float, unit: str) -> tuple[str, str]:
    """``observed`` with its unit, and the range beside it: ("2.31 bar", "2.9 to 3.1"), ("101.26 kPa",
    "101.31 to 101.35"). Digits enough to tell the range's ends apart, and what was observed from them."""
    factor, prefix = _prefix(max(abs(observed), abs(low), abs(high)), unit)
    seen, low, high = observed * factor, low * factor, high * factor
    width = high - low
    places = _places(width if width > 0 else max(abs(low), abs(high)))
    while places > 0 and all(round(v, places) == round(v, places - 1) for v in (low, high)):
        places -= 1
    away = max(low - seen, seen - high)
    needed = min(_places(away if away > 0 else width), max(places, 0) + 4)
    needed = max(needed, _places(abs(seen)) + 1)
    ends = f"{_fixed(low, places)} to {_fixed(high, places)}"
    return _with_unit(_stripped(_fixed(seen, needed)), prefix + unit), ends


def against(observed: float, bound: float, unit: str) -> tuple[str, str]:
    """``observed`` and a ``bound`` that someone chose, both with the unit it was chosen in: ("91.2 °C",
    "85 °C"), ("85.04 °C", "85 °C")."""
    places = max(_places(abs(observed - bound)), _places(abs(observed)) + 1)
    return _with_unit(_stripped(_fixed(observed, places)), unit), _with_unit(f"{bound:.10g}", unit)


def times_normal(ratio: float) -> str:
    """ "3.1 times normal", "40 % of normal"."""
    if ratio > 1000.0:
        return "more than 1000 times normal"
    if ratio >= 1.0:
        number = f"{ratio:.0f}" if ratio >= 10.0 else significant(ratio, 2 if ratio >= 1.1 else 3)
        return f"{number} times normal"
    if ratio < 0.001:
        return "less than 0.1 % of normal"
    return f"{significant(100.0 * ratio, 2 if ratio < 0.95 else 3)} % of normal"


def duration(ns: int) -> str:
    """A duration as people say it: "0.1 s", "60 s", "4 min", "2 h", "2 h 20 min", "3 days". A negative one
    (of a clock that was set back) is none."""
    seconds = max(ns, 0) / NS_PER_S
    if seconds < 10.0:
        return f"{significant(seconds, 2)} s"
    if seconds < 119.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60.0)
    if minutes < 100:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 10:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    if hours < 48:
        return f"{round(minutes / 60)} h"
    days = seconds / 86_400
    return f"{significant(days, 2) if days < 10 else round(days)} days"


def significant(value: float, digits: int = 3) -> str:
    """``value`` to ``digits`` significant digits, without an exponent where a person would not use one."""
    size = abs(value)
    if size >= 1e7 or 0.0 < size < 1e-4 or not math.isfinite(value):
        return f"{value:.{digits - 1}e}"
    return _stripped(_fixed(value, _places(size) - 2 + digits if size > 0 else 0))


def size(n_bytes: float) -> str:
    """``n_bytes`` for people: "3.1 KB", "12 MB"."""
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if n_bytes < 999.5:
            break
        n_bytes, unit = n_bytes / 1000, larger
    return f"{n_bytes:.0f} {unit}" if n_bytes >= 9.95 or unit == "B" else f"{n_bytes:.1f} {unit}"


def _places(size: float) -> int:
    """Decimal places that show two significant digits of ``size``; negative ones stand before the point."""
    if not (0.0 < size < math.inf):
        return 0
    return 1 - math.floor(math.log10(size))


def _fixed(value: float, places: int) -> str:
    rounded = round(value, places) + 0.0  # no "-0"
    return f"{rounded:.{min(max(places, 0), 12)}f}"


def _stripped(number: str) -> str:
    return number.rstrip("0").rstrip(".") if "." in number else number


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}".rstrip()


def _prefix(value: float, unit: str) -> tuple[float, str]:
    """What to multiply with, and the prefix to say so: the least that leaves 1 to 999, where there is one."""
    size = abs(value)
    allowed = _PREFIXES.get(unit, "")
    if size == 0.0 or _SHORT <= size < _LONG or not math.isfinite(size):
        return 1.0, ""
    fitting = [p for p in allowed if (_POWERS[p] > 0) == (size >= _LONG)]
    if not fitting:
        return 1.0, ""
    best = min(fitting, key=lambda p: abs(math.log10(size) - _POWERS[p] - 1.0))
    return 10.0 ** -_POWERS[best], best
