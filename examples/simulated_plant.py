"""A small factory as a function of time: what its sensors read, and what goes wrong when.

Three machines, each with a vibration board (1 kHz, three axes) and process sensors (one row a second). Time is in
seconds since the plant began; every second of every sensor can be computed by itself, and always reads the
same: the noise of a second is seeded by the sensor and the second. Faults are an argument, so a plant without
them is the same plant up to the moment each one begins. A fourth machine has a board on a serial line, which the
simulator of the bridge plays: :data:`BOARD` says what it is. :data:`FLEET` are machines of one class, for `make demo`. Pure.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import NDArray

VIBRATION_HZ = 1000
AXES = ("x", "y", "z")
RADIAL = np.array([1.0, 0.8, 0.1])  # how far x, y, z point across the shaft, where unbalance pulls
STANDARD_GRAVITY = 9.80665  # m/s²

Series = NDArray[np.float64]
Format = Literal["packed", "json", "influx"]


class FaultKind(StrEnum):
    """What may go wrong; ``severity`` is a fault's growth from 0 to 1."""

    IMBALANCE = "imbalance"  # the shaft's own frequency grows, across the shaft, to 4 times what it was
    BEARING = "bearing"  # a spall on the outer race: an impact at every rolling element ringing the housing
    OVERHEATING = "overheating"  # the channel rises by up to 32 units
    STUCK = "stuck"  # the channel goes on reading what it read when the fault began
    SILENT = "silent"  # nothing is sent


@dataclass(frozen=True, slots=True)
class Fault:
    """``kind`` befalls ``device`` at ``start_s``, is fully grown ``growth_s`` later, and is repaired at ``end_s``.
    ``channel`` is the one that is hit, where it is one."""

    kind: FaultKind
    device: str
    start_s: float
    growth_s: float = 0.0
    end_s: float | None = None  # None: never
    channel: str = ""

    def lasts(self, second: float) -> bool:
        """Whether it is there at ``second``."""
        return self.start_s <= second < (math.inf if self.end_s is None else self.end_s)

    def severity(self, t: Series) -> Series:
        """0 (sound) to 1 at times ``t``, any shape."""
        grown = (t - self.start_s) / self.growth_s if self.growth_s else np.ones_like(t)
        hit = (t >= self.start_s) & (t < (math.inf if self.end_s is None else self.end_s))
        return np.where(hit, np.clip(grown, 0.0, 1.0), 0.0)


@dataclass(frozen=True, slots=True)
class VibrationBoard:
    """An accelerometer on a rotating machine, m/s². ``harmonics`` are the amplitudes at 1, 2, 3 times ``shaft_hz``; ``passing``
    is (frequency as a multiple of the shaft's, amplitude) of blades or gear teeth."""

    device: str
    machine: str
    shaft_hz: float
    harmonics: tuple[float, float, float]
    passing: tuple[int, float]
    noise: float
    outer_race: float = 3.58  # rolling elements passing a point of the outer race, per turn
    housing_hz: float = 390.0  # what the housing rings at
    format: Format = "json"
    rate_hz: int = VIBRATION_HZ
    channels: tuple[str, ...] = AXES  # the first ones of AXES
    swing: float = 0.06  # by which share amplitudes follow the machine's load


@dataclass(frozen=True, slots=True)
class Gauge:
    """One process value: ``level`` plus ``load`` times the machine's load (about -1 to 1), ``lag_s`` after it, and noise;
    read in steps of ``step``."""

    channel: str
    level: float
    load: float
    noise: float
    lag_s: float = 0.0
    step: float = 0.1


@dataclass(frozen=True, slots=True)
class ProcessSensors:
    """The gauges of one machine, read together once a second."""

    device: str
    machine: str
    gauges: tuple[Gauge, ...]
    format: Format = "json"
    rate_hz: int = 1

    @property
    def channels(self) -> tuple[str, ...]:
        return tuple(gauge.channel for gauge in self.gauges)


Sensor = VibrationBoard | ProcessSensors

