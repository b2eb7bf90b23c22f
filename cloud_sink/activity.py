"""When the machine of a recording ran: its ``active_when``, as the recording says or as it is asked for.

The log is read once for it before any window is cut, for the channel may be of another device, in another file, and
come later than what it gates. So training leaves out what a gateway calls idle.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from fractions import Fraction

import msgspec

from cloud_sink.cutting import DatasetError, Progress, Request, recorded_by_id
from models.gating import GateHistory, GateSpec, Running, parse_comparison
from models.recording import inspect_log, log_files, read_log
from models.signal import NS_PER_S, Device, SampleBlock, WindowSpec, samples_to_ns
from models.time_policy import RecordedDevice, between_records, default_policy


def find_running(request: Request, device: Device, progress: Progress) -> Running | None:
    """When the machine of ``device`` ran; None where nothing says that it ever rests.

    Raises LogError, and DatasetError for a condition that cannot be read or whose channel the log lacks.
    """
    name, spec = _condition(request, device) or (None, None)
    if name is None or spec is None:
        return None
    history: GateHistory | None = None
    watched: dict[tuple[str, tuple[str, ...]], str | None] = {}
    for item in read_log(request.logs, request.options, warn=lambda _: None):
        if not isinstance(item, SampleBlock):
            continue
        of = item.device_id, item.channels
        if of not in watched:
            own = item.device_id == device.device_id
            watched[of] = next(
                (c for c in item.channels if f"{item.device_id}.{c}" == name or (own and c == name)), None
            )
        channel = watched[of]
        if channel is None:
            continue
        if history is None:
            spec = msgspec.structs.replace(spec, device_id=item.device_id, channel=channel)
            history = _history(request, device, spec)
        history.push(item)
        progress(item.n)
    if history is None:
        raise DatasetError(_unknown(request, device, name, [(who, c) for who, cs in watched for c in cs]))
    return history.running()


def _condition(request: Request, device: Device) -> tuple[str, GateSpec] | None:
    """(name of the channel as it was written, the gate): as asked for, else as recorded. What the gate watches is known
    once the log has been seen."""
    text, settle_s = request.active_when, request.settle_s
    recorded = device.gate if isinstance(device, RecordedDevice) else None
    if text is not None and not text.strip():
        return None
    if text is not None:
        try:
            name, comparison, value = parse_comparison(text)
        except ValueError as error:
            raise DatasetError(f'--active-when "{text}": {error}') from error
        spec = GateSpec(device_id="", channel="", comparison=comparison, value=value)
    elif recorded is not None:
        name, spec = f"{recorded.device_id}.{recorded.channel}", recorded
    elif settle_s is not None:
        raise DatasetError("--settle-s: nothing says when the machine runs: give --active-when too")
    else:
        return None
    return name, spec if settle_s is None else msgspec.structs.replace(spec, settle_s=settle_s)


def _history(request: Request, device: Device, spec: GateSpec) -> GateHistory:
    """For ``spec``, by what the recording says of the device that it watches, else by how that looks."""
    known: Mapping[str, RecordedDevice] = recorded_by_id(request)
    of = known.get(spec.device_id)
    origin = request.options.origins.get(spec.channel, 0.0)
    if of is not None:
        origin = next((c.origin for c in of.channels if c.name == spec.channel), origin)
    own = of or (device if spec.device_id == device.device_id else None)
    rate_hz = _rate_hz(request, spec.device_id) if own is None else own.rate_hz
    mode = device.mode if own is None else own.mode
    policy = default_policy(WindowSpec(n=2, hop=1, rate_hz=rate_hz, mode=mode))
    if of is not None:
        policy = of.time.over(between_records(policy, of.interval_s))
    policy = msgspec.structs.replace(policy, max_age_s=None)  # a recording may be as old as it is
    return GateHistory(spec, origin, policy, samples_to_ns(1, rate_hz))


def _rate_hz(request: Request, device_id: str) -> Fraction:
    """How often a device of somebody else's log says something."""
    for log in log_files(request.logs):
        info = inspect_log(log, request.options, device=device_id)
        if info.rate_hz is not None:
            return info.rate_hz
        if info.median_interval_s:
            return Fraction(NS_PER_S, round(info.median_interval_s * NS_PER_S))
    return Fraction(1)


def _unknown(request: Request, device: Device, name: str, seen: list[tuple[str, str]]) -> str:
    names = dict.fromkeys(c if who == device.device_id else f"{who}.{c}" for who, c in seen)
    near = difflib.get_close_matches(name, names, n=1)
    where = ", ".join(str(path) for path in request.logs)
    said = f"{where}: has no channel {name!r}, which says when {device.device_id} runs"
    if near:
        return f"{said}: did you mean {near[0]!r}?"
    if request.active_when is None:
        return f'{said}: name the log that has it too, or train on all of it with --active-when ""'
    return f"{said}: it has {', '.join(names) or 'none'}"
