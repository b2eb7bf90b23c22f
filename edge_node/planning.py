"""How much disk and memory a configuration takes, and for how long it can do without its broker.

Everything is measured on the real thing: models are loaded, and messages and state as they will be are written to an outbox.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from edge_node.assembly import Core
from edge_node.checkpoints import UPLINK
from edge_node.config import Config
from edge_node.continuity import DEVICE, GATEWAY, PIPELINE
from edge_node.disk_need import feature_bytes, need
from edge_node.egress import Outgoing
from edge_node.model_store import Bundle
from edge_node.outbox import FILE_NAME, WAL_PAGES, Cut, Outbox
from edge_node.pipeline import Pipeline
from edge_node.placement import Prices
from edge_node.placing import Task
from edge_node.sizing import Said, said, signal, signal_bytes_per_s
from edge_node.stand_in import as_learned
from models import manifest as manifests
from models.signal import NS_PER_S
from models.topics import DEFAULT_PREFIX, GatewayTopics

DAY_S = 86_400.0
_SAMPLES = 256  # messages of a kind, at least, that are written to see how large a file they make
_WRITTEN_TWICE = 2.0  # first to the outbox's journal, then to its file
_EXERCISED = 30  # devices, at most, whose state is made to see how large it is
_VALUES = 1_000_000  # of one device, at most, that are pushed for that
_PAGE = 4096
_PAGES_BESIDE = 2  # lists of free pages and of what has left
_BESIDE, _BESIDE_BYTES = (GATEWAY, PIPELINE, UPLINK), 500  # counters and the like


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
    messages: tuple[Line, ...]
    state_bytes: int  # of a checkpoint of every device, as it is written
    state_every_s: float
    state_day_bytes: int
    journal_bytes: int  # of the outbox, at most
    signal_bytes: int  # of the raw signal in that time
    signal_day_bytes: int
    black_box_bytes: int  # of the black box at most, what it keeps around alerts included; 0: there is none
    black_box_day_bytes: int
    feature_log_bytes: int  # of the feature log at most; 0: there is none
    feature_log_day_bytes: int
    model_bytes: int
    memory_bytes: int  # of a gateway with these models loaded, the processes that score included
    memory_most_bytes: int  # with its queue of samples full
    alerts_per_week: float  # false alarms that the budgets allow, all devices together
    held_s: float | None
    held_by: str | None  # the option that bounds it
    placement: tuple[Task, ...] = ()  # where each model should run
    prices: Prices = Prices()

    @property
    def outbox_bytes(self) -> int:
        """What must be free where the state is kept, while the broker is away."""
        return sum(line.disk_bytes for line in self.messages) + self.state_bytes + self.journal_bytes

    @property
    def disk_bytes(self) -> int:
        """All that is taken there; of a smaller disk the black box and the feature log take less."""
        return self.outbox_bytes + self.black_box_bytes + self.feature_log_bytes

    @property
    def day_bytes(self) -> int:
        """What is written there in a day."""
        recorded = self.black_box_day_bytes + self.feature_log_day_bytes
        return sum(line.day_bytes for line in self.messages) + self.state_day_bytes + recorded


def plan_of(config: Config, core: Core, offline_s: float) -> Plan:
    """What ``config``, which is built as ``core``, takes when the broker is away for ``offline_s``; of devices that learn
    their model, once they have."""
    core, learned = as_learned(config, core)
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
    processes = ["self", *map(str, core.workers.pids().values())] if core.workers is not None else ["self"]
    memory = sum(map(_resident_bytes, processes))
    every_s, state = config.gateway.checkpoint_s, checkpoint_bytes(core)
    held_s, held_by = _held(config, spoken)
    box_bytes, box_day_bytes = _black_box(config, core)
    log_bytes, log_day_bytes = _feature_log(config, core)
    folders = {device.model for device in config.devices if device.model is not None}
    return Plan(
        offline_s=offline_s,
        n_devices=len(core.plans),
        n_models=len(folders) + len(learned),
        messages=tuple(lines),
        state_bytes=state,
        state_every_s=every_s,
        state_day_bytes=round(state * DAY_S / every_s),
        journal_bytes=WAL_PAGES * _PAGE,
        signal_bytes=round(signal * offline_s),
        signal_day_bytes=round(signal * DAY_S),
        black_box_bytes=box_bytes,
        black_box_day_bytes=box_day_bytes,
        feature_log_bytes=log_bytes,
        feature_log_day_bytes=log_day_bytes,
        model_bytes=sum(f.stat().st_size for folder in folders for f in folder.iterdir() if f.is_file())
        + sum(map(_bundle_bytes, learned)),
        memory_bytes=memory,
        memory_most_bytes=memory + 4 * config.gateway.queue_samples,
        alerts_per_week=sum(d.alerts_per_week or 0.0 for d in config.devices if d.model or d.learn),
        held_s=held_s,
        held_by=held_by,
    )


def _bundle_bytes(bundle: Bundle) -> int:
    return len(manifests.encode(bundle.manifest)) + sum(a.n_bytes for a in bundle.manifest.artifacts)


def stored_bytes(messages: Sequence[Outgoing]) -> float:
    """What one of ``messages`` takes on disk, on average, in an outbox of many: a file is made to see it."""
    copies = math.ceil(_SAMPLES / len(messages))
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder))
        rows = [_numbered(message, outbox.next_row()) for _ in range(copies) for message in messages]
        outbox.write(Cut(messages=rows))
        outbox.close()
        return (Path(folder) / FILE_NAME).stat().st_size / len(rows)


def checkpoint_bytes(core: Core) -> int:
    """What is written to disk when the state of every device of ``core`` is: each is given the signal of a summary's length
    first, in a pipeline of its own. Of many devices, the first ones stand for the others."""
    some = core.plans[:_EXERCISED]
    state = dict.fromkeys(_BESIDE, os.urandom(_BESIDE_BYTES))
    for plan in some:
        alone = replace(plan, gate=None)  # of a gate it would only wait for the other device
        pipeline = Pipeline("site", "gateway", [alone])
        Core(pipeline, core.engines, (alone,)).push(signal(alone, alone.summary_s, _VALUES))
        parts, _ = pipeline.parts(all_devices=True)
        state |= {f"{DEVICE}{device_id}": part for device_id, part in parts.items()}
    with tempfile.TemporaryDirectory() as folder:
        outbox = Outbox(Path(folder))
        journal = Path(folder) / f"{FILE_NAME}-wal"
        before = 0
        for _ in range(2):  # what is written again takes what is left beside it along
            n_bytes = journal.stat().st_size - before
            before += n_bytes
            outbox.write(Cut(state=state))
        n_bytes = journal.stat().st_size - before + _PAGES_BESIDE * _PAGE
        outbox.close()
    return round(n_bytes * len(core.plans) / len(some))


def free_bytes(place: Path) -> int:
    """What a process may still write to ``place``, which may be yet to be made."""
    while not place.exists():
        place = place.parent
    found = os.statvfs(place)
    return found.f_bavail * found.f_frsize


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


def _black_box(config: Config, core: Core) -> tuple[int, int]:
    """Bytes that the black box has at most, and writes in a day."""
    box = config.black_box
    if not box.enabled:
        return 0, 0
    devices = [(config.device(plan.device.device_id).as_recorded(), plan.window.n) for plan in core.plans]
    hour = need(devices, box.flush_s).disk_bytes
    return round(min(box.max_bytes, hour * box.hours)) + box.keep_bytes, round(24 * hour)


def _feature_log(config: Config, core: Core) -> tuple[int, int]:
    """Bytes that the feature log has at most, and writes in a day."""
    log = config.feature_log
    if not log.enabled:
        return 0, 0
    devices = []
    for plan in core.plans:
        if plan.model is not None:
            interval_s = config.device(plan.device.device_id).interval_s
            step_s = max(plan.window.hop_ns / NS_PER_S, 0.0 if interval_s is None else interval_s)
            devices.append((1 / step_s, len(plan.model.infos)))
    day = 24 * feature_bytes(devices, log.flush_s)
    return round(min(log.max_bytes, day * log.days)), round(day)


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


def _resident_bytes(process: str) -> int:
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