PLANT: tuple[Sensor, ...] = (
    VibrationBoard(
        "press-1-vibration", "press-1", 24.7, (0.9, 0.35, 0.15), (9, 0.4), noise=0.35, format="packed"
    ),
    VibrationBoard("pump-2-vibration", "pump-2", 48.6, (0.7, 0.3, 0.1), (5, 0.6), noise=0.3),
    VibrationBoard("fan-3-vibration", "fan-3", 16.2, (0.8, 0.2, 0.1), (7, 0.3), noise=0.25),
    ProcessSensors(
        "press-1-process",
        "press-1",
        (
            Gauge("bearing temperature", 61.0, 0.5, 0.08, lag_s=9.0),
            Gauge("oil temperature", 47.0, 0.4, 0.08, lag_s=14.0),
            Gauge("pressure", 182.0, 6.0, 0.8),
            Gauge("current", 31.0, 3.0, 0.3),
        ),
    ),
    ProcessSensors(
        "pump-2-process",
        "pump-2",
        (
            Gauge("bearing temperature", 54.0, 0.4, 0.08, lag_s=11.0),
            Gauge("pressure", 6.2, 0.25, 0.03, step=0.01),
            Gauge("flow", 84.0, 4.0, 0.6),
        ),
    ),
    ProcessSensors(
        "fan-3-process",
        "fan-3",
        (
            Gauge("motor temperature", 58.0, 0.5, 0.08, lag_s=12.0),
            Gauge("current", 12.4, 0.8, 0.1, step=0.01),
        ),
        format="influx",
    ),
)


def _blower(number: int, shaft_hz: float, size: float) -> VibrationBoard:
    return VibrationBoard(
        f"blower-{number}", f"blower-{number}", shaft_hz, (0.8 * size, 0.2 * size, 0.1 * size), (7, 0.3 * size), noise=0.25,
        format="packed", channels=AXES[:1],
    )  # fmt: skip


# Six blowers of one class, nearly alike, with an accelerometer of one axis each: what `make demo` has several gateways watch.
FLEET = (
    _blower(1, 16.2, 1.0),
    _blower(2, 16.4, 1.02),
    _blower(3, 16.0, 0.98),
    _blower(4, 16.3, 1.01),
    _blower(5, 16.1, 0.99),
    _blower(6, 16.2, 1.03),
)


@dataclass(frozen=True, slots=True)
class SerialBoard:
    """A vibration board on a serial line, which ``firmware-bridge simulate`` plays; always in real time, for its clock is a
    clock."""

    device: str
    machine: str
    serial: str
    rate_hz: int

    @property
    def channels(self) -> tuple[str, ...]:
        return AXES


BOARD = SerialBoard("compressor-4-vibration", "compressor-4", "COMP-0004", 6400)


