"""``edge-node plan``: how much disk and memory a configuration takes, and for how long it can do without its broker.

Everything is measured on the real thing: messages as they will be are written to a real outbox, models are loaded.
"""

from __future__ import annotations

import argparse
import math
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from tabulate import tabulate

from edge_node.assembly import Core, assemble
from edge_node.config import Config, load_config
from edge_node.egress import Outgoing
from edge_node.outbox import FILE_NAME, Cut, Outbox
from edge_node.sizing import Said, said, signal_bytes_per_s
from edge_node.state_dir import state_dir_of
from models.cli_values import time_span
from models.topics import DEFAULT_PREFIX, GatewayTopics

DAY_S = 86_400.0
_SAMPLES = 256  # messages of a kind, at least, that are written to see how large a file they make
_WRITTEN_TWICE = 2.0  # first to the outbox's log, then to its file


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Messages of one kind, of all devices."""

    kind: str
    n: int  # while the broker is away
    mean_bytes: float  # of one, as it is sent
    largest_bytes: int
    n_bytes: int  # of all that wait, as the broker will be sent them
    disk_bytes: int  # of them in the outbox
    day_bytes: int  # written to disk in a day
    every_s: tuple[float, float]  # the least and the greatest, by device


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration takes. ``held_s``: how long until something that waits is given up (None: no uplink)."""

    offline_s: float
    n_devices: int
    n_models: int
    outbox: tuple[Line, ...]
    outbox_bytes: int  # while the broker is away
    outbox_day_bytes: int
    signal_bytes: int  # of the raw signal in that time
    signal_day_bytes: int
    model_bytes: int
    memory_bytes: int  # of a process with these models loaded
    memory_most_bytes: int  # with its queue of samples full
    alerts_per_week: float  # false alarms that the budgets allow, all devices together
    held_s: float | None
    held_by: str | None  # the option that bounds it

    @property
    def disk_bytes(self) -> int:
        """What must be free where the state is kept."""
        return self.outbox_bytes


def add(commands: Any) -> None:
    """Adds ``plan`` to the subparsers ``commands``."""
    plan = commands.add_parser(
        "plan",
        help="say how much disk and memory a configuration takes",
        description="Says how much disk and memory a configuration takes, and for how long it can do without its broker.",
    )
    plan.add_argument(
        "-c", "--config", type=Path, required=True, metavar="FILE", help="gateway.toml, with its models"
    )
    plan.add_argument(
        "--offline",
        type=time_span,
        default=6 * 3600.0,
        metavar="TIME",
        help="so long the broker may be away: 90m, 6h, 2d; default: 6h",
    )
    plan.add_argument("--json", action="store_true", help="one JSON object, in bytes and seconds")
    plan.set_defaults(act=_plan)


def plan_of(config: Config, core: Core, offline_s: float) -> Plan:
    """What ``config``, which is built as ``core``, takes when the broker is away for ``offline_s``."""
    prefix = DEFAULT_PREFIX if config.uplink is None else config.uplink.prefix
    topics = GatewayTopics(prefix, config.gateway.site, config.gateway.name)
    spoken: list[Said] = []
    signal = 0.0
    for plan in core.plans:
        interval_s = config.device(plan.device.device_id).interval_s
        spoken += said(plan, topics, interval_s)
        signal += signal_bytes_per_s(plan, interval_s)
    lines = [
        _line(kind, found, offline_s)
        for kind in ("summary", "alert")
        if (found := [s for s in spoken if s.kind == kind])
    ]
    memory = _resident_bytes()
    held_s, held_by = _held(config, spoken)
    folders = {device.model for device in config.devices if device.model is not None}
    return Plan(
        offline_s=offline_s,
        n_devices=len(core.plans),
        n_models=len(folders),
        outbox=tuple(lines),
        outbox_bytes=sum(line.disk_bytes for line in lines),
        outbox_day_bytes=sum(line.day_bytes for line in lines),
        signal_bytes=round(signal * offline_s),
        signal_day_bytes=round(signal * DAY_S),
        model_bytes=sum(f.stat().st_size for folder in folders for f in folder.iterdir() if f.is_file()),
        memory_bytes=memory,
        memory_most_bytes=memory + 4 * config.gateway.queue_samples,
        alerts_per_week=sum(d.alerts_per_week or 0.0 for d in config.devices if d.model is not None),
        held_s=held_s,
        held_by=held_by,
    )


def stored_bytes(messages: Sequence[Outgoing]) -> float:
    """What one of ``messages`` takes on disk, on average, in an outbox of many: a file is made to see it."""
    copies = math.ceil(_SAMPLES / len(messages))
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder))
        rows = [_numbered(message, outbox.next_row()) for _ in range(copies) for message in messages]
        outbox.write(Cut(messages=rows))
        outbox.close()
        return (Path(folder) / FILE_NAME).stat().st_size / len(rows)


def size(n_bytes: float) -> str:
    """``n_bytes`` for people: "3.1 KB", "12 MB"."""
    unit = "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if n_bytes < 999.5:
            break
        n_bytes, unit = n_bytes / 1000, larger
    return f"{n_bytes:.0f} {unit}" if n_bytes >= 9.95 or unit == "B" else f"{n_bytes:.1f} {unit}"


