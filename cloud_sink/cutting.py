"""How a recording is cut into windows: the device it shows, the lengths, the windows themselves.

What was not asked for is found by looking at the recording. Windows come from the gateway's own windowing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from cloud_sink.records import Records
from models.acceptance import Acceptance
from models.commissioning import USUAL_WINDOWS
from models.features import FeatureSet
from models.labels import Labels
from models.logs import LogInfo, LogOptions, Tick, Warn
from models.recording import inspect_log, log_files, read_log, recorded_devices
from models.signal import NS_PER_S, Channel, Device, Mode, SampleBlock, WindowBatch, WindowSpec, samples_to_ns
from models.time_policy import RecordedDevice, TimePolicy, default_policy
from models.windowing import Windower

_INTERVAL_ROWS = 20_000  # looked at to learn how far apart values usually are
MAX_BATCH_VALUES = 1 << 22  # of the windows cut from one push: 16 MB as float32

SLOW_WINDOW, _ = USUAL_WINDOWS["slow"]

Progress = Callable[[int], None]


class DatasetError(Exception):
    """A recording that a model cannot be trained on; the text says what, where and what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """What to read and how to cut it. ``n``, ``hop``, ``mode`` and ``device`` None: found by looking at the
    recording.

    Trained on are the first ``n_rows`` rows with ``from_ns`` <= event time < ``until_ns``, less the intervals
    of ``exclude``. ``labels`` mark anomalies and test the finished model. A part that is named is taken at
    its word to be healthy; of a whole recording the anomalies are left out. ``units`` (by channel), ``wear``
    and the options' origins add to, or take the place of, what a recording of ours says of its device.
    ``floors``: amplitude floors by channel, in the order of the recording's; None: learned from it. ``active_when`` and
    ``settle_s`` say when its machine runs ("": always); None: as the recording says.
    """

    logs: tuple[Path, ...]
    options: LogOptions
    feature_set: FeatureSet
    n: int | None = None
    hop: int | None = None
    n_fast: int = 10
    floors: tuple[float, ...] | None = None
    mode: Mode | None = None
    device: str | None = None
    n_rows: int | None = None
    from_ns: int | None = None
    until_ns: int | None = None
    exclude: tuple[Labels, ...] = ()
    labels: Labels | None = None
    units: Mapping[str, str] = field(default_factory=dict)
    wear: frozenset[str] = frozenset()  # channels that are wear indicators: never re-centred
    active_when: str | None = None  # "device.channel > value", or "channel > value" of its own
    settle_s: float | None = None

    @property
    def names_a_part(self) -> bool:
        """Whether the part to train on was named, and is not the whole recording."""
        return (self.n_rows, self.from_ns, self.until_ns) != (None, None, None)


def shape(request: Request) -> tuple[Device, WindowSpec]:
    """The device and how it is cut into windows: as asked for, else as the recording says, else as it
    looks."""
    info = inspect_log(request.logs[0], request.options, device=request.device)
    known = recorded_by_id(request)
    device_id = _device_id(request, info, known)
    if not info.n_rows_seen and not info.device_ids:
        raise DatasetError(f"{info.path}: holds no rows")
    recorded = known.get(device_id)
    mode = request.mode or (recorded.mode if recorded else info.mode)
    rate_hz = request.options.rate_hz or (recorded.rate_hz if recorded else info.rate_hz)
    names, record = info.channels, 0
    if info.device_ids != (device_id,) or mode is Mode.BURST:
        names, record = _scan(request, device_id, rate_hz or Fraction(1))
    if rate_hz is None:
        raise DatasetError(
            f"{info.path}: no sampling rate can be told from the times: give it with --rate-hz"
        )
    if not names:
        raise DatasetError(f"{info.path}: no channel of device {device_id} in it")
    seen = tuple(Channel(name=name) for name in names)
    device = recorded or Device(device_id=device_id, machine=device_id, channels=seen)
    device = msgspec.structs.replace(
        device, mode=mode, rate_hz=rate_hz, channels=_channels(request, device, recorded is not None)
    )
    n, hop = _lengths(request, mode, record)
    if n < 2:
        raise DatasetError(
            f"{info.path}: where a burst ends cannot be told from the times: give --rate-hz, and --window with the number "
            "of samples in a burst; or leave --mode burst out"
        )
    n_fast = request.n_fast if request.feature_set == "slow" and request.n_fast < n else 0
    return device, WindowSpec(n=n, hop=hop, rate_hz=rate_hz, mode=mode, n_fast=n_fast)


