"""What a replay came to: counted as it goes, told at the end.

Memory does not grow with the log: of alerts only counts are kept, of scores what ``quality`` needs. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np
from tabulate import tabulate

from edge_node.assembly import Core
from edge_node.counters import Counters
from edge_node.near_alerts import NearAlert
from edge_node.plans import DevicePlan
from edge_node.quality import Quality, Scoreboard, judge
from edge_node.replay_advice import WEEK_NS, advice, rounded_up, unraised
from edge_node.replay_blame import Blame
from edge_node.settling import Trace
from models.alerting import duration
from models.calibration import AlertLevel, Calibration, budget_for_level
from models.labels import Labels
from models.messages import Alert, rfc3339
from models.signal import NS_PER_S, DropReason, Mode, SampleBlock

SEPARATES = 0.7  # a ROC AUC from which on scores are worth a look


class Report:
    """Counts blocks, alerts and scores of one replay."""

    def __init__(self, core: Core, labels: Labels | None) -> None:
        self._core = core
        self._before = core.pipeline.counters()
        self._boards: dict[str, Scoreboard] = {}
        self._labels = labels
        self._near: dict[str, NearAlert] = {}
        self._highest: dict[str, float] = {}
        for plan in core.plans:
            self._expect_scores(plan.device.device_id)
        self.n_rows = 0
        self._first_ns: int | None = None
        self._last_ns: int | None = None
        self.rows_of: Counter[str] = Counter()
        self._scored: Counter[str] = Counter()
        self._watched_ns: Counter[str] = Counter()
        self._burst_ns: dict[str, int] = {}  # end of the last record
        self._raised: Counter[tuple[str, str]] = Counter()  # by device and kind
        self._open: dict[str, Alert] = {}
        self._n_open = 0  # of those that are done with
        self.blame = Blame()  # with the alerts that are still open once the text was asked for

    def _expect_scores(self, device: str) -> None:
        """From here on, if the device has a model."""
        plan = self._core.plan_of(device)
        if plan.model is None:
            return
        self._near[device] = NearAlert(plan, self._step_ns(device))
        self._highest[device] = -np.inf
        if self._labels is not None:
            self._boards[device] = Scoreboard(self._labels, plan.window)

    def block(self, block: SampleBlock) -> None:
        """Rows on their way in."""
        if not block.n:
            return
        times = block.times()
        first, last = int(times.min()), int(times.max())
        self._first_ns = first if self._first_ns is None else min(first, self._first_ns)
        self._last_ns = last if self._last_ns is None else max(last, self._last_ns)
        self.n_rows += block.n
        self.rows_of[block.device_id] += block.n

    @property
    def extent(self) -> tuple[int, int]:
        """Times of the first and the last row; there was one."""
        assert self._first_ns is not None
        assert self._last_ns is not None
        return self._first_ns, self._last_ns

    def alert(self, alert: Alert) -> None:
        """An alert that came out."""
        if alert.state == "raised":
            self._raised[alert.device, alert.kind] += 1
        before = self._open.pop(alert.alert_id, None)
        if before is not None and not alert.contributions:
            alert = msgspec.structs.replace(
                alert, contributions=before.contributions
            )  # a sensor that works again
        if alert.state != "cleared":
            self._open[alert.alert_id] = alert
        elif before is not None:
            self.blame.add(alert)

    def trace(self, trace: Trace) -> None:
        """Scores that came out."""
        device, plan = trace.device_id, self._core.plan_of(trace.device_id)
        if device not in self._near:
            self._expect_scores(device)
        self._scored[device] += trace.score.size
        watched_ns = trace.score.size * plan.window.hop_ns
        if plan.window.mode is Mode.BURST and trace.score.size:
            # The silence between records is watched too, for whatever happens shows in the next.
            last_ns = int(trace.end_ns[-1])
            watched_ns = last_ns - self._burst_ns.get(device, int(trace.start_ns[0]))
            self._burst_ns[device] = last_ns
        self._watched_ns[device] += watched_ns
        if device in self._boards:
            self._boards[device].add(trace)
        if device in self._near:
            self._near[device].add(trace)
            self._highest[device] = max(self._highest[device], float(trace.score.max(initial=-np.inf)))

    @property
    def log_ns(self) -> tuple[int, int]:
        """The times of the first row and the last."""
        return self._first_ns or 0, self._last_ns or 0

    def advice(self, named_by_file: str | None, *, labels_of_file: bool) -> Iterator[str]:
        """What the log and its labels lack, where it can be told; ``named_by_file`` as in ``replay_advice``;
        ``labels_of_file``: they are not of the log's own column."""
        first_ns, last_ns = self.log_ns
        if self._labels is not None and not self._labels.any_within(first_ns, last_ns):
            yield (
                "no label lies within the log: are the times of both in one time zone?"
                if labels_of_file
                else "no row of the part asked for is labelled anomalous: there is nothing to compare alerts with"
            )
        drops = self._counters().window_drops
        plans, span_ns = self._core.plans, last_ns - first_ns
        yield from advice(
            plans,
            self.rows_of,
            self._scored,
            drops,
            span_ns=span_ns,
            named_by_file=named_by_file,
            learning=self._core.pipeline.learning(),
        )

    def _counters(self) -> Counters:
        """Of the log alone, also where the core went on from what it remembered."""
        return self._core.pipeline.counters().since(self._before)

    def quality(self) -> Quality | None:
        """How well the alerts match the labels; None without any."""
        return judge(list(self._boards.values()))

    def text(self) -> str:
        """The tables."""
        for alert in self._open.values():
            self.blame.add(alert)
        self._n_open, self._open = self._n_open + len(self._open), {}
        parts = [_table(self.facts())]
        if len(self._core.plans) > 1:
            parts.append(self._devices())
        if self.blame.n:
            parts.append(_table(*self.blame.table(by_device=len(self._core.plans) > 1)))
        quality = self.quality()
        if quality is not None:
            parts.append(quality_text(quality))
            if not quality.alerts.n_alerts and (quality.alerts.auc or 0.0) > SEPARATES:
                parts[-1] += f"\n{self._missed()}"
        elif quiet := list(self._unraised()):
            parts.append("\n".join(quiet))
        return "\n\n".join(parts)

    def _unraised(self) -> Iterator[str]:
        """Devices without a machine alert whose scores rose all the same."""
        for device, near in self._near.items():
            plan = self._core.plan_of(device)
            level = _level(self._core, plan)
            if self._raised[device, "machine"] or level is None:
                continue
            said = unraised(
                plan, level, self._calibration(plan), highest=self._highest[device], p_raise=near.p_raise
            )
            if said is not None:
                yield said

    def _missed(self) -> str:
        """What would raise the first alert where scores tell anomalous windows from others, and none was raised."""
        budgets: list[float] = []
        for device, near in self._near.items():
            plan = self._core.plan_of(device)
            if near.p_raise is not None:
                level = budget_for_level(
                    self._calibration(plan), plan.alert, plan.window.hop_ns, near.p_raise
                )
                budgets += [] if level is None else [level]
        said = "The scores tell anomalous windows from others, but none lasts above the level"
        if not budgets:
            return f"{said}, however many --alerts-per-week are allowed."
        return f"{said}: with --alerts-per-week {rounded_up(min(budgets))} there would be alerts."

    def _calibration(self, plan: DevicePlan) -> Calibration:
        assert plan.model is not None
        return plan.model.calibration[self._core.engines[plan.engine].target]

    def _step_ns(self, device: str) -> int:
        plan = self._core.plan_of(device)
        return self._calibration(plan).step_ns or plan.window.hop_ns

    def facts(self) -> list[tuple[str, str]]:
        """What was replayed and what it came to, as pairs of name and value."""
        n_open = self._n_open + len(self._open)
        counters = self._counters()
        span = "nothing"
        if self._first_ns is not None and self._last_ns is not None:
            began, ended = rfc3339(self._first_ns)[:19], rfc3339(self._last_ns)[:19]
            span = f"{self.n_rows} rows, {began}Z to {ended}Z ({duration(self._last_ns - self._first_ns)})"
        facts = [("replayed", span)]
        models = dict.fromkeys(f"{m.model_id} version {m.version}, {m.backend}" for m in self._core.models)
        facts += [("model" if not i else "", text) for i, text in enumerate(models)]
        if len(self._core.plans) == 1:
            level = _level(self._core, self._core.plans[0])
            if level is not None:
                facts.append(("level", level.text()))
        facts.append(("windows scored", str(counters.n_windows_scored)))
        drops = dict(counters.window_drops)
        if n_unscored := drops.pop(DropReason.NO_MODEL, 0):
            facts.append(("windows without model", f"{n_unscored}, for limits and sensor checks only"))
        if n_learned := drops.pop(DropReason.LEARNING, 0):
            facts.append(("windows learned from", str(n_learned)))
        facts += _dropped("windows", drops)
        if counters.n_windows_pending:
            facts.append(("windows not settled", str(counters.n_windows_pending)))
        facts += _dropped("values", counters.sample_drops)
        if self._core.n_inference_failures:
            facts.append(("failed invokes", f"{self._core.n_inference_failures}: {self._core.last_failure}"))
        kinds: Counter[str] = Counter()
        for (_, kind), n in self._raised.items():
            kinds[kind] += n
        said = ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())) or "none"
        facts.append(("alerts", said + (f"; {n_open} still open" if n_open else "")))
        if watched_ns := sum(self._watched_ns.values()):
            facts.append(("machine alerts a week", _rate(kinds["machine"], watched_ns)))
        return facts

    def _devices(self) -> str:
        rows = []
        for plan in self._core.plans:
            device = plan.device.device_id
            level = _level(self._core, plan)
            n = self._raised[device, "machine"]
            others = sum(k for (of, kind), k in self._raised.items() if of == device and kind != "machine")
            watched_ns = self._watched_ns[device]
            rows.append(
                (
                    device,
                    str(self.rows_of[device]),
                    str(self._scored[device]),
                    str(n),
                    _rate(n, watched_ns) if watched_ns else "-",
                    str(others),
                    level.text() if level is not None else "no model",
                )
            )
        headers = ("device", "rows", "windows scored", "machine alerts", "a week", "other alerts", "level")
        return _table(rows, headers)