def span(seconds: float) -> str:
    """``seconds`` for people: "90 s", "6 h", "2.5 d"."""
    for unit, length in (("d", DAY_S), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length or (seconds >= length and seconds % length == 0):
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} s"


def _plan(given: argparse.Namespace) -> int:
    config = load_config(given.config)
    notices: list[str] = []
    plan = plan_of(config, assemble(config, on_notice=notices.append), given.offline)
    if given.json:
        print(msgspec.json.encode(plan).decode())
        return 0
    for line in lines(config, plan):
        print(line)
    return 0


def lines(config: Config, plan: Plan) -> Iterable[str]:
    """The plan for people."""
    off = span(plan.offline_s)
    models = f"{plan.n_models} model{'s' * (plan.n_models != 1)}"
    devices = f"{plan.n_devices} device{'s' * (plan.n_devices != 1)}"
    yield f"{config.path}: {devices}, {models}; {off} without the broker"
    yield ""
    rows = [
        (
            {"summary": "summaries", "alert": "alerts"}[line.kind],
            f"{line.n:,}",
            size(line.mean_bytes),
            size(line.disk_bytes),
            size(line.day_bytes),
            _how(line),
        )
        for line in plan.outbox
    ]
    if rows:
        total = sum(line.n for line in plan.outbox)
        rows.append(("outbox", f"{total:,}", "", size(plan.outbox_bytes), size(plan.outbox_day_bytes), ""))
    rows.append(
        ("raw signal", "", "", size(plan.signal_bytes), size(plan.signal_day_bytes), "as float32, all of it")
    )
    headers = ("", "messages", "each", f"in {off}", "written a day", "")
    yield from tabulate(rows, headers, tablefmt="plain", colalign=("left", *["right"] * 4, "left")).split(
        "\n"
    )
    yield ""
    yield f"models  {size(plan.model_bytes)} on disk"
    loaded, full = size(plan.memory_bytes), size(plan.memory_most_bytes)
    yield f"memory  {loaded} with these models loaded, {full} when the queue of samples is full"
    yield f"budget  {plan.alerts_per_week:g} false alarms a week, all devices together"
    place = state_dir_of(config)
    yield f"disk    {size(free_bytes(place))} free where the outbox is, {place}"
    if plan.held_s is None:
        yield "queue   none without an [uplink]"
    elif plan.held_s >= plan.offline_s:
        yield f"queue   enough for {span(plan.held_s)}; what is older then goes, by {plan.held_by}"
    else:
        yield f"queue   too small: after {span(plan.held_s)} the oldest goes, by {plan.held_by}"
        yield f"        for {off} set in [uplink] {', '.join(_remedies(config, plan))}"


def free_bytes(place: Path) -> int:
    """What a process may still write to ``place``, which may be yet to be made."""
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


def _remedies(config: Config, plan: Plan) -> Iterable[str]:
    assert config.uplink is not None
    n, n_bytes = (sum(line.n for line in plan.outbox), sum(line.n_bytes for line in plan.outbox))
    if n > config.uplink.queue_messages:
        yield f"queue_messages = {n:_}"
    if n_bytes > config.uplink.queue_bytes:
        yield f"queue_bytes = {n_bytes:_}"
    if plan.offline_s > config.uplink.queue_max_age_s:
        yield f"queue_max_age_s = {plan.offline_s:_.0f}"


def _line(kind: str, found: Sequence[Said], offline_s: float) -> Line:
    each = stored_bytes([s.message for s in found])
    n = sum(s.n(offline_s) for s in found)
    n_bytes = sum(s.message.n_bytes * s.n(offline_s) for s in found)
    everies = [s.every_s for s in found]
    return Line(
        kind=kind,
        n=n,
        mean_bytes=n_bytes / n,
        largest_bytes=max(s.message.n_bytes for s in found),
        n_bytes=n_bytes,
        disk_bytes=round(each * n),
        day_bytes=round(each * _WRITTEN_TWICE * sum(s.n(DAY_S) for s in found)),
        every_s=(min(everies), max(everies)),
    )


def _how(line: Line) -> str:
    least, most = line.every_s
    every = f"every {span(least)}" + (f" to {span(most)}" if most != least else "")
    return every if line.kind == "summary" else f"{every}, were every device in alarm all the time"


def _held(config: Config, spoken: Sequence[Said]) -> tuple[float | None, str | None]:
    if config.uplink is None:
        return None, None
    held = [(config.uplink.queue_max_age_s, "queue_max_age_s")]
    if spoken:
        per_s = sum(1 / s.every_s for s in spoken)
        bytes_per_s = sum(s.message.n_bytes / s.every_s for s in spoken)
        more, more_bytes = sum(s.n_more for s in spoken), sum(s.n_more * s.message.n_bytes for s in spoken)
        held.append((max(0.0, config.uplink.queue_messages - more) / per_s, "queue_messages"))
        held.append((max(0.0, config.uplink.queue_bytes - more_bytes) / bytes_per_s, "queue_bytes"))
    return min(held)


def _numbered(message: Outgoing, row: int) -> Outgoing:
    return Outgoing(
        message.kind,
        message.prefix,
        message.place,
        message.payload,
        message.retain,
        message.rank,
        message.device,
        message.n_bytes,
        row,
    )


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
