"""The last hours of the black box through two pipelines at once: the one in service, and the same with a candidate.

Strategy: one pass over the files, read while the daemon writes them, and every item is given to both, so both have the same
signal, whatever of it the ring overwrites meanwhile. Where a file begins in the midst of things both go on from what the
pipeline remembered there, and the candidate then takes over as it would in service: between two windows. Something that is
missing, unreadable or was configured otherwise ends a stretch; the next file begins one anew, and a note says so.

Invariant: files are read, nothing is written; alerts and scores stay here, as counts and ids.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_node.assembly import Core
from edge_node.backtest_compare import Made, changes
from edge_node.inference import ScoringEngine
from edge_node.pipeline import Pipeline
from edge_node.plans import DevicePlan, NotDrained
from edge_node.runs import Runs
from edge_node.segments import Segment, load
from models.acceptance import Acceptance
from models.backtest import Backtest, noted
from models.block_frames import frames_beginning, read_frames
from models.block_log import unpacked_state
from models.evidence import Mark
from models.logs import LogError, LogItem, Tick
from models.messages import Alert, rfc3339
from models.requests import AlertLabel
from models.signal import NS_PER_S, SampleBlock

_HOUR_NS = 3600 * NS_PER_S


class NothingRecorded(Exception):
    """There is no signal to replay; the text says why."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be replayed, and with what. ``served`` and ``candidate``: plans of the same devices, which run the model, and
    of those that gate them (alike in both); what arrived from ``from_ns`` on; no longer than ``max_s``."""

    folder: Path
    from_ns: int
    max_s: float
    site: str
    gateway: str
    served: tuple[DevicePlan, ...]
    candidate: tuple[DevicePlan, ...]
    model_id: str
    version: int
    against: int
    sha256: str
    labels: Mapping[str, AlertLabel]
    max_batches_out: int
    max_waiting: int

    @property
    def devices(self) -> frozenset[str]:
        """Those that run the model."""
        return frozenset(
            p.device.device_id
            for p in self.served
            if p.model is not None and p.model.manifest.model_id == self.model_id
        )


@dataclass(slots=True)
class _Line:
    """One of the two, over all stretches."""

    plans: tuple[DevicePlan, ...]
    engines: Mapping[str, ScoringEngine]
    made: Made = field(default_factory=Made)
    times: list[int] = field(default_factory=list)  # ns a window, of the last batches of each stretch
    n_failed: int = 0
    core: Core | None = None

    def take(self, devices: frozenset[str]) -> None:
        """What has come out."""
        assert self.core is not None
        self.core.score()
        for event in self.core.pipeline.events():
            if isinstance(event.event, Alert) and event.event.device in devices:
                self.made.alert(event.event)
        for trace in self.core.pipeline.take_traces():
            if trace.device_id in devices:
                self.made.trace(trace)

    def end(self, devices: frozenset[str], model_id: str) -> None:
        """The stretch is over."""
        if self.core is None:
            return
        self.core.pipeline.finish()
        self.take(devices)
        own = {p.engine for p in self.plans if p.model is not None and p.model.model_id == model_id}
        runs: list[Runs] = [run for name, run in self.core.runs.items() if name in own]
        self.times = (self.times + [ns for run in runs for ns in run.ns_a_window])[-10_000:]
        self.n_failed += sum(run.n_failed for run in runs)
        self.core = None


class Replay:
    """One backtest; ``engines`` of all plans, by name."""

    def __init__(
        self,
        asked: Asked,
        engines: Mapping[str, ScoringEngine],
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._asked = asked
        self._now_s = now_s
        self._served = _Line(asked.served, engines)
        self._candidate = _Line(asked.candidate, engines)
        self._watched = frozenset(p.device.device_id for p in asked.served)
        self._notes: list[str] = []
        self._first_ns: int | None = None
        self._last_ns = 0
        self._heard: set[str] = set()

    def run(self) -> Backtest:
        """What came of it. Raises NothingRecorded."""
        asked, devices = self._asked, self._asked.devices
        begun_s = self._now_s()
        chosen = self._chosen()
        before: Segment | None = None
        for segment in chosen:
            if self._now_s() - begun_s > asked.max_s:
                at = rfc3339(self._last_ns)[:19]
                self._notes.append(f"it took longer than {asked.max_s:g} s and ended at {at}Z of the signal")
                break
            follows = before is not None and segment.head.follows and segment.number == before.number + 1
            if self._first_ns is not None and not follows and before is not None:
                at = rfc3339(segment.contents.first_arrival_ns or 0)[:19]
                self._notes.append(
                    f"something is missing before {at}Z: both go on from what was remembered then"
                )
            before = segment if self._replay(segment, follows=follows) else None
        for line in (self._served, self._candidate):
            line.end(devices, asked.model_id)
        served, candidate = self._served, self._candidate
        if self._first_ns is None or not served.made.n_windows:
            raise NothingRecorded(
                "; ".join(noted(self._notes))
                or f"no window of {', '.join(sorted(devices)[:5])} is in what is recorded since {rfc3339(asked.from_ns)[:19]}Z"
            )
        took_s = max(self._now_s() - begun_s, 1e-9)
        changed = changes(served.made, candidate.made, asked.labels)
        return Backtest(
            model_id=asked.model_id,
            version=asked.version,
            against=asked.against,
            sha256=asked.sha256,
            start_ns=self._first_ns,
            end_ns=self._last_ns,
            n_devices=len(self._heard),
            device_hours=round(self._device_hours(), 4),
            served=served.made.side(_median_us(served.times), served.n_failed),
            candidate=candidate.made.side(_median_us(candidate.times), candidate.n_failed),
            n_kept=changed.n_kept,
            n_gained=changed.n_gained,
            n_lost=changed.n_lost,
            gained=changed.gained,
            lost=changed.lost,
            n_lost_true=changed.n_lost_true,
            lost_true=changed.lost_true,
            n_lost_false=changed.n_lost_false,
            n_kept_true=changed.n_kept_true,
            windows_per_s=round((served.made.n_windows + candidate.made.n_windows) / took_s, 1),
            notes=noted(self._notes),
        )

    def _device_hours(self) -> float:
        """For how long devices were scored in service: every window stands for the usual time to the next."""
        found = 0
        for plan in self._asked.served:
            n = self._served.made.n_by_device.get(plan.device.device_id, 0)
            if n and plan.model is not None:
                steps = [c.step_ns for c in plan.model.calibration.values() if c.step_ns]
                found += n * (steps[0] if steps else plan.window.hop_ns)
        return found / _HOUR_NS

    def _chosen(self) -> list[Segment]:
        asked = self._asked
        segments = load(asked.folder, self._notes.append) if asked.folder.is_dir() else []
        if not segments:
            raise NothingRecorded(
                "; ".join(noted(self._notes)) or "the black box of this gateway is empty, or off"
            )
        recent = [s for s in segments if (s.contents.last_arrival_ns or 0) >= asked.from_ns]
        if not recent:
            last_ns = max(s.contents.last_arrival_ns or 0 for s in segments)
            raise NothingRecorded(f"the newest that is recorded is of {rfc3339(last_ns)[:19]}Z")
        return recent

    def _replay(self, segment: Segment, *, follows: bool) -> bool:
        """Gives a file to both; False where something of it is missing."""
        if (otherwise := self._recorded_otherwise(segment)) is not None:
            self._notes.append(f"{segment.path.name} is left out: {otherwise} was configured otherwise then")
            return False
        troubles: list[str] = []
        begins_ns, last_ns = None, 0
        heard: set[str] = set()
        try:
            if not follows:
                self._begin(segment)
            for found in read_frames(segment.path, troubles.append):
                if isinstance(found, Mark):
                    continue
                self._give(found)
                for item in found:
                    last_ns = item.now_ns if isinstance(item, Tick) else item.arrival_ns
                    begins_ns = last_ns if begins_ns is None else begins_ns
                    if isinstance(item, SampleBlock) and item.device_id in self._asked.devices:
                        heard.add(item.device_id)
        except LogError as error:
            gone = "was overwritten meanwhile" if not segment.path.exists() else str(error)
            troubles.append(f"{segment.path.name}: {gone}")
        if segment.is_closed:  # one that is being written ends in something unfinished
            self._notes += [f"{text}: something is missing there" for text in troubles]
        if begins_ns is not None:
            first_ns = begins_ns if self._first_ns is None else min(self._first_ns, begins_ns)
            self._first_ns, self._last_ns = first_ns, max(self._last_ns, last_ns, first_ns)
            self._heard |= heard
        return not troubles

    def _recorded_otherwise(self, segment: Segment) -> str | None:
        """A device whose values meant something else then."""
        plans = {plan.device.device_id: plan.device for plan in self._asked.served}
        for device in segment.head.devices:
            here = plans.get(device.device_id)
            there = {c.name: (c.unit, c.origin) for c in device.channels}
            if here is not None and any(there.get(c.name) != (c.unit, c.origin) for c in here.channels):
                return device.device_id
        return None

    def _give(self, items: Iterable[LogItem]) -> None:
        blocks: list[SampleBlock] = []
        for item in items:
            if isinstance(item, SampleBlock):
                if item.device_id in self._watched:
                    blocks.append(item)
                continue
            self._push(blocks)
            blocks = []
            for line in (self._served, self._candidate):
                assert line.core is not None
                if isinstance(item, Tick):
                    line.core.pipeline.advance(item.now_ns)
                elif isinstance(item, Acceptance) and item.device_id in self._watched:
                    line.core.pipeline.accept(item)
        self._push(blocks)
        for line in (self._served, self._candidate):
            line.take(self._asked.devices)

    def _push(self, blocks: Sequence[SampleBlock]) -> None:
        if blocks:
            for line in (self._served, self._candidate):
                assert line.core is not None
                line.core.push(*blocks)

    def _begin(self, segment: Segment) -> None:
        """A stretch begins with ``segment``. Raises LogError."""
        asked = self._asked
        for line in (self._served, self._candidate):
            line.end(asked.devices, asked.model_id)
        state = frames_beginning(segment.path).state
        snapshot = None if state is None else unpacked_state(segment.path, state)
        for line in (self._served, self._candidate):
            line.core = self._core(segment, line, snapshot)

    def _core(self, segment: Segment, line: _Line, snapshot: bytes | None) -> Core:
        """The core in which ``line`` goes on from ``snapshot``."""
        asked = self._asked

        def built(plans: tuple[DevicePlan, ...]) -> Core:
            pipeline = Pipeline(
                asked.site,
                asked.gateway,
                plans,
                max_batches_out=asked.max_batches_out,
                max_waiting=asked.max_waiting,
            )
            used = {plan.engine for plan in plans if plan.engine}
            return Core(pipeline, {name: line.engines[name] for name in used}, plans)

        core = built(asked.served if snapshot is not None else line.plans)
        if snapshot is not None:
            try:
                core.pipeline.restore(snapshot, only=self._watched)
                if line.plans is not asked.served:
                    changed = [p for p in line.plans if p.device.device_id in asked.devices]
                    core.adopt(changed, {p.engine: line.engines[p.engine] for p in changed})
            except (msgspec.DecodeError, NotDrained, ValueError):
                self._notes.append(
                    f"{segment.path.name}: what the pipeline remembered cannot be used: begun without it"
                )
                core = built(line.plans)
        core.pipeline.events()  # said before
        core.pipeline.take_verdicts()
        core.pipeline.trace_scores()
        return core


def _median_us(times: Sequence[int]) -> float:
    return statistics.median(times) / 1e3 if times else 0.0
