"""The verdict of a trial, from windows and alerts made by hand."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest

from edge_node.model_record import NotAdmitted
from edge_node.model_trial import NS_PER_WEEK, Trial
from edge_node.model_watch import Watch
from edge_node.runs import Runs
from edge_node.settling import Trace
from models.messages import Alert
from models.refusals import RefusalReason
from tests.edge_node.outgoing_messages import alert

HOP_NS = 10_000_000_000
QUIET = [0.5] * 100


def trace(p: list[float], *, device: str = "d", alerting: bool = False, start: int = 0) -> Trace:
    n = len(p)
    start_ns = (start + np.arange(n, dtype=np.int64)) * HOP_NS
    is_open = np.full(n, alerting)
    return Trace(device, start_ns, start_ns + HOP_NS, np.zeros(n, np.float32), np.array(p), is_open, is_open)


def opened(name: str, kind: str = "machine") -> Alert:
    fields: dict[str, Any] = {"alert_id": name, "kind": kind}
    return alert(**fields)


def runs(ms: float = 1.0, n: int = 40, n_failed: int = 0) -> Runs:
    return Runs(n=n, n_failed=n_failed, ns_a_window=deque([round(ms * 1e6)] * (n - n_failed)))


def verdict(trial: Trial, *, false: tuple[str, ...] = (), of: Runs | None = None) -> RefusalReason | None:
    try:
        trial.judge([of or runs()], 10.0, false)
    except NotAdmitted as refused:
        return refused.reason
    return None


def trial(live: list[float] = QUIET, candidate: list[float] = QUIET, budget: float = 1.0) -> Trial:
    made = Trial({"d": budget}, 50)
    made.hear([trace(live)], [trace(candidate)])
    return made


def test_two_that_agree() -> None:
    assert verdict(trial()) is None
    assert "100 windows on trial" in trial().judge([runs()], 10.0, ())


def test_every_device_has_to_show_enough() -> None:
    made = Trial({"d": 1.0, "e": 1.0}, 50)
    made.hear([trace(QUIET)], [trace(QUIET)])
    assert not made.complete
    made.hear([trace(QUIET[:49], device="e")], [trace(QUIET[:49], device="e")])
    assert not made.complete
    made.hear([trace([0.5], device="e", start=49)], [])
    assert made.complete
    assert verdict(trial(QUIET[:49], QUIET[:49])) is RefusalReason.TOO_FEW_WINDOWS


@pytest.mark.parametrize(
    ("n_rare", "n_rare_live", "refused"), [(20, 0, False), (21, 0, True), (40, 10, False), (41, 10, True)]
)
def test_rare_windows(n_rare: int, n_rare_live: int, refused: bool) -> None:
    rare = [0.01] * n_rare + [0.5] * (100 - n_rare)
    live = [0.01] * n_rare_live + [0.5] * (100 - n_rare_live)
    assert verdict(trial(live, rare)) is (RefusalReason.OTHER_SCORES if refused else None)


def test_windows_of_an_alert_are_not_quiet() -> None:
    made = trial()
    made.hear([trace([1e-9] * 90, alerting=True)], [trace([1e-9] * 90, alerting=True)])
    assert verdict(made) is None


def test_a_window_without_a_finite_score() -> None:
    assert verdict(trial(QUIET, QUIET[:99])) is RefusalReason.OTHER_SCORES


def test_an_alert_that_both_have() -> None:
    made = trial()
    made.see("d", [opened("a")], [opened("b")])  # it began a window later, and so has another name
    assert verdict(made) is None
    made.see("d", [opened("a")], [])  # over too soon
    assert verdict(made) is RefusalReason.LOST_ALERTS
    assert verdict(made, false=("a",)) is None
    made.see("d", [], [])
    assert verdict(made) is None


@pytest.mark.parametrize("kind", ["machine", "drift"])
def test_an_alert_that_the_candidate_does_not_have(kind: str) -> None:
    made = trial()
    made.see("d", [opened("a", kind)], [opened("other", "drift" if kind == "machine" else "limit")])
    assert verdict(made) is RefusalReason.LOST_ALERTS
    made.see("d", [], [])
    assert verdict(made) is RefusalReason.LOST_ALERTS  # short as it was
    assert verdict(made, false=("a",)) is None


def test_alerts_of_sensors_and_limits_are_not_the_models_business() -> None:
    made = trial()
    made.see("d", [opened("a", "sensor"), opened("b", "limit")], [])
    made.see("d", [], [opened("c", "stale")])
    assert verdict(made) is None


def test_alerts_of_its_own_are_held_against_twice_the_budget() -> None:
    budget = 1.5 * NS_PER_WEEK / (100 * HOP_NS)  # three may be, in these hundred windows
    made = trial(budget=budget)
    for i in range(3):
        made.see("d", [], [opened(f"a{i}")])
        made.see("d", [], [])
    assert verdict(made) is None
    made.see("d", [], [opened("a3")])
    assert verdict(made) is RefusalReason.TOO_MANY_ALERTS
    made.see("d", [opened("live")], [opened("a3")])  # the other one sees it now, too
    assert verdict(made) is None


def test_one_alert_of_its_own_is_too_many_in_a_short_trial() -> None:
    made = trial()
    made.see("d", [], [opened("a")])
    assert verdict(made) is RefusalReason.TOO_MANY_ALERTS


def test_how_it_ran() -> None:
    assert verdict(trial(), of=runs(ms=9.9)) is None
    assert verdict(trial(), of=runs(ms=10.1)) is RefusalReason.TOO_SLOW
    assert verdict(trial(), of=runs(n_failed=4)) is RefusalReason.INFERENCE_FAILED


def misbehaves(
    watch: Watch, *, of: Runs | None = None, alerts: list[Alert] | None = None, after_s: int = 60
) -> Any:
    try:
        watch.step([of or runs()], alerts or [], after_s * 1_000_000_000)
    except NotAdmitted as misbehaved:
        return misbehaved.reason
    return None


def watch(budget: float = 1.0, known: tuple[str, ...] = ()) -> Watch:
    return Watch(budget, 0, 10.0, [opened(name) for name in known])


def test_a_watch_counts_alerts_that_are_new_over_all_its_time() -> None:
    w = watch(known=("old",))
    assert misbehaves(w, alerts=[opened("old"), opened("a"), opened("b", "sensor")]) is None
    assert misbehaves(w, alerts=[opened("c")]) is None
    assert misbehaves(w, alerts=[opened("c")]) is None
    assert misbehaves(w, alerts=[opened("e")]) is RefusalReason.TOO_MANY_ALERTS


def test_a_watch_knows_the_budget() -> None:
    w = watch(budget=7 * 24 * 60)  # one a minute
    for i in range(10):
        assert misbehaves(w, alerts=[opened(f"a{i}")]) is None
    assert misbehaves(w, alerts=[opened("a10")]) is RefusalReason.TOO_MANY_ALERTS
    assert misbehaves(w, alerts=[], after_s=120) is None


def test_a_watch_forgives_what_may_be_the_machines_fault() -> None:
    assert misbehaves(watch(), of=runs(n_failed=2, n=10)) is None
    assert misbehaves(watch(), of=runs(n_failed=3, n=10)) is RefusalReason.INFERENCE_FAILED
    assert misbehaves(watch(), of=runs(n_failed=3, n=40)) is None
    assert misbehaves(watch(), of=runs(ms=50.0, n=31)) is None
    assert misbehaves(watch(), of=runs(ms=50.0, n=32)) is RefusalReason.TOO_SLOW
