"""Declared feature sets: windows float32[w, n, c] in, a feature matrix float32[w, k] out.

One code serves training, replay and the daemon. Invariant: a row is a function of its own window alone, bit
for bit; neither the number of windows in a call nor their neighbours show (:mod:`models.feature_kernels`).
Amplitudes are logarithms: their spread is then nearly Gaussian, and a fault, which multiplies, becomes a
shift. Every logarithm has a floor, added in quadrature: what a quiet channel cannot resolve is not "a
thousand times normal" when it first moves.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import codec, feature_kernels
from models.daily_profile import BINS, DAYS
from models.feature_kernels import learn_floors as learn_floors
from models.recentring import RecentringSpec
from models.running_range import DAYS_TO_KNOW, HALF_WIDTH, LEAST, MARGIN, STRETCH, WIDEST
from models.signal import Channel, WindowSpec

FeatureSet = Literal["slow", "vibration", "telemetry"]
FeatureKind = Literal["mean", "log_std", "last", "median", "log_band", "log_rms", "crest", "kurtosis", "peak"]

# The versions of each set that this release computes. A version is new when, and only when, golden outputs
# change.
VERSIONS: dict[FeatureSet, tuple[int, ...]] = {"slow": (1,), "vibration": (1,), "telemetry": (2,)}

# Units of vibration: what is measured in them wears, and a wear indicator is never re-centred.
WEAR_UNITS = frozenset(
    {"g", "mg", "m/s2", "m/s^2", "m/s²", "mm/s2", "mm/s^2", "mm/s²", "mm/s", "um/s", "µm/s", "in/s", "ips"}
)

# No healthy amplitude is assumed to vary by less than 5 % (as a log), so that a still one's first tremor is
# no fault.
_MIN_LOG_SCALE = 0.05
# Float64 work arrays of this many values (256 KB) stay in the cache.
_CHUNK_VALUES = 1 << 15


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which features: the set, its version and its parameters.

    ``n_fast`` (slow): the tail of the window that the fast features look at; no fast columns where it is 0
    or not shorter than the window. ``n_bands`` (vibration): linear bands from 0 to Nyquist. ``floors``: one
    amplitude floor per channel in its unit, from :func:`learn_floors`; empty for the resolution of float32
    itself.
    """

    set: FeatureSet
    version: int = 1
    n_fast: Annotated[int, msgspec.Meta(ge=0)] = 10
    n_bands: Annotated[int, msgspec.Meta(ge=1)] = 8
    floors: tuple[float, ...] = ()


class FeatureInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What one column of the feature matrix is.

    ``unit`` is that of the readable value (:func:`readable`), "" for a ratio. ``label`` fits into a sentence
    ("x vibration at 312-375 Hz"). ``log``: the column is a natural logarithm, so a difference d reads
    "exp(d) times normal". ``low_hz``, ``high_hz`` bound a band. ``fast``: over the tail of the window only.
    ``ranged``: it is judged by its place in the range of all that came before
    (:mod:`models.running_range`), which ``widens`` with it or not; ``daily``: less what is usual at its time of the day.
    """

    name: str
    channel: str
    kind: FeatureKind
    unit: str
    label: str
    recentred: bool
    log: bool
    low_hz: float | None = None
    high_hz: float | None = None
    fast: bool = False
    ranged: bool = False
    widens: bool = False
    daily: bool = False


def describe(
    spec: FeatureSpec, channels: Sequence[Channel], rate_hz: Fraction, n: int
) -> tuple[FeatureInfo, ...]:
    """The k columns of :func:`extract` over windows of ``n`` samples, in order: channel by channel.

    slow (x: the valid samples of the window; the ``_fast`` ones of its last ``n_fast``; f: the channel's
    floor)::

      mean       sum(x) / n                               in the channel's unit
      log_std    ln sqrt(mean((x - mean)^2) + f^2)        readable in the channel's unit
      last       the newest valid x                       in the channel's unit
      mean_fast, log_std_fast                             the same over the tail

    vibration (x less its mean over the window; X its DFT, no taper)::

      band_LOW_HIGHhz  ln sqrt(2/n^2 sum of |X|^2 over LOW <= f < HIGH, + f^2/n_bands): the RMS within the
      band
                                                          readable in the channel's unit
      log_rms    ln sqrt(mean(x^2) + f^2)                 readable in the channel's unit
      crest      ln sqrt((max(x^2) + f^2) / (mean(x^2) + f^2))        readable as peak / RMS
      kurtosis   ln (mean(y^4) / mean(y^2)^2), y = x + Gaussian noise of deviation f; readable: 3 if Gaussian
      peak       max|x|                                   in the channel's unit, not a logarithm

    telemetry (x as in slow)::

      last       the newest valid x                       in the channel's unit
      mean       sum(x) / n                               in the channel's unit
      median     of x                                     in the channel's unit
      daily      the newest valid x, once more            in the channel's unit

    The peak stays linear: a failing bearing multiplies it by ten, which its logarithm hides (worst of three
    bearings: ROC AUC 1.00 linear, .87 as a logarithm). A taper loses impacts near the ends of a window (up
    to .1 there).

    Telemetry is ranged: a new extreme is what it shows. A spike is one of the last value, bursts that come closer together
    are one of the mean, and a level that has shifted is one of the median, the range of which no spike has widened. The
    daily column is judged less what is usual at its time of the day. Ranges widen unless the channel is a wear indicator,
    which has no daily column either: its last value is there twice.
    Slow features are re-centred unless the channel is a wear indicator (``wear``, or a unit of vibration);
    vibration features never are. ValueError for an unknown version, or a window too short for the bands.
    """
    _check(spec, len(channels), n)
    if spec.set == "slow":
        return tuple(info for c in channels for info in _describe_slow(spec, c, rate_hz, n))
    if spec.set == "telemetry":
        return tuple(info for c in channels for info in _describe_telemetry(c))
    return tuple(info for c in channels for info in _describe_vibration(spec, c, rate_hz))


def schema_id(
    spec: FeatureSpec, channel_names: Sequence[str], window: WindowSpec, recentring: RecentringSpec | None
) -> str:
    """Sixteen hex digits of SHA-256 over all that decides what a feature row means: set and version, its
    parameters, the channels in order, window, hop, rate, mode, re-centring. Not over code: a version changes
    only with the outputs.

    ValueError where ``window.n_fast`` contradicts the slow set's own.
    """
    _check(spec, len(channel_names), window.n)
    if spec.set == "slow" and window.n_fast not in (0, spec.n_fast):
        raise ValueError(f"the window's n_fast is {window.n_fast}, the feature set's {spec.n_fast}")
    parameters: dict[str, float]
    if spec.set == "slow":
        parameters = {"n_fast": _n_fast(spec, window.n)}
    elif spec.set == "vibration":
        parameters = {"n_bands": spec.n_bands}
    else:
        parameters = {"margin": MARGIN, "stretch": STRETCH, "widest": WIDEST, "least": LEAST}
        parameters |= {"bins": BINS, "days": DAYS, "days_to_know": DAYS_TO_KNOW, "half_width": HALF_WIDTH}
    meaning = (
        (spec.set, spec.version, parameters, spec.floors),
        tuple(channel_names),
        (window.n, window.hop, window.rate_hz, window.mode),
        recentring,
    )
    return hashlib.sha256(codec.encode(meaning)).hexdigest()[:16]


def extract(
    spec: FeatureSpec, values: NDArray[np.float32], valid: NDArray[np.bool_] | None, rate_hz: Fraction
) -> NDArray[np.float32]:
    """Features float32[w, k] of windows ``values`` float32[w, n, c], ``valid`` bool[w, n, c] (None: all); see
    :func:`describe`.

    Invalid samples are left out of slow and telemetry statistics; in vibration the mean of the window's valid ones stands
    in for them. A fast window of which less than four fifths are valid takes the statistics of the whole one; a
    channel without a valid sample gives NaN. ``rate_hz`` names the bands and does not change the numbers. ValueError for shapes
    that do not agree, an unknown version, a window too short.
    """
    if values.ndim != 3 or (valid is not None and valid.shape != values.shape):
        shapes = f"values {values.shape}" + ("" if valid is None else f" and valid {valid.shape}")
        raise ValueError(f"{shapes} must be [windows, samples, channels]")
    return extract_pieces(spec, (values,), valid, rate_hz)


def extract_pieces(
    spec: FeatureSpec,
    pieces: Sequence[NDArray[np.float32]],
    valid: NDArray[np.bool_] | None,
    rate_hz: Fraction,
) -> NDArray[np.float32]:
    """What :func:`extract` gives for the windows of ``pieces``, one after the other: each float32[w, n, c] with the same n
    and c, of any strides. ``valid`` covers them all."""
    w = sum([len(piece) for piece in pieces])
    _, n, c = pieces[0].shape
    _check(spec, c, n)
    k = c * _n_per_channel(spec, n)
    out = np.empty((w, k), dtype=np.float32)
    step = max(1, _CHUNK_VALUES // max(1, n * c))
    step = max(1, -(-w // max(1, -(-w // step))))  # parts of about the same size
    series = _Series(pieces, n, c)
    for start in range(0, w, step):
        x = series.take(min(step, w - start))
        part = slice(start, start + len(x))
        ok = None
        if valid is not None and not valid[part].all():
            ok = np.ascontiguousarray(valid[part].transpose(0, 2, 1))
        if spec.set == "slow":
            columns = feature_kernels.slow(x, ok, spec.floors, _n_fast(spec, n))
        elif spec.set == "telemetry":
            columns = feature_kernels.telemetry(x, ok)
        else:
            columns = feature_kernels.vibration(x, ok, spec.floors, spec.n_bands)
        out[part] = columns.reshape(x.shape[0], k)
    return out


class _Series:
    """The windows of some arrays, copied once: into the order and the precision of the kernels."""

    def __init__(self, pieces: Sequence[NDArray[np.float32]], n: int, c: int) -> None:
        self._pieces, self._n, self._c = iter(pieces), n, c
        self._rest: NDArray[np.float32] | None = None

    def take(self, w: int) -> NDArray[np.float64]:
        """The next ``w``, float64[w, c, n]."""
        x = np.empty((w, self._c, self._n))
        done = 0
        while done < w:
            piece = next(self._pieces) if self._rest is None else self._rest
            m = min(len(piece), w - done)
            x[done : done + m] = piece[:m].transpose(0, 2, 1)
            self._rest = piece[m:] if m < len(piece) else None
            done += m
        return x


def readable(info: FeatureInfo, value: float, origin: float) -> float:
    """``value`` of the feature as a person reads it, in ``info.unit``: logarithms undone, the channel's
    ``origin`` added back to a mean or a last value."""
    if info.log:
        return math.exp(min(value, 700.0))
    return value + origin if info.kind in ("mean", "last", "median") else value


def min_scales(spec: FeatureSpec, n_channels: int, n: int) -> NDArray[np.float64]:
    """Per column, float64[k], the least spread to normalise by: the channel's floor for a value in its unit,
    5 % for a logarithm. Keeps a channel that stood still in training from scoring a change of its last digit
    as a fault."""
    per_channel = _n_per_channel(spec, n)
    result = np.full((n_channels, per_channel), _MIN_LOG_SCALE)
    if spec.set == "slow":
        linear = [i for i in (0, 2, 3) if i < per_channel]
    else:
        linear = [per_channel - 1] if spec.set == "vibration" else list(range(per_channel))
    result[:, linear] = np.asarray(spec.floors or (np.finfo(np.float32).tiny,))[:, None]
    return result.reshape(-1)


def _check(spec: FeatureSpec, c: int, n: int) -> None:
    if spec.version not in VERSIONS[spec.set]:
        known = ", ".join(map(str, VERSIONS[spec.set]))
        raise ValueError(
            f"feature set {spec.set} has no version {spec.version}; this release computes {known}"
        )
    if spec.floors and (len(spec.floors) != c or not all(0 < f < math.inf for f in spec.floors)):
        raise ValueError(f"floors must be {c} positive numbers, one a channel, not {spec.floors}")
    least = 2 * spec.n_bands + 1  # a frequency in every band, besides 0 Hz
    if spec.set == "vibration" and n < least:
        raise ValueError(f"{spec.n_bands} bands need a window of at least {least} samples, not {n}")


def _n_fast(spec: FeatureSpec, n: int) -> int:
    return spec.n_fast if spec.n_fast < n else 0


def _n_per_channel(spec: FeatureSpec, n: int) -> int:
    if spec.set == "slow":
        return 5 if _n_fast(spec, n) else 3
    return 4 if spec.set == "telemetry" else spec.n_bands + 4


def _describe_slow(spec: FeatureSpec, channel: Channel, rate_hz: Fraction, n: int) -> list[FeatureInfo]:
    recentred = not _wears(channel)

    def info(name: str, kind: FeatureKind, label: str, fast: bool = False) -> FeatureInfo:
        return FeatureInfo(
            name=f"{channel.name}.{name}",
            channel=channel.name,
            kind=kind,
            unit=channel.unit,
            label=f"{channel.name} {label}",
            recentred=recentred,
            log=kind == "log_std",
            fast=fast,
        )

    columns = [
        info("mean", "mean", "mean"),
        info("log_std", "log_std", "standard deviation"),
        info("last", "last", "value"),
    ]
    if n_fast := _n_fast(spec, n):
        over = f"over {float(n_fast / rate_hz):.4g} s"
        columns.append(info("mean_fast", "mean", f"mean {over}", fast=True))
        columns.append(info("log_std_fast", "log_std", f"standard deviation {over}", fast=True))
    return columns


def _describe_telemetry(channel: Channel) -> list[FeatureInfo]:
    widens = not _wears(channel)

    def info(name: str, kind: FeatureKind, label: str, daily: bool = False) -> FeatureInfo:
        return FeatureInfo(
            name=f"{channel.name}.{name}",
            channel=channel.name,
            kind=kind,
            unit=channel.unit,
            label=f"{channel.name} {label}".rstrip(),
            recentred=False,
            log=False,
            ranged=True,
            widens=widens,
            daily=daily,
        )

    return [
        info("last", "last", "value"),
        info("mean", "mean", "mean"),
        info("median", "median", "median"),
        info("daily", "last", "value", daily=widens),
    ]


def _wears(channel: Channel) -> bool:
    """Whether what it measures may never become its new normal by itself."""
    return channel.wear or channel.unit.strip().lower() in WEAR_UNITS


def _describe_vibration(spec: FeatureSpec, channel: Channel, rate_hz: Fraction) -> list[FeatureInfo]:
    def info(name: str, kind: FeatureKind, label: str, unit: str, log: bool = True) -> FeatureInfo:
        return FeatureInfo(
            name=f"{channel.name}.{name}",
            channel=channel.name,
            kind=kind,
            unit=unit,
            label=f"{channel.name} vibration {label}",
            recentred=False,
            log=log,
        )

    columns = []
    width = rate_hz / 2 / spec.n_bands
    for band in range(spec.n_bands):
        low, high = float(band * width), float((band + 1) * width)
        name, label = f"band_{_hz(low)}_{_hz(high)}hz", f"at {_hz(low)}-{_hz(high)} Hz"
        column = info(name, "log_band", label, channel.unit)
        columns.append(msgspec.structs.replace(column, low_hz=low, high_hz=high))
    columns.append(info("log_rms", "log_rms", "RMS", channel.unit))
    columns.append(info("crest", "crest", "crest factor", ""))
    columns.append(info("kurtosis", "kurtosis", "kurtosis", ""))
    columns.append(info("peak", "peak", "peak", channel.unit, log=False))
    return columns


def _hz(frequency: float) -> str:
    """Whole hertz from 100 Hz on, four significant digits below."""
    return f"{frequency:.0f}" if frequency >= 100 else f"{frequency:.4g}"
