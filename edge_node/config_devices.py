"""One ``[[device]]``, defaults merged in, as the values that the rest of the gateway is built from."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edge_node.config_schema import MAX_WINDOW, Backend, Cloud, DeviceSection, Precision, Privacy
from edge_node.plans import LearnPlan
from models.alerting import AlertPolicy
from models.codec import parse_rate
from models.commissioning import USUAL_WINDOWS
from models.config_partial import sure
from models.config_validation import nearest, show
from models.episodes import default_update_s
from models.features import FeatureSet, FeatureSpec
from models.gating import GateSpec, parse_comparison
from models.sensor_checks import LimitSpec
from models.signal import NS_PER_S, Channel, Device, Mode, WindowSpec
from models.time_policy import RecordedDevice, TimeOptions, TimePolicy, between_records, default_policy

if TYPE_CHECKING:
    from models.manifest import ModelManifest

DEFAULT_ALERTS_PER_WEEK = 1.0
DEFAULT_WINDOW_S = 10.0  # of a device without a model
NO_MODEL = "none"
LEARN = "learn"
VIBRATION_FROM_HZ = 100
ODD = re.compile(r"[^A-Za-z0-9._-]+")  # what the name of a model may not hold
MAX_LISTED = 5  # names in one line

# Ways to write what a model also decides on.
SPELLINGS = {"window": ("window", "window_s"), "hop": ("hop", "hop_s"), "rate_hz": ("rate_hz", "interval_s")}

Rest = tuple[str | int, ...]  # path of a key from its device on


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device, all names resolved. ``n`` and ``hop`` (samples) are None where its model decides.

    Exactly one of ``alerts_per_week`` (after the gateway's cap) and ``p_threshold`` is given.
    """

    device: Device
    n: int | None
    hop: int | None
    interval_s: float | None
    features: str | None
    model: Path | None
    says_no_model: bool  # not even "none"
    learn: LearnPlan | None  # of a device that is to learn its model by itself
    backend: Backend
    precision: Precision
    alerts_per_week: float | None
    p_threshold: float | None
    alert: AlertPolicy
    limits: tuple[LimitSpec, ...]
    gate: GateSpec | None
    time: TimeOptions
    privacy: Privacy
    summary_s: float
    n_reservoir: int
    cloud: Cloud

    def window_without_model(self) -> WindowSpec:
        """The window of a device that has limits and sensor checks only, or learns."""
        assert self.n is not None
        assert self.hop is not None
        n_fast = FeatureSpec(set="slow").n_fast if self.learn and self.learn.feature_set == "slow" else 0
        return WindowSpec(
            n=self.n,
            hop=self.hop,
            rate_hz=self.device.rate_hz,
            mode=self.device.mode,
            n_fast=n_fast if n_fast < self.n else 0,
        )

    def usual_policy(self, window: WindowSpec) -> TimePolicy:
        """How time is treated without a model, where the configuration does not say. A spectrum bears no hole, so windows of
        vibration that a device learns from need every sample."""
        policy = default_policy(window)
        if self.learn is not None and self.learn.feature_set == "vibration":
            return msgspec.structs.replace(policy, min_valid=1.0)
        return policy

    def time_policy(self, usual: TimePolicy) -> TimePolicy:
        """How late, how far ahead, how irregular samples may be: as configured, else as ``usual``."""
        return self.time.over(between_records(usual, self.interval_s))

    def as_recorded(self) -> RecordedDevice:
        """What a recording of the device says of it."""
        return RecordedDevice(
            **msgspec.structs.asdict(self.device), time=self.time, interval_s=self.interval_s, gate=self.gate
        )


def channels_of(section: DeviceSection) -> tuple[Channel, ...]:
    """The section's channels; one given by its name alone has the section's ``unit``."""
    return tuple(Channel(name=c, unit=section.unit) if isinstance(c, str) else c for c in section.channels)


def rate_of(section: DeviceSection) -> Fraction | None:
    """Sampling rate, or one over the grid interval; None where neither is given."""
    if section.rate_hz is not None:
        return section.rate_hz
    if section.interval_s is None or section.mode == Mode.BURST:
        return None
    return 1 / parse_rate(sure(section.interval_s))


