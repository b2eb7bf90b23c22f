"""What a replay needs before its first row, from the command line: the core, how to read the log, the labels."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from edge_node.assembly import Core, assemble, assemble_bundle
from edge_node.config import Config, ConfigError, load_config
from edge_node.failures import Failure
from edge_node.failures_file import read_failures
from edge_node.model_record import NotAdmitted
from edge_node.model_store import BundleRefused, load_bundle
from edge_node.replay import Item, is_recording
from edge_node.snapshots import heard_devices, learned_devices
from edge_node.sources.replay import log_options
from models.acceptance import Acceptance
from models.block_log import unpacked_state
from models.cli_values import UsageError, log_options_of
from models.log_sizes import log_length
from models.logs import LogError, LogOptions, Warn
from models.recording import by_arrival, file_device, inspect_log, log_beginning, recorded_devices
from models.runtime import GraphUnusable
from models.signal import Channel, Device, SampleBlock


def core_and_options(given: argparse.Namespace, files: list[Path], warn: Warn) -> tuple[Core, LogOptions]:
    """The core, and how to read the log for it."""
    options = log_options_of(given)
    if given.config is not None:
        config = _with_level(load_config(given.config), given)
        devices = {device.device.device_id: device.device for device in config.devices}
        if given.device is not None and given.device not in devices:
            raise UsageError(f"--device {given.device}: {given.config} has {', '.join(devices)}")
        return assemble(config, on_notice=warn), log_options(options, devices)
    bundle = load_bundle(given.model)
    manifest = bundle.manifest
    device_id = given.device
    channels = tuple(Channel(name=c.name, origin=c.origin) for c in manifest.channels)
    window = manifest.window

    def like_model(name: str) -> Device:
        return Device(
            device_id=name, machine=name, mode=window.mode, rate_hz=window.rate_hz, channels=channels
        )

    if device_id is None:
        name = file_device(files[0])
        info = inspect_log(files[0], log_options(options, {name: like_model(name)}))
        if len(info.device_ids) > 1:
            raise UsageError(
                f"{files[0]} holds {len(info.device_ids)} devices: choose one with --device: {', '.join(info.device_ids)}"
            )
        device_id = info.device_ids[0] if info.device_ids else name
    budget = given.alerts_per_week
    core = assemble_bundle(bundle, device_id, alerts_per_week=budget, p_threshold=given.p, on_notice=warn)
    return core, log_options(options, {device_id: like_model(device_id)})


def check_channels(file: Path, options: LogOptions, core: Core) -> None:
    """LogError where a table lacks a channel: no window of it would ever be whole."""
    info = inspect_log(file, options)
    for plan in core.plans:
        missing = [name for name in plan.device.channel_names if name not in info.channels]
        if missing and plan.device.device_id in info.device_ids:
            who = f"model {plan.model.model_id}" if plan.model is not None else "the configuration"
            raise LogError(
                file,
                f"there is no channel {', '.join(map(repr, missing))}, which {who} has",
                remedy=f"its channels are {', '.join(info.channels)}",
            )


def failures_of(
    given: argparse.Namespace, files: list[Path], options: LogOptions, core: Core
) -> list[Failure] | None:
    """The failures of --events, by time; None where it is not given. Raises LogError."""
    if given.failures is None:
        return None
    machine_of = {plan.device.device_id: plan.device.machine for plan in core.plans}

    def present() -> list[str]:
        if given.device is not None or len(machine_of) == 1:
            return [given.device or next(iter(machine_of))]
        inside = {device for file in files for device in inspect_log(file, options).device_ids}
        return [device for device in machine_of if device in inside]

    return read_failures(given.failures, machine_of, present=present, timezone=given.timezone)


def check_recorded(files: list[Path], core: Core) -> None:
    """LogError where a recording's values mean something else than they would here: they are in its units, and
    its origins are subtracted."""
    plans = {plan.device.device_id: plan.device for plan in core.plans}
    for file in files:
        for device in recorded_devices(file):
            here = plans.get(device.device_id)
            wanted = {c.name: c for c in here.channels} if here is not None else {}
            for channel in device.channels:
                other = wanted.get(channel.name, channel)
                if (other.unit, other.origin) != (channel.unit, channel.origin):
                    raise LogError(
                        file,
                        f"{device.device_id}: channel {channel.name!r} was recorded {_meaning(channel)}, and is "
                        f"{_meaning(other)} here",
                        remedy="replay it with a configuration or model like the one it was recorded with",
                    )


def resume(files: list[Path], core: Core, warn: Warn) -> frozenset[str]:
    """Where the first log begins in the midst of things, ``core`` goes on from what the gateway's pipeline remembered
    there. Returns the devices of which there can be nothing in it. Raises LogError."""
    first = by_arrival(files, LogOptions())[0]
    beginning = log_beginning(first)
    if beginning.state is None:
        return frozenset()
    inside = {device.device_id for file in files for device in recorded_devices(file)}
    snapshot = unpacked_state(first, beginning.state)
    try:
        heard = heard_devices(snapshot)
        _serve_learned(core, learned_devices(snapshot) & inside, warn)
        core.pipeline.restore(snapshot, only=inside)
    except msgspec.DecodeError:
        warn(f"{first}: what the pipeline remembered was written by another version; this begins without it")
        return frozenset()
    core.pipeline.events()  # said before the log began
    counted = core.pipeline.counters_by_device()
    afresh = sorted(d for d in heard & inside & set(counted) if not counted[d].n_samples_in)
    if afresh:
        warn(
            f"{', '.join(afresh)}: not watched as when this was recorded (model, window, channels or limits): what was "
            "remembered of it is left out, and the first alerts may differ"
        )
    return frozenset(counted) - inside


def _serve_learned(core: Core, device_ids: Collection[str], warn: Warn) -> None:
    """Of ``device_ids``, which scored already, those that are to learn score by what this gateway has of it."""
    for plan in core.plans:
        if plan.learn is None or core.teacher is None or plan.device.device_id not in device_ids:
            continue
        try:
            bundle = core.teacher.before(plan)
            if bundle is not None:
                core.teacher.serve(core, plan.device.device_id, bundle)
        except (NotAdmitted, BundleRefused, ConfigError, GraphUnusable, ValueError) as error:
            warn(
                f"{plan.device.device_id}: what it has learned cannot be served here, so it learns anew: {error}"
            )


def _meaning(channel: Channel) -> str:
    return f"with unit {channel.unit!r} and origin {channel.origin:g}"


def _with_level(config: Config, given: argparse.Namespace) -> Config:
    if given.alerts_per_week is None and given.p is None:
        return config
    devices = tuple(
        dataclasses.replace(device, alerts_per_week=given.alerts_per_week, p_threshold=given.p)
        for device in config.devices
    )
    return dataclasses.replace(config, devices=devices)


def of_device(
    items: Iterator[Item], given: argparse.Namespace, core: Core, files: list[Path], *, recorded: bool
) -> Iterator[Item]:
    """What is of the device asked for, and all ticks; unless ``recorded``, without channels of other devices that are
    empty. With a model alone another device is an error, for it would be left out unasked."""
    channels = {plan.device.device_id: plan.device.channel_names for plan in core.plans}
    wanted = given.device
    only = core.plans[0].device.device_id if given.model is not None else None
    found = False
    others: dict[str, None] = {}
    for item in items:
        if isinstance(item, SampleBlock):
            if wanted is not None and item.device_id != wanted:
                others[item.device_id] = None
                continue
            if only is not None and item.device_id != only:
                raise UsageError(f"the log also holds device {item.device_id}: choose one with --device")
            found = True
            if not recorded:
                item = item.without_empty(channels.get(item.device_id, item.channels))
        elif isinstance(item, Acceptance) and wanted not in (None, item.device_id):
            continue
        yield item
    if wanted is not None and not found and others:
        raise UsageError(f"--device {wanted}: {files[0]} holds {', '.join(others)}")


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """What a progress bar counts, and up to what where that is known. ``selected``: only what is of the part asked for."""

    total: int | None
    unit: str
    selected: bool


def extent(given: argparse.Namespace, files: list[Path], options: LogOptions, core: Core) -> Extent:
    """How far the replay has to go."""
    recorded = is_recording(files)
    total: int | None = 0
    for file in files:
        length = log_length(file, options)
        total = None if total is None or length is None else total + length
    if given.rows is None:
        return Extent(total, " records" if recorded else " rows", selected=False)
    watched = {plan.device.device_id for plan in core.plans}.intersection(
        inspect_log(files[0], options).device_ids
    )
    n_devices = 1 if given.device is not None else max(1, len(watched))
    wanted: int = given.rows * n_devices
    if not recorded and total is not None:
        wanted = min(wanted, max(0, total - given.skip_rows * n_devices))
    return Extent(wanted, " rows", selected=True)