def quality_rows(quality: Quality) -> list[tuple[str, ...]]:
    """Each figure by its name: of the alerts, at random times, of a clock."""
    columns = (quality.alerts, quality.random, quality.clock)

    def row(name: str, cell: str, digits: int) -> tuple[str, ...]:
        return (name, *(_number(getattr(figures, cell), digits) for figures in columns))

    return [
        row("precision", "precision", 3),
        row("recall", "recall", 3),
        row("F1", "f1", 3),
        row("false-alarm rate (FAR)", "far", 3),
        row("missed-alarm rate (MAR)", "mar", 3),
        row("ROC AUC", "auc", 3),
        row(f"faults detected, of {quality.n_faults}", "n_detected", 1),
        row("faults within an earlier alert", "n_covered", 1),
        ("median detection delay", *(_delay(figures.delay_s) for figures in columns)),
        row("false alerts", "n_false_alerts", 1),
    ]


QUALITY_HEADERS = ("against the labels", "alerts", "random", "clock")


def quality_note(quality: Quality) -> str:
    """What the columns of :func:`quality_rows` are."""
    return (
        f"{quality.n_positive} of {quality.n_windows} scored windows are labelled anomalous. random: the same alerts at "
        "random times; clock: a score that only grows"
    )


def quality_text(quality: Quality) -> str:
    """The table of figures, each beside chance and a clock, and what the columns are."""
    return f"{_table(quality_rows(quality), QUALITY_HEADERS)}\n({quality_note(quality)})"


def _table(rows: Sequence[tuple[str, ...]], headers: tuple[str, ...] = ()) -> str:
    style = "simple" if headers else "plain"
    return str(tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True))


def _level(core: Core, plan: DevicePlan) -> AlertLevel | None:
    return plan.levels[core.engines[plan.engine].target] if plan.model is not None else None


def _dropped(what: str, reasons: Mapping[DropReason, int]) -> list[tuple[str, str]]:
    found = ", ".join(f"{n} {reason}" for reason, n in sorted(reasons.items()) if n)
    return [(f"{what} dropped", found or "none")]


def _rate(n: int, watched_ns: int) -> str:
    return f"{n * WEEK_NS / watched_ns:.3g} ({n} in {duration(watched_ns)} watched)"


def _number(value: float | None, digits: int) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if digits == 1 and value == round(value) else f"{value:.{digits}f}"


def _delay(seconds: float | None) -> str:
    return "-" if seconds is None else duration(round(seconds * NS_PER_S))