def learned_features(section: DeviceSection) -> FeatureSet:
    """The feature set that the section's device learns with: as it says, else as suits its rate."""
    if section.features is not None:
        return section.features
    rate_hz = rate_of(section)
    return "vibration" if rate_hz is not None and rate_hz >= VIBRATION_FROM_HZ else "slow"


def mode_of(section: DeviceSection) -> Mode:
    """``mode``; where it is not given, a device with an interval and no rate is irregular, any other
    continuous."""
    if section.mode is not None:
        return section.mode
    return Mode.IRREGULAR if section.interval_s is not None and section.rate_hz is None else Mode.CONTINUOUS


def in_samples(n: int | None, seconds: float | None, rate_hz: Fraction) -> int | None:
    """``n``, else ``seconds`` in samples; ValueError when that is no whole number."""
    if n is not None or seconds is None:
        return n
    exact = seconds * float(rate_hz)
    if exact > MAX_WINDOW:
        raise ValueError(f"is {exact:g} samples at {rate_hz} Hz: expected at most {MAX_WINDOW}")
    if round(exact) < 1 or abs(exact - round(exact)) > 1e-6 * exact:
        raise ValueError(f"is {exact:g} samples at {rate_hz} Hz: expected a whole number of samples")
    return round(exact)


def parse_condition(text: str, known: Mapping[str, tuple[str, ...]]) -> GateSpec:
    """``device.channel > value`` as a :class:`GateSpec`; ValueError says what is wrong with it.

    Both names may hold dots: of all ways to split them, the one that names a device is taken.
    """
    name, comparison, value = parse_comparison(text)
    parts = name.split(".")
    splits = [(".".join(parts[:i]), ".".join(parts[i:])) for i in range(1, len(parts))]
    if not splits:
        raise ValueError(f'"{name}" is no channel: expected device.channel')
    device, channel = next((s for s in reversed(splits) if s[0] in known), splits[-1])
    if device not in known:
        raise ValueError(f'there is no device "{device}"{nearest(device, known)}')
    if channel not in known[device]:
        raise ValueError(f'device "{device}" has no channel "{channel}"{nearest(channel, known[device])}')
    return GateSpec(device_id=device, channel=channel, comparison=comparison, value=value)


def _as_name(device_id: str) -> str:
    """``device_id`` as a part of a model's id; of no other device, also where not all of it can stand there."""
    name = ODD.sub("-", device_id)
    return name if name == device_id else f"{name}-{hashlib.sha256(device_id.encode()).hexdigest()[:8]}"