class Plant:
    """The sensors of ``sensors`` with ``faults``; ``seed`` makes another day of it: other noise, and boards that see another
    load."""

    def __init__(
        self, faults: Sequence[Fault] = (), sensors: Sequence[Sensor] = PLANT, seed: int = 0
    ) -> None:
        self.sensors = tuple(sensors)
        self.faults = tuple(faults)
        self._seed = seed
        self._faults_of = {
            sensor.device: tuple(f for f in faults if f.device == sensor.device) for sensor in sensors
        }

    def second(self, sensor: Sensor, second: int) -> NDArray[np.float32] | None:
        """What ``sensor`` reads in [``second``, ``second`` + 1): float32[rate_hz, channels]; None when it is silent."""
        faults = self._faults_of[sensor.device]
        for fault in faults:
            if fault.kind is FaultKind.SILENT and fault.lasts(second):
                return None
        if isinstance(sensor, VibrationBoard):
            values = self._vibration(sensor, second, faults)
        else:
            values = self._process(sensor, second, faults)
        return values.astype(np.float32)

    def _vibration(self, board: VibrationBoard, second: int, faults: tuple[Fault, ...]) -> Series:
        t = second + np.arange(board.rate_hz) / board.rate_hz
        key = zlib.crc32(board.device.encode()) / 2**32
        turns = board.shaft_hz * (
            t + 0.003 * 47 / math.tau * np.sin(math.tau * t / 47)
        )  # a speed that wanders
        load = 1.0 + board.swing * _load(t, (key + 0.37 * self._seed) % 1.0)
        n_axes = len(board.channels)
        values = np.empty((t.size, n_axes))
        unbalance = 1.0 + 3.0 * _severity(faults, FaultKind.IMBALANCE, t)
        for axis in range(n_axes):
            wave = np.zeros_like(t)
            for k, amplitude in enumerate(board.harmonics, start=1):
                growth = 1.0 + (unbalance - 1.0) * RADIAL[axis] if k == 1 else 1.0
                wave += growth * amplitude * np.sin(math.tau * (k * turns + key * k + 0.25 * axis))
            teeth, amplitude = board.passing
            wave += amplitude * np.sin(math.tau * (teeth * turns + 0.4 * axis))
            values[:, axis] = (1.0 - 0.2 * axis) * load * wave
        spall = _severity(faults, FaultKind.BEARING, t)
        if spall.any():
            values += (spall * _impacts(board, turns))[:, None] * np.array([1.0, 0.7, 0.4])[:n_axes]
        values += board.noise * load[:, None] * self._rng(board, second).standard_normal(values.shape)
        values[:, 2:] += STANDARD_GRAVITY
        return np.round(values, 3)

    def _process(self, sensors: ProcessSensors, second: int, faults: tuple[Fault, ...]) -> Series:
        noise = self._rng(sensors, second).standard_normal(len(sensors.gauges))
        key = zlib.crc32(sensors.machine.encode()) / 2**32
        values = np.empty((1, len(sensors.gauges)))
        for i, gauge in enumerate(sensors.gauges):
            stuck = [f for f in faults if f.kind is FaultKind.STUCK and f.channel == gauge.channel]
            at = next((int(f.start_s) for f in stuck if f.lasts(second)), second)
            if at != second:
                values[0, i] = self._process(sensors, at, ())[0, i]
                continue
            t = np.array([float(second)])
            hot = [f for f in faults if f.kind is FaultKind.OVERHEATING and f.channel == gauge.channel]
            value = gauge.level + gauge.load * float(_load(t - gauge.lag_s, key)[0]) + gauge.noise * noise[i]
            value += 32.0 * sum(float(f.severity(t)[0]) for f in hot)
            values[0, i] = round(value / gauge.step) * gauge.step
        return np.round(values, 3)

    def _rng(self, sensor: Sensor, second: int) -> np.random.Generator:
        seed = (self._seed, zlib.crc32(sensor.device.encode()), second & 0xFFFFFFFF)
        return np.random.Generator(np.random.PCG64(seed))


def _load(t: Series, key: float) -> Series:
    """A machine's load over time, -1 to 1 or so: several orders and shifts on top of each other. ``key``, 0 to 1, is the
    machine's."""
    stretch = 1.0 + 0.3 * key
    parts = ((0.5, 17.0), (0.3, 29.3), (0.2, 43.7))
    load = np.zeros_like(t)
    for i, (share, period_s) in enumerate(parts):
        load += share * np.sin(math.tau * (t / (period_s * stretch) + key * i))
    return load


def _severity(faults: Sequence[Fault], kind: FaultKind, t: Series) -> Series:
    severity = np.zeros_like(t)
    for fault in faults:
        if fault.kind is kind:
            severity += fault.severity(t)
    return severity


def _impacts(board: VibrationBoard, turns: Series) -> Series:
    """The housing ringing from the impacts of rolling elements on a spall, peak about 6 m/s²."""
    passed = board.outer_race * turns
    since_s = (passed % 1.0) / (board.outer_race * board.shaft_hz)
    strength = 6.0 * (1.0 + 0.25 * np.sin(2.399 * np.floor(passed)))  # no two impacts are alike
    ringing: Series = strength * np.exp(-since_s / 0.004) * np.sin(math.tau * board.housing_hz * since_s)
    return ringing