def recorded_by_id(request: Request) -> dict[str, RecordedDevice]:
    """What the recordings say of their devices, by id. DatasetError where they contradict each other."""
    found: dict[str, tuple[RecordedDevice, Path]] = {}
    for log in log_files(request.logs):
        for device in recorded_devices(log):
            first, other = found.setdefault(device.device_id, (device, log))
            if _signal(first) != _signal(device) and request.device in (None, device.device_id):
                raise DatasetError(
                    f"{device.device_id} is another signal in {log} than in {other} (mode, rate, time, or a channel's "
                    "unit, origin or wear flag): train on recordings of one configuration"
                )
            if request.active_when is None and request.device in (None, device.device_id):
                _check_gates(first, device, log, other)
    return {device_id: device for device_id, (device, _) in found.items()}


def _check_gates(first: RecordedDevice, device: RecordedDevice, log: Path, other: Path) -> None:
    """DatasetError where two recordings disagree on when the machine runs."""
    if first.gate != device.gate:
        here, there = ("always" if d.gate is None else f"while {d.gate.text}" for d in (device, first))
        raise DatasetError(
            f"{device.device_id} counts as running {here} in {log}, and {there} in {other}: say which holds with "
            '--active-when ("" for always)'
        )


def _signal(device: RecordedDevice) -> tuple[object, ...]:
    """What a model depends on."""
    channels = sorted((c.name, c.unit, c.origin, c.wear) for c in device.channels)
    return (
        device.mode,
        device.rate_hz,
        channels,
        device.time.hold_s,
        device.time.jitter_s,
        device.time.min_valid,
    )


def _channels(request: Request, device: Device, is_recorded: bool) -> tuple[Channel, ...]:
    """The device's channels with the units, origins and wear flags that were asked for."""
    origins = request.options.origins
    for option, names in (("--unit", request.units), ("--wear", request.wear), ("--origin", origins)):
        unknown = sorted(set(names) - set(device.channel_names))
        if unknown:
            raise DatasetError(
                f"{option} names {unknown[0]!r}, which is no channel of {device.device_id}: "
                f"{', '.join(device.channel_names)}"
            )
    for channel in device.channels:
        if is_recorded and origins.get(channel.name, channel.origin) != channel.origin:
            raise DatasetError(
                f"--origin {channel.name}={origins[channel.name]:g}: the recording's values have the origin "
                f"{channel.origin:g} subtracted: leave the option out"
            )
    return tuple(
        msgspec.structs.replace(
            channel,
            unit=request.units.get(channel.name, channel.unit),
            origin=origins.get(channel.name, channel.origin),
            wear=channel.wear or channel.name in request.wear,
        )
        for channel in device.channels
    )


def _lengths(request: Request, mode: Mode, record: int) -> tuple[int, int]:
    n, hop = USUAL_WINDOWS[request.feature_set]
    if request.feature_set == "vibration" and mode is Mode.BURST:
        n = hop = record
    if request.n is not None:
        n = request.n
        hop = min(hop, n)
    return n, request.hop or hop


def _device_id(request: Request, info: LogInfo, known: Iterable[str]) -> str:
    if request.device is not None:
        return request.device
    # Those seen are of the log's first part only: a quiet device may come later.
    devices = list(dict.fromkeys((*info.device_ids, *known)))
    if len(devices) == 1:
        return devices[0]
    if not devices:
        raise DatasetError(f"{info.path}: holds no rows")
    names = ", ".join(devices)
    raise DatasetError(f"{info.path} holds {len(devices)} devices: choose one with --device: {names}")


def _scan(request: Request, device_id: str, rate_hz: Fraction) -> tuple[tuple[str, ...], int]:
    """(channels of the device that have values, in order of appearance, rows that its records usually have)."""
    channels: dict[str, None] = {}
    records = Records(rate_hz)
    seen: Counter[str] = Counter()
    for item in read_log(request.logs, request.options, warn=lambda _: None):
        if not isinstance(item, SampleBlock):
            continue
        seen[item.device_id] += 1
        if item.device_id != device_id:
            continue
        channels.update(dict.fromkeys(item.without_empty(()).channels))
        records.add(item)
        if seen[device_id] >= 1000:
            break
    if not channels:
        raise DatasetError(
            f"{request.logs[0]}: no device {device_id!r} in it, only {', '.join(sorted(seen)) or 'ticks'}"
        )
    return tuple(channels), records.usual()