def resolve_device(section: DeviceSection, known: Mapping[str, tuple[str, ...]], base: Path) -> DeviceConfig:
    """``section``, which :func:`check_device` found nothing wrong with."""
    rate_hz = rate_of(section)
    assert rate_hz is not None
    model = None if section.model in (None, NO_MODEL, LEARN) else base / str(section.model)
    n = in_samples(section.window, section.window_s, rate_hz)
    hop = in_samples(section.hop, section.hop_s, rate_hz)
    learn = None
    if section.model == LEARN:
        model_id = f"learned-{_as_name(section.id)}"
        burst = mode_of(section) is Mode.BURST
        between_ns = (
            round(section.interval_s * NS_PER_S) if burst and section.interval_s is not None else None
        )
        learn = LearnPlan(learned_features(section), model_id, section.fleet_model or model_id, between_ns)
        usual_n, usual_hop = USUAL_WINDOWS[learn.feature_set]
        n = n or usual_n
        hop = hop or (n if burst else min(usual_hop, n))  # bursts share no sample
    if model is None:
        n = n or min(MAX_WINDOW, max(2, round(DEFAULT_WINDOW_S * float(rate_hz))))
        hop = hop or max(1, n // 2)
    gate = None
    if section.active_when.strip():
        condition = parse_condition(section.active_when, known)
        gate = GateSpec(
            device_id=condition.device_id,
            channel=condition.channel,
            comparison=condition.comparison,
            value=condition.value,
            settle_s=section.active_settle_s,
        )
    budget, alert = section.alerts_per_week, section.alert
    if alert.update_s is None and mode_of(section) is Mode.BURST and section.interval_s is not None:
        alert = msgspec.structs.replace(alert, update_s=default_update_s(section.interval_s))
    return DeviceConfig(
        device=Device(
            device_id=section.id,
            machine=section.machine or section.id,
            class_=section.class_,
            mode=mode_of(section),
            rate_hz=rate_hz,
            channels=channels_of(section),
        ),
        n=n,
        hop=hop,
        interval_s=section.interval_s,
        features=section.features,
        model=model,
        says_no_model=section.model is None,
        learn=learn,
        backend=section.backend,
        precision=section.precision,
        alerts_per_week=DEFAULT_ALERTS_PER_WEEK if budget is None and section.p_threshold is None else budget,
        p_threshold=section.p_threshold,
        alert=alert,
        limits=section.limit,
        gate=gate,
        time=section.time,
        privacy=section.privacy,
        summary_s=section.summary_s,
        n_reservoir=section.n_reservoir,
        cloud=section.cloud,
    )


def _plain(seconds: float | None) -> float | int | None:
    """``seconds`` as people write them: 2, not 2.0."""
    return int(seconds) if seconds is not None and seconds == int(seconds) else seconds


def _other_channels(own: Sequence[str], trained: Sequence[str], model: str) -> str:
    """What tells a device's channels from those of ``model``, by name."""
    missing = [channel for channel in trained if channel not in own]
    odd = []
    for channel in own:
        if channel not in trained:
            hint = nearest(channel, missing).removeprefix("; ")
            odd.append(show(channel) + (f" ({hint})" if hint else ""))
    if not missing:
        return f"has {listed(odd)}, which {model} was not trained on"
    lacks = f"lacks {listed([show(c) for c in missing])}, which {model} was trained on"
    return f"{lacks}; has {listed(odd)}, which it was not" if odd else lacks


def listed(names: Sequence[str]) -> str:
    """The first of ``names`` in words, and how many more there are."""
    shown = ", ".join(names[:MAX_LISTED])
    return shown if len(names) <= MAX_LISTED else f"{shown} and {len(names) - MAX_LISTED} more"


def differences(
    device: DeviceConfig, manifest: ModelManifest, spelt: Mapping[str, str]
) -> Iterator[tuple[str, object, str]]:
    """(key, value, text) of all in which ``device`` is not what the model was trained for; ``spelt``: which of
    :data:`SPELLINGS` the file has, by what it is a way to write."""
    name = f"model {manifest.model_id} version {manifest.version}"
    own, window = device.device, manifest.window
    if own.rate_hz != window.rate_hz and spelt["rate_hz"] == "interval_s":
        trained_s = float(1 / window.rate_hz)
        yield "interval_s", _plain(device.interval_s), f"{name} was trained on a sample every {trained_s:g} s"
    elif own.rate_hz != window.rate_hz:
        yield "rate_hz", own.rate_hz, f"{name} was trained at {window.rate_hz} Hz"
    if own.mode is not window.mode:
        yield "mode", own.mode.value, f"{name} was trained on {window.mode} signals"
    for key, n, trained_n, what in (
        ("window", device.n, window.n, "windows"),
        ("hop", device.hop, window.hop, "a hop"),
    ):
        if n is not None and n != trained_n:
            text = f"{name} has {what} of {trained_n} samples"
            if spelt[key] == key:
                yield key, n, text
            else:
                yield (
                    spelt[key],
                    _plain(n / float(own.rate_hz)),
                    f"{text}, {trained_n / float(own.rate_hz):g} s",
                )
    if device.features not in (None, manifest.features.set):
        yield "features", device.features, f'{name} has the feature set "{manifest.features.set}"'
    channels = {c.name: c for c in own.channels}
    if set(channels) != set(manifest.channel_names):
        yield "channels", None, _other_channels(list(channels), manifest.channel_names, name)
        return
    for trained in manifest.channels:
        channel = channels[trained.name]
        if channel.unit != trained.unit:
            text = f"has the unit {show(channel.unit)}: {name} was trained with {show(trained.unit)}"
            yield "channels", None, f'channel "{channel.name}" {text}'
        if channel.origin != trained.origin:
            text = f"has the origin {channel.origin:g}: {name} was trained with {trained.origin:g}"
            yield "channels", None, f'channel "{channel.name}" {text}'
        if channel.wear != trained.wear:
            text = f"has wear = {show(channel.wear)}: {name} was trained with {show(trained.wear)}"
            yield "channels", None, f'channel "{channel.name}" {text}'
