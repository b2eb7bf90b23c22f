"""Is there enough data? Counted in effective windows, and said in samples and time. Pure."""

from __future__ import annotations

import math

from models.signal import NS_PER_S, WindowSpec

MIN_ROWS = 8  # below this no covariance, however shrunk, says anything
WARN_EFFECTIVE = 50.0
MIN_EFFECTIVE = 5.0


class FitError(ValueError):
    """A model cannot be fitted on these rows; the text says why and what would help."""


def require_enough(n_windows: int, n_effective: float, window: WindowSpec, step_ns: int) -> None:
    """Raises FitError below MIN_EFFECTIVE, saying how much more data it takes."""
    if n_effective >= MIN_EFFECTIVE:
        return
    raise FitError(
        f"{n_windows} windows of {window.n} samples are only {n_effective:.1f} effective ones, and a model "
        f"needs {MIN_EFFECTIVE:.0f}: record {more_data(window, step_ns, n_windows, n_effective, MIN_EFFECTIVE)} "
        "of healthy running, or choose a shorter --window"
    )


def more_data(window: WindowSpec, step_ns: int, n_windows: int, n_effective: float, wanted: float) -> str:
    """How much more signal gives ``wanted`` effective windows, in words."""
    least = MIN_ROWS * 2 + 2 * math.ceil(window.n / window.hop)
    per_effective = n_windows / n_effective if n_effective > 0 else window.overlap
    n_more = max(1, math.ceil(max(wanted * per_effective, least) - n_windows))
    seconds = n_more * step_ns / NS_PER_S
    return f"about {n_more * window.hop} more samples ({duration(seconds)})"


def duration(seconds: float) -> str:
    """``seconds`` for a person: "45 s", "12 min", "3.5 h", "2.1 days"."""
    for limit, unit, size in ((120, "s", 1.0), (7200, "min", 60.0), (172_800, "h", 3600.0)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 86_400:.3g} days"
