"""The feature log as a backtest reads it: rows of some devices in order, those between two positions, each once.

Strategy: a position is the start of the last window that has been judged, by device. Between a stretch of signal and the
features after it, or before it, no window is lost or comes twice, since signal and features have the same windows. After a
restart the log may hold windows again that it held before, which are left out. What was made of other windows or features, or
of a signal that meant something else, is left out with a note.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np

from edge_node.feature_log import Remembered
from edge_node.feature_rows import FeatureRows, of_block
from edge_node.lane import Judgement
from edge_node.pipeline import PipelineState
from edge_node.plans import DevicePlan
from edge_node.segments import Segment, load
from models import codec
from models.acceptance import Acceptance
from models.block_frames import frames_beginning, read_frames
from models.block_log import unpacked_state
from models.evidence import Mark
from models.logs import LogError
from models.signal import NS_PER_S, SampleBlock

_AGAIN_NS = (
    3600 * NS_PER_S
)  # what a broker brings again after a restart is no older; else a clock was set back
_LATE_NS = 1200 * NS_PER_S  # rows are handed over that much after they came, at most


@dataclass(frozen=True, slots=True)
class Opening:
    """Rows of a file follow, which began at ``at_ns``. ``linked``: it follows the one before, or was being written at the
    position. Nothing is missing for the devices in ``reached``; the others go on from what is ``remembered`` (packed
    :class:`~edge_node.feature_log.Remembered`)."""

    linked: bool
    reached: frozenset[str]
    remembered: bytes
    at_ns: int


@dataclass(frozen=True, slots=True)
class Seam:
    """Where signal takes over: the last window that has been judged there, by device; event time of the first row after it,
    where there is any, for devices that have not been judged; and the first arrival."""

    featured_ns: Mapping[str, int]
    first_ns: Mapping[str, int]
    arrival_ns: int

    @classmethod
    def at(cls, segment: Segment, snapshot: bytes | None) -> Seam:
        """The beginning of a file of the black box, with what the pipeline remembered then."""
        contents, found = segment.contents, dict[str, int]()
        first_ns = {device_id: one.first_ns for device_id, one in contents.devices.items()}
        arrival_ns = contents.first_arrival_ns or 0
        if snapshot is not None:
            try:
                state = codec.unpack_state(snapshot, PipelineState)
            except msgspec.DecodeError:
                return cls(found, first_ns, arrival_ns)
            for device_id, part in state.devices.items():
                if part.lane.featured_ns is not None:
                    found[device_id] = part.lane.featured_ns
        return cls(found, first_ns, arrival_ns)


@dataclass(slots=True)
class _Bounds:
    """Which rows of one device are between two positions."""

    after_ns: int | None = None
    again: bool = False  # after_ns is of before a restart
    until_ns: int | None = None
    ended_ns: int | None = None  # where until_ns is not known: those that end before
    is_over: bool = False

    @classmethod
    def of(cls, after_ns: int | None, plan: DevicePlan, seam: Seam | None) -> _Bounds:
        if seam is None:
            return cls(after_ns)
        name, window = plan.device.device_id, plan.window
        # Of a device that begins there the first window may have been in progress.
        ended_ns = seam.first_ns.get(name, seam.arrival_ns) - window.window_ns - window.hop_ns
        return cls(after_ns, until_ns=seam.featured_ns.get(name), ended_ns=ended_ns)

    def cut(self, rows: FeatureRows) -> FeatureRows:
        if self.is_over:
            return rows.take(np.zeros(rows.n, np.bool_))
        which = np.ones(rows.n, np.bool_)
        if self.after_ns is not None:
            at = np.flatnonzero(rows.start_ns == self.after_ns)
            if at.size:
                which[: int(at[-1]) + 1] = False
            else:
                which = rows.start_ns > self.after_ns
                if self.again:
                    which |= rows.start_ns < self.after_ns - _AGAIN_NS
            if which.any():
                self.after_ns = None  # from there on all of it
        if self.until_ns is not None:
            at = np.flatnonzero(rows.start_ns == self.until_ns)
            if at.size:
                which[int(at[0]) + 1 :] = False
                self.is_over = True
            else:
                which &= rows.start_ns < self.until_ns
        elif self.ended_ns is not None:
            which &= rows.end_ns <= self.ended_ns
        return rows.take(which)


@dataclass(slots=True)
class History:
    """See the module's docstring. ``plans`` of the devices whose features may be judged, by device; ``note`` is told what is
    left out; ``otherwise``: a device whose values meant something else in a file, if any."""

    folder: Path
    from_ns: int
    plans: Mapping[str, DevicePlan]
    note: Callable[[str], None]
    otherwise: Callable[[Segment], str | None]
    files: list[Segment] = field(init=False)

    def __post_init__(self) -> None:
        found = load(self.folder, self.note) if self.plans and self.folder.is_dir() else []
        self.files = [
            s for s in found if s.contents.n_items and (s.contents.last_arrival_ns or 0) >= self.from_ns
        ]

    def between(
        self, position: Mapping[str, int], at_ns: int | None, seam: Seam | None
    ) -> Iterator[Opening | FeatureRows | Acceptance]:
        """What the log holds after ``position``, reached with what arrived at ``at_ns`` (None: from the beginning on), and
        up to ``seam`` (None: all of it); an :class:`Opening` before what comes of each file."""
        last = dict(position)
        bounds = {d: _Bounds.of(last.get(d, at_ns), plan, seam) for d, plan in self.plans.items()}
        before: Segment | None = None
        linked = False
        for file in self.files:
            first_ns, last_ns = file.contents.first_arrival_ns or 0, file.contents.last_arrival_ns or 0
            if seam is not None and first_ns > seam.arrival_ns + _LATE_NS:
                continue  # and not the end: a clock that ran ahead may have been set right since
            follows = before is not None and file.head.follows and file.number == before.number + 1
            if at_ns is not None and first_ns <= at_ns:
                linked = True  # it was being written then
            elif not follows:
                linked = False
                for device_id, own in bounds.items():
                    own.after_ns, own.again = last.get(device_id, at_ns), True
            before = file
            if at_ns is not None and last_ns < at_ns:
                continue
            try:
                remembered = _remembered(file)
                there = codec.unpack_state(remembered, Remembered).devices
            except (LogError, msgspec.DecodeError) as error:
                self.note(_gone(file, error))
                linked, before = False, None
                continue
            reached = frozenset(d for d in self.plans if linked or _is_reached(last.get(d), there.get(d)))
            said = False
            for item in self._items(file, there):
                if isinstance(item, Acceptance):
                    is_before = at_ns is not None and item.arrival_ns <= at_ns
                    if is_before or (seam is not None and item.arrival_ns >= seam.arrival_ns):
                        continue
                else:
                    item = bounds[item.device_id].cut(item)
                    if not item.n:
                        continue
                    last[item.device_id] = int(item.start_ns[-1])
                if not said:
                    said = True
                    yield Opening(linked, reached, remembered, first_ns)
                    linked = True
                yield item

    def _items(self, file: Segment, there: Mapping[str, Judgement]) -> Iterator[FeatureRows | Acceptance]:
        """Of the devices of which something can be used."""
        if (otherwise := self.otherwise(file)) is not None:
            self.note(f"features of {file.path.name} are left out: {otherwise} was configured otherwise then")
            return
        alike: dict[str, int] = {}
        for device_id, plan in self.plans.items():
            if device_id not in there or plan.model is None:
                continue
            if there[device_id].schema_id == plan.model.manifest.schema_id:
                alike[device_id] = len(plan.device.channels)
            else:
                self.note(
                    f"{device_id} had other windows or features once: what is logged of them is left out"
                )
        troubles: list[str] = []
        try:
            for found in read_frames(file.path, troubles.append):
                for item in () if isinstance(found, Mark) else found:
                    if isinstance(item, SampleBlock) and item.device_id in alike:
                        yield of_block(item, alike[item.device_id])
                    elif isinstance(item, Acceptance) and item.device_id in alike:
                        yield item
        except (LogError, ValueError) as error:
            troubles.append(_gone(file, error))
        if file.is_closed:  # one that is being written ends in something unfinished
            for text in troubles:
                self.note(f"features: {text}: something is missing there")


def _remembered(file: Segment) -> bytes:
    """Raises LogError."""
    state = frames_beginning(file.path).state
    if state is None:
        raise LogError(file.path, "its beginning is missing")
    return unpacked_state(file.path, state)


def _is_reached(position: int | None, there: Judgement | None) -> bool:
    """Whether a device has been judged up to where ``there`` was remembered. A checkpoint may be older than the log: what came
    between is then in it twice."""
    if position is None or there is None or there.featured_ns is None:
        return False
    return there.featured_ns <= position <= there.featured_ns + _AGAIN_NS


def _gone(file: Segment, error: Exception) -> str:
    what = "was overwritten meanwhile" if not file.path.exists() else str(error)
    return f"features of {file.path.name}: {what}"