def read_blocks(
    request: Request, device: Device, warn: Warn, progress: Progress
) -> Iterator[SampleBlock | Tick]:
    for item in read_log(request.logs, request.options, warn=warn):
        if isinstance(item, SampleBlock):
            if item.device_id != device.device_id:
                continue
            progress(item.n)
            item = item.without_empty(device.channel_names)
        if not isinstance(item, Acceptance):  # training finds the centre by itself
            yield item


def usual_policy(request: Request, device: Device, window: WindowSpec) -> TimePolicy:
    """How time is treated where the recording's configuration does not say: so that every window of a machine that is
    well means what those of training mean, also where the network is not.

    A spectrum bears no hole, so windows of vibration need every sample. A value stands in for those that do not come no
    longer than is usual in the recording (99 of 100 intervals): held for longer, it looks like a still signal.
    """
    policy = default_policy(window)
    if request.feature_set == "vibration":
        policy = msgspec.structs.replace(policy, min_valid=1.0)
    if window.mode is Mode.IRREGULAR:
        cells = min(_usual_interval(request, device, window) - 1, window.n // 2)
        policy = msgspec.structs.replace(policy, hold_s=cells * float(1 / window.rate_hz))
    return policy


def _usual_interval(request: Request, device: Device, window: WindowSpec) -> int:
    """Cells of the grid from value to value of the slowest channel, which 99 of 100 do not exceed, over the first rows of
    the recording; at least 1."""
    place = {name: i for i, name in enumerate(device.channel_names)}
    seen: list[list[NDArray[np.int64]]] = [[] for _ in place]
    n_rows = 0
    for item in read_blocks(request, device, lambda _: None, lambda _: None):
        if not isinstance(item, SampleBlock) or not item.n:
            continue
        times = item.times()
        cells = times // NS_PER_S * window.rate_hz.numerator // window.rate_hz.denominator
        cells += times % NS_PER_S * window.rate_hz.numerator // (NS_PER_S * window.rate_hz.denominator)
        for j, name in enumerate(item.channels):
            if name in place:
                seen[place[name]].append(cells[np.isfinite(item.values[:, j])])
        n_rows += item.n
        if n_rows >= _INTERVAL_ROWS:
            break
    usual = 1
    for found in seen:
        steps = np.diff(np.unique(np.concatenate(found))) if found else np.zeros(0, np.int64)
        if steps.size:
            usual = max(usual, math.ceil(np.quantile(steps, 0.99)))
    return usual


def windower_for(device: Device, window: WindowSpec, usual: TimePolicy) -> Windower:
    # Waiting costs training nothing, so samples may be as late as a slow network brings them, and as old as
    # they are.
    policy = usual
    if isinstance(device, RecordedDevice):
        policy = device.time.over(policy)
    patience_s = max(60.0, policy.lateness_s)
    policy = msgspec.structs.replace(policy, lateness_s=patience_s, stale_after_s=patience_s, max_age_s=None)
    return Windower(device, window, policy)


def windows(
    windower: Windower, window: WindowSpec, items: Iterable[SampleBlock | Tick]
) -> Iterator[WindowBatch]:
    """Closed windows of ``items``, pushed in pieces so small that their windows fit in memory; then those
    left open whose end the recording has reached."""
    for item in items:
        if isinstance(item, Tick):
            windower.advance(item.now_ns)
        else:
            n_channels = max(1, len(item.channels))
            step = max(window.hop, MAX_BATCH_VALUES * window.hop // (window.n * n_channels))
            for start in range(0, item.n, step):
                windower.push(item.slice(start, min(item.n, start + step)))
                yield from windower.take()
        yield from windower.take()
    if windower.last_arrival_ns is not None:
        patience_ns = round(windower.policy.lateness_s * NS_PER_S)
        windower.advance(windower.last_arrival_ns + patience_ns + samples_to_ns(1, window.rate_hz))
        yield from windower.take()
