"""What is in the black box, and parts of it as logs: read while the daemon writes, or when it does not run.

A *run* is a row of files between which nothing is missing. Invariant: an exported part begins where a file does, with what
the pipeline remembered there, and no block of its devices is left out from there on: so a replay of it says what was said.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import msgspec

from edge_node.retention import Bounds, Wanted, stretch
from edge_node.segments import Segment
from edge_node.snapshots import of_devices
from edge_node.state_dir import LOCK_NAME
from models.block_frames import frames_beginning, read_frames
from models.block_log import Beginning, packed_state, unpacked_state
from models.evidence import Mark, span
from models.gating import with_gates
from models.logs import LogItem, Tick, Warn
from models.messages import rfc3339
from models.recording import RecordingWriter
from models.signal import SampleBlock

_SHOWN = 5  # alerts in a message

Item = LogItem
State = Literal["whole", "being written", "cut short"]


class NotKept(Exception):
    """What was asked for is not in the black box; the text says what is."""


@dataclass(frozen=True, slots=True)
class Row:
    """What there is of a device, without a gap, and for the same alerts. ``n_bytes``: its share of the files."""

    device: str
    first_ns: int
    last_ns: int
    n_rows: int
    n_bytes: int
    alerts: tuple[str, ...]
    state: State


def is_running(state_dir: Path) -> bool:
    """Whether a daemon has the directory."""
    try:
        with (state_dir / LOCK_NAME).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def runs(segments: Sequence[Segment]) -> list[list[Segment]]:
    """``segments`` cut where something is missing between two of them."""
    found: list[list[Segment]] = []
    for segment in segments:
        if found and segment.head.follows and found[-1][-1].number == segment.number - 1:
            found[-1].append(segment)
        else:
            found.append([segment])
    return found


def rows(segments: Sequence[Segment], bounds: Bounds, *, running: bool) -> list[Row]:
    """What there is, by device and in order of time."""
    wanted = Wanted(stretch(mark, bounds) for segment in segments for mark in segment.contents.marks)
    found: list[Row] = []
    for run in runs(segments):
        open_rows: dict[str, Row] = {}
        for segment in run:
            piece, n_all = segment.piece, max(1, segment.contents.n_samples)
            state: State = "whole"
            if not segment.is_closed:
                state = "being written" if running and segment is segments[-1] else "cut short"
            for device, one in segment.contents.devices.items():
                alone = replace(
                    piece,
                    spans={device: piece.spans[device]},
                    marks=[mark for mark in piece.marks if mark.device == device],
                )
                row = Row(
                    device,
                    one.first_ns,
                    one.last_ns,
                    one.n_rows,
                    segment.n_bytes * one.n_samples // n_all,
                    tuple(wanted.alerts_near(alone)),
                    state,
                )
                before = open_rows.get(device)
                if before is not None and (before.alerts, before.state) == (row.alerts, row.state):
                    open_rows[device] = replace(
                        before,
                        first_ns=min(before.first_ns, row.first_ns),
                        last_ns=max(before.last_ns, row.last_ns),
                        n_rows=before.n_rows + row.n_rows,
                        n_bytes=before.n_bytes + row.n_bytes,
                    )
                    continue
                if before is not None:
                    found.append(before)
                open_rows[device] = row
        found += open_rows.values()
    return sorted(found, key=lambda row: (row.device, row.first_ns))


@dataclass(frozen=True, slots=True)
class Part:
    """Files of the black box, and what of them is asked for: the blocks of ``devices``, and all ticks, to the first block of
    ``device`` from ``until_ns`` on after the alert ``last``. ``notes``: what whoever asked should know."""

    segments: tuple[Segment, ...]
    device: str
    devices: frozenset[str]
    until_ns: int
    last: tuple[str, int] | None = None
    notes: tuple[str, ...] = ()

    def read(self, warn: Warn) -> Iterator[Item | Mark]:
        """Its blocks and ticks, and the marks of its devices where they stand. Raises LogError."""
        is_over = self.last is None
        for segment in self.segments:
            for found in read_frames(segment.path, warn):
                if isinstance(found, Mark):
                    is_over |= (found.alert_id, found.seq) == self.last
                    if found.device in self.devices:
                        yield found
                    continue
                for item in found:
                    if isinstance(item, Tick):
                        yield item
                    elif item.device_id in self.devices:
                        if is_over and self._is_past(item):
                            return
                        yield item

    def _is_past(self, item: Item) -> bool:
        if not isinstance(item, SampleBlock) or item.device_id != self.device or not item.n:
            return False
        return span(item)[0] >= self.until_ns


def part_of_alert(segments: Sequence[Segment], alert_id: str, bounds: Bounds) -> Part:
    """The stretch around an alert. Raises NotKept."""
    for run in runs(segments):
        said = [
            (i, mark) for i, one in enumerate(run) for mark in one.contents.marks if mark.alert_id == alert_id
        ]
        if said:
            break
    else:
        said_at_all = dict.fromkeys(mark.alert_id for one in segments for mark in one.contents.marks)
        newest = ", ".join(list(said_at_all)[-_SHOWN:]) or "none"
        raise NotKept(f"there is no alert {alert_id} in the black box; the newest in it: {newest}")
    first, last = said[0][1], said[-1][1]
    from_ns, until_ns = first.start_ns - bounds.before_ns, last.end_ns + bounds.after_ns
    lo, hi = said[0][0], said[-1][0]
    while lo > 0 and not _begins_by(run[lo], first.device, from_ns):
        lo -= 1
    while hi + 1 < len(run) and not _reaches(run[hi], first.device, until_ns):
        hi += 1
    notes = []
    if not _begins_by(run[lo], first.device, first.start_ns):
        notes.append("what is left of the black box begins after the alert's window did")
    n_all = sum(mark.alert_id == alert_id for segment in segments for mark in segment.contents.marks)
    if n_all > len(said):
        notes.append("recording was interrupted in the course of the alert: what came after that is left out")
    chosen = tuple(run[lo : hi + 1])
    devices = _with_gates(chosen[0], first.device)
    return Part(chosen, first.device, devices, until_ns, (alert_id, last.seq), tuple(notes))


def part_of_span(segments: Sequence[Segment], device: str, from_ns: int, until_ns: int) -> Part:
    """What there is of ``device`` in [from_ns, until_ns), and before that as far back as its file goes. Raises NotKept."""
    there = [
        (i, one.contents.devices[device]) for i, one in enumerate(segments) if device in one.contents.devices
    ]
    if not there:
        known = sorted({name for one in segments for name in one.contents.devices})
        raise NotKept(f"there is nothing of {device}; there is of {', '.join(known) or 'no device'}")
    inside = [i for i, one in there if one.first_ns < until_ns and one.last_ns >= from_ns]
    if not inside:
        first, last = min(one.first_ns for _, one in there), max(one.last_ns for _, one in there)
        raise NotKept(
            f"there is nothing of {device} from {rfc3339(from_ns)} to {rfc3339(until_ns)}; what there is lies between "
            f"{rfc3339(first)} and {rfc3339(last)}"
        )
    chosen = tuple(segments[inside[0] : inside[-1] + 1])
    notes = []
    for before, after in pairwise(chosen):
        if after.head.follows and after.number == before.number + 1:
            continue
        at = rfc3339(after.contents.first_arrival_ns or 0)
        if after.head.devices != chosen[0].head.devices:
            raise NotKept(f"the devices were configured anew at {at}: ask for a span before, or from then on")
        notes.append(f"something is missing before {at}: a replay may differ from then on")
    devices = _with_gates(chosen[0], device)
    return Part(chosen, device, devices, until_ns, None, tuple(notes))


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export came to."""

    n_rows: int
    first_ns: int
    last_ns: int
    marks: tuple[Mark, ...]


