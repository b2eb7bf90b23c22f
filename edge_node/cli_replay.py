"""``edge-node replay``: a recorded log through the gateway, its alerts as they come and a summary at the end.

Exit codes: 0 done, 1 refused (the log, the labels, the model, the configuration), 2 called wrongly.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from edge_node.assembly import Core, assemble, assemble_bundle
from edge_node.cli_values import UsageError, count, positive, probability, time_ns
from edge_node.config import Config, ConfigError, load_config
from edge_node.inference import ArtifactMissing
from edge_node.model_store import BundleRefused, load_bundle
from edge_node.replay import Item, RealTime, as_received, is_recording, play
from edge_node.replay_report import Report, alert_line
from edge_node.replay_scores import ScoresFile
from edge_node.sources.replay import log_options
from models import codec, messages
from models.labels import Labels, label_columns, read_labels
from models.logs import LogError, LogOptions
from models.messages import Alert
from models.recording import inspect_log, log_files, read_log, select_rows
from models.runtime import GraphUnusable, RuntimeUnavailable
from models.signal import Channel, Device, SampleBlock

REFUSED, USAGE = 1, 2

_SAMPLED_BYTES = 1 << 16

_DESCRIPTION = """Runs a recorded log through the same windows, model and alerting as a live gateway, prints each
alert as it comes, and ends with a summary. With labels (a column "anomaly" in the log, or --labels) it says how well
the alerts match them, beside what chance would score. Labels are never shown to the model."""


def add(commands: Any) -> None:
    """Adds ``replay`` to the subparsers ``commands``."""
    replay = commands.add_parser(
        "replay", help="run a recorded log through the gateway and report", description=_DESCRIPTION
    )
    replay.add_argument(
        "logs",
        nargs="+",
        metavar="LOG",
        help="CSV, JSON lines, Parquet or a recording of edge-node; globs work",
    )
    what = replay.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "-c", "--config", type=Path, metavar="FILE", help="gateway.toml: its devices and models"
    )
    what.add_argument("--model", type=Path, metavar="BUNDLE", help="one model, for a log of one device")
    replay.add_argument(
        "--speed",
        choices=("max", "1", "10"),
        default="max",
        help="times real time; default: as fast as it goes",
    )
    level = replay.add_mutually_exclusive_group()
    level.add_argument(
        "--alerts-per-week",
        type=positive,
        metavar="N",
        help="alert budget per device; default: the configuration's, with --model 1",
    )
    level.add_argument(
        "--p", type=probability, metavar="P", help="alert on p-values at or below this instead"
    )
    out = replay.add_argument_group("what is written")
    out.add_argument("--output", type=Path, metavar="FILE", help="the alerts as JSON lines")
    out.add_argument("--scores", type=Path, metavar="FILE", help="every score as Parquet")
    read = replay.add_argument_group("reading the log")
    read.add_argument(
        "--labels",
        type=Path,
        metavar="FILE",
        help="known anomalies: CSV with start,end, or JSON; default: label columns of the log",
    )
    read.add_argument(
        "--device", metavar="ID", help="which device of a log of several; or what to call the one"
    )
    read.add_argument("--rows", type=count(1), metavar="N", help="only N rows of each device")
    read.add_argument("--skip-rows", type=count(0), default=0, metavar="N", help="leave out the first N rows")
    read.add_argument("--from", dest="from_", metavar="TIME", help="RFC 3339, or in --timezone; inclusive")
    read.add_argument("--until", metavar="TIME", help="exclusive")
    read.add_argument("--timezone", metavar="ZONE", help="of times without an offset: UTC, Europe/Berlin, …")
    read.add_argument("--time-column", metavar="NAME", help="default: found")
    read.add_argument("--separator", metavar="C", help="of CSV; default: found")
    read.add_argument(
        "--rate-hz", metavar="RATE", help="of a log without times, or with coarse ones; default: the model's"
    )
    read.add_argument(
        "--skip-bad-lines", action="store_true", help="leave out lines that cannot be read, and count them"
    )
    replay.set_defaults(act=run)


def run(given: argparse.Namespace) -> int:
    """Runs ``edge-node replay``; returns the exit code."""
    try:
        _replay(given)
    except UsageError as error:
        print(f"edge-node replay: {error}", file=sys.stderr)
        return USAGE
    except (
        ArtifactMissing,
        BundleRefused,
        ConfigError,
        GraphUnusable,
        LogError,
        RuntimeUnavailable,
    ) as error:
        print(f"edge-node replay: {error}", file=sys.stderr)
        return REFUSED
    return 0


def _replay(given: argparse.Namespace) -> None:
    files = log_files(given.logs)
    for name in ("output", "scores"):
        target = getattr(given, name)
        if target is not None and any(target.exists() and target.samefile(file) for file in files):
            raise UsageError(f"--{name} {target} is a log to replay: choose another name")
    from_ns, until_ns = (
        time_ns(f"--{n}", t, given.timezone) for n, t in (("from", given.from_), ("until", given.until))
    )
    core, options = _core(given, files)
    recorded = is_recording(files)
    if not recorded:
        _check_channels(files[0], options, core)
    labels = _labels(given, options, files)
    report = Report(core, labels)
    speed = None if given.speed == "max" else float(given.speed)
    with ExitStack() as stack:
        scores = stack.enter_context(ScoresFile(given.scores)) if given.scores is not None else None
        output = stack.enter_context(closing(_AlertsFile(given.output))) if given.output is not None else None
        bar = stack.enter_context(
            tqdm(total=_estimated_rows(files), unit=" rows", unit_scale=True, disable=None, leave=False)
        )

        def selected() -> Iterator[Item]:
            read = _of_device(read_log(files, options, warn=_warn), given, core, files)
            for item in select_rows(
                _counted(read, bar),
                skip_rows=given.skip_rows,
                n_rows=given.rows,
                from_ns=from_ns,
                until_ns=until_ns,
            ):
                if isinstance(item, SampleBlock):
                    report.block(item)
                yield item

        items = as_received(selected(), core, recorded=recorded, speed=speed)
        pace = None if speed is None else RealTime(speed)
        for step in play(items, core, recorded=recorded, pace=pace):
            for alert in step.alerts:
                report.alert(alert)
                tqdm.write(alert_line(alert), file=sys.stdout)
                if output is not None:
                    output.write(alert)
            if step.alerts and speed is not None:
                sys.stdout.flush()
            for trace in step.traces:
                report.trace(trace)
                if scores is not None:
                    scores.add(trace)
    if not report.n_rows:
        raise LogError(
            files[0], "no rows in the part asked for", remedy="look at --rows, --skip-rows, --from, --until"
        )
    unknown = sorted(set(report.rows_of) - {plan.device.device_id for plan in core.plans})
    if unknown:
        known = ", ".join(plan.device.device_id for plan in core.plans)
        _warn(f"rows of {', '.join(unknown)} were left out: the configuration has {known}")
    print(report.text())


def _core(given: argparse.Namespace, files: list[Path]) -> tuple[Core, LogOptions]:
    """The core, and how to read the log for it."""
    options = _options(given)
    if given.config is not None:
        config = _with_level(load_config(given.config), given)
        devices = {device.device.device_id: device.device for device in config.devices}
        if given.device is not None and given.device not in devices:
            raise UsageError(f"--device {given.device}: {given.config} has {', '.join(devices)}")
        return assemble(config, on_notice=_warn), log_options(options, devices)
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
        stem = files[0].name.removesuffix(".gz")
        name = Path(stem).stem or stem
        info = inspect_log(files[0], log_options(options, {name: like_model(name)}))
        if len(info.device_ids) > 1:
            raise UsageError(
                f"{files[0]} holds {len(info.device_ids)} devices: choose one with --device: {', '.join(info.device_ids)}"
            )
        device_id = info.device_ids[0] if info.device_ids else name
    budget = given.alerts_per_week
    core = assemble_bundle(bundle, device_id, alerts_per_week=budget, p_threshold=given.p, on_notice=_warn)
    return core, log_options(options, {device_id: like_model(device_id)})


def _check_channels(file: Path, options: LogOptions, core: Core) -> None:
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


def _with_level(config: Config, given: argparse.Namespace) -> Config:
    if given.alerts_per_week is None and given.p is None:
        return config
    devices = tuple(
        dataclasses.replace(device, alerts_per_week=given.alerts_per_week, p_threshold=given.p)
        for device in config.devices
    )
    return dataclasses.replace(config, devices=devices)


def _options(given: argparse.Namespace) -> LogOptions:
    rate_hz: Fraction | None = None
    if given.rate_hz is not None:
        try:
            rate_hz = codec.parse_rate(given.rate_hz)
        except ValueError as error:
            raise UsageError(f"--rate-hz: {error}") from error
    separator = {"tab": "\t", "\\t": "\t"}.get(given.separator, given.separator)
    if separator is not None and len(separator) != 1:
        raise UsageError(f"--separator must be one character, not {separator!r}")
    return LogOptions(
        separator=separator,
        time_column=given.time_column,
        timezone=given.timezone,
        rate_hz=rate_hz,
        device_id=given.device,
        bad_lines="skip" if given.skip_bad_lines else "refuse",
    )


def _labels(given: argparse.Namespace, options: LogOptions, files: list[Path]) -> Labels | None:
    if given.labels is not None:
        return read_labels(given.labels, key=str(files[0]), timezone=given.timezone)
    return label_columns(files, options)


def _of_device(
    items: Iterator[Item], given: argparse.Namespace, core: Core, files: list[Path]
) -> Iterator[Item]:
    """What is of the device asked for, and all ticks. With a model alone another device is an error, for it would be
    left out unasked."""
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
        yield item
    if wanted is not None and not found and others:
        raise UsageError(f"--device {wanted}: {files[0]} holds {', '.join(others)}")


def _counted(items: Iterator[Item], bar: tqdm[Any]) -> Iterator[Item]:
    for item in items:
        if isinstance(item, SampleBlock):
            bar.update(item.n)
        yield item


def _estimated_rows(files: list[Path]) -> int | None:
    """How many rows plain text files hold, by the length of their first lines; None for other kinds."""
    total = 0.0
    for file in files:
        if file.suffix not in (".csv", ".txt", ".jsonl", ".ndjson") or is_recording([file]):
            return None
        with file.open("rb") as stream:
            sample = stream.read(_SAMPLED_BYTES)
        total += file.stat().st_size * sample.count(b"\n") / max(1, len(sample))
    return round(total)


class _AlertsFile:
    """JSON lines, each with the kernel as soon as it is written. Raises LogError."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = path.open("wb", buffering=0)
        except OSError as error:
            raise LogError(path, f"cannot be written ({error.strerror})") from error

    def write(self, alert: Alert) -> None:
        line = memoryview(messages.encode(alert) + b"\n")
        try:
            while line:
                line = line[self._file.write(line) :]
        except OSError as error:
            raise LogError(self._path, f"cannot be written ({error.strerror})") from error

    def close(self) -> None:
        self._file.close()


def _warn(text: str) -> None:
    tqdm.write(f"edge-node replay: warning: {text}", file=sys.stderr)
