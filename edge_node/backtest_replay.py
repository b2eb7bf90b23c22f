"""The black box and the feature log through two pipelines at once: the one in service, and the same with a candidate.

Strategy: one pass over the files, read while the daemon writes them, and every item is given to both, so both have the same
signal, whatever of it the ring overwrites meanwhile. Where a file begins in the midst of things both go on from what the
pipeline remembered there, and the candidate then takes over as it would in service: between two windows. Something that is
missing, unreadable or was configured otherwise ends a stretch; the next file begins one anew, and a note says so. Where there
is no signal, the features of its windows stand in for it, if they were logged; both judge them as if they came of signal,
and over a seam between the two both go on from what they themselves remember.

Invariant: files are read, nothing is written; alerts and scores stay here, as counts and ids.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from edge_node.backtest_compare import changes
from edge_node.backtest_features import History, Opening, Seam
from edge_node.backtest_line import Asked as Asked
from edge_node.backtest_line import Line, Unusable
from edge_node.feature_rows import FeatureRows
from edge_node.inference import ScoringEngine
from edge_node.plans import DevicePlan
from edge_node.segments import Segment, load
from models.acceptance import Acceptance
from models.backtest import Backtest, noted
from models.block_frames import frames_beginning, read_frames
from models.block_log import unpacked_state
from models.evidence import Mark
from models.logs import LogError, LogItem, Tick
from models.messages import rfc3339
from models.signal import NS_PER_S, SampleBlock

_HOUR_NS = 3600 * NS_PER_S


class NothingRecorded(Exception):
    """There is no signal to replay; the text says why."""


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
        self._served = Line(asked, asked.served, engines)
        self._candidate = Line(asked, asked.candidate, engines)
        self._lines = (self._served, self._candidate)
        self._watched = asked.watched
        self._notes: list[str] = []
        self._first_ns: int | None = None
        self._last_ns = 0
        self._heard: set[str] = set()
        self._in_features = False  # what is being replayed
        self._n_from_features = 0
        self._missing: list[int] = []  # where features begin anew

    def run(self) -> Backtest:
        """What came of it. Raises NothingRecorded."""
        asked, devices = self._asked, self._asked.devices
        self._begun_s = self._now_s()
        history = self._history()
        chosen = self._chosen(history)
        before: Segment | None = None
        is_late = False
        for segment in chosen:
            if is_late or (is_late := self._is_late()):
                break
            follows = before is not None and segment.head.follows and segment.number == before.number + 1
            if not follows and history is not None:
                is_late = self._fill(history, self._begins(segment))
            if is_late:
                break
            tells = before is not None or self._in_features
            before = segment if self._replay(segment, follows=follows, tells=tells) else None
        if history is not None and not is_late:
            self._fill(history, None)
        for line in self._lines:
            line.end()
        served, candidate = self._served, self._candidate
        if self._missing:
            first, more = rfc3339(self._missing[0])[:19], len(self._missing) - 1
            often = f" and {more} times after" if more else ""
            self._notes.append(
                f"features are missing before {first}Z{often}: both go on from what was remembered then"
            )
        if self._first_ns is None or not served.made.n_windows:
            raise NothingRecorded(
                "; ".join(noted(self._notes))
                or f"no window of {', '.join(sorted(devices)[:5])} is in what is recorded since {rfc3339(asked.from_ns)[:19]}Z"
            )
        took_s = max(self._now_s() - self._begun_s, 1e-9)
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
            n_from_features=self._n_from_features,
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

    def _is_late(self) -> bool:
        """Whether it has taken too long; then a note says so."""
        asked = self._asked
        if self._now_s() - self._begun_s <= asked.max_s:
            return False
        at = rfc3339(self._last_ns)[:19]
        self._notes.append(f"it took longer than {asked.max_s:g} s and ended at {at}Z of the signal")
        return True

    def _history(self) -> History | None:
        """The features that both can judge."""
        asked = self._asked
        if asked.features is None:
            return None
        theirs = {p.device.device_id: p.model for p in asked.candidate}
        plans: dict[str, DevicePlan] = {}
        for plan in asked.served:
            name, model = plan.device.device_id, plan.model
            other = theirs.get(name)
            if name not in asked.devices or model is None or other is None:
                continue
            if other.manifest.schema_id == model.manifest.schema_id:
                plans[name] = plan
            else:
                self._notes.append(f"{name}: a candidate with other features is judged on raw signal alone")
        return History(asked.features, asked.from_ns, plans, self._notes.append, self._recorded_otherwise)

    def _chosen(self, history: History | None) -> list[Segment]:
        asked = self._asked
        segments = load(asked.folder, self._notes.append) if asked.folder.is_dir() else []
        if history is not None and history.files:
            return [s for s in segments if (s.contents.last_arrival_ns or 0) >= asked.from_ns]
        if not segments:
            raise NothingRecorded(
                "; ".join(noted(self._notes)) or "the black box of this gateway is empty, or off"
            )
        recent = [s for s in segments if (s.contents.last_arrival_ns or 0) >= asked.from_ns]
        if not recent:
            last_ns = max(s.contents.last_arrival_ns or 0 for s in segments)
            raise NothingRecorded(f"the newest that is recorded is of {rfc3339(last_ns)[:19]}Z")
        return recent

    def _fill(self, history: History, seam: Seam | None) -> bool:
        """Gives both the features from here up to ``seam``; True where that took too long."""
        if not history.files:
            return False
        position = {d: at for d in self._asked.devices if (at := self._served.featured_ns(d)) is not None}
        at_ns = None if self._first_ns is None else self._last_ns
        for item in history.between(position, at_ns, seam):
            if isinstance(item, Opening):
                if self._is_late():
                    return True
                self._open(item)
                continue
            n_before = self._served.made.n_windows
            for line in self._lines:
                assert line.core is not None
                line.core.pipeline.feed(item)
                line.take()
            self._n_from_features += self._served.made.n_windows - n_before
            if isinstance(item, FeatureRows):
                self._heard.add(item.device_id)
                self._reach(item.arrival_ns, item.arrival_ns)
        return False

    def _begins(self, segment: Segment) -> Seam:
        """Where ``segment``, which begins a stretch, takes over."""
        try:
            snapshot = _snapshot(segment)
        except LogError:  # said when it is replayed
            snapshot = None
        return Seam.at(segment, snapshot)

    def _open(self, opening: Opening) -> None:
        """Features follow."""
        if opening.linked and self._in_features:
            return
        if self._first_ns is not None and not opening.reached >= self._heard:
            self._missing.append(opening.at_ns)
        for line in self._lines:
            if not line.begin_features(opening.remembered, opening.reached):
                text = "features begin without what was remembered: another version was in service, or nothing yet"
                self._notes.append(text)
        self._in_features = True

    def _reach(self, first_ns: int, last_ns: int) -> None:
        """What arrived from ``first_ns`` to ``last_ns`` has been replayed."""
        self._first_ns = first_ns if self._first_ns is None else min(self._first_ns, first_ns)
        self._last_ns = max(self._last_ns, last_ns, self._first_ns)

    def _replay(self, segment: Segment, *, follows: bool, tells: bool) -> bool:
        """Gives a file to both; False where something of it is missing. ``tells``: a note says what is missing before."""
        if (otherwise := self._recorded_otherwise(segment)) is not None:
            self._notes.append(f"{segment.path.name} is left out: {otherwise} was configured otherwise then")
            return False
        troubles: list[str] = []
        begins_ns, last_ns = None, 0
        heard: set[str] = set()
        try:
            if not follows:
                self._begin(segment, tells=tells)
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
            self._reach(begins_ns, last_ns)
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
            for line in self._lines:
                assert line.core is not None
                if isinstance(item, Tick):
                    line.core.pipeline.advance(item.now_ns)
                elif isinstance(item, Acceptance) and item.device_id in self._watched:
                    line.core.pipeline.accept(item)
        self._push(blocks)
        for line in self._lines:
            line.take()

    def _push(self, blocks: Sequence[SampleBlock]) -> None:
        if blocks:
            for line in self._lines:
                assert line.core is not None
                line.core.push(*blocks)

    def _begin(self, segment: Segment, *, tells: bool) -> None:
        """A stretch of signal begins with ``segment``. Raises LogError."""
        snapshot = _snapshot(segment)
        seam = Seam.at(segment, snapshot).featured_ns
        reached = {d for d in self._asked.devices if d in seam and self._served.featured_ns(d) == seam[d]}
        self._in_features = False
        if tells and self._first_ns is not None and not (reached and reached >= self._heard):
            at = rfc3339(segment.contents.first_arrival_ns or 0)[:19]
            self._notes.append(f"something is missing before {at}Z: both go on from what was remembered then")
        for line in self._lines:
            try:
                line.begin(snapshot, reached)
            except Unusable:
                text = f"{segment.path.name}: what the pipeline remembered cannot be used: begun without it"
                self._notes.append(text)


def _snapshot(segment: Segment) -> bytes | None:
    """What the pipeline remembered at the beginning of ``segment``. Raises LogError."""
    state = frames_beginning(segment.path).state
    return None if state is None else unpacked_state(segment.path, state)


def _median_us(times: Sequence[int]) -> float:
    return statistics.median(times) / 1e3 if times else 0.0