def export(part: Part, output: Path, warn: Warn) -> Exported:
    """Writes ``part`` to a new ``.parquet`` or ``.jsonl``. Raises LogError and NotKept."""
    marks: list[Mark] = []
    n_items = 0
    for item in part.read(warn):
        if isinstance(item, Mark):
            marks.append(msgspec.structs.replace(item, at=n_items))
        else:
            n_items += 1
    first = part.segments[0]
    state = frames_beginning(first.path).state
    if state is not None:
        state = packed_state(of_devices(unpacked_state(first.path, state), part.devices))
    described = [device for device in first.head.devices if device.device_id in part.devices]
    n_rows, spans = 0, []
    writer = RecordingWriter(output, described, Beginning(state=state, marks=tuple(marks)))
    try:
        for item in part.read(lambda text: None):
            if isinstance(item, Mark):
                continue
            if not n_items:
                break  # what came since we counted
            n_items -= 1
            writer.write(item)
            if isinstance(item, SampleBlock) and item.n and item.device_id == part.device:
                n_rows += item.n
                spans.append(span(item))
    except BaseException:
        writer.discard()
        raise
    if not spans:
        writer.discard()
        raise NotKept(f"there is no row of {part.device} in it")
    writer.close()
    return Exported(n_rows, min(s[0] for s in spans), max(s[1] for s in spans), tuple(marks))


def _begins_by(segment: Segment, device: str, at_ns: int) -> bool:
    """Whether what ``segment`` has of ``device`` begins at ``at_ns`` or before; of a silent device, the file itself."""
    one = segment.contents.devices.get(device)
    first_ns = segment.contents.first_arrival_ns if one is None else one.first_ns
    return first_ns is not None and first_ns <= at_ns


def _reaches(segment: Segment, device: str, at_ns: int) -> bool:
    one = segment.contents.devices.get(device)
    last_ns = segment.contents.last_arrival_ns if one is None else one.last_ns
    return last_ns is not None and last_ns >= at_ns


def _with_gates(segment: Segment, device: str) -> frozenset[str]:
    """``device``, and those that decide when it counts."""
    return with_gates([device], {one.device_id: one.gate for one in segment.head.devices})
