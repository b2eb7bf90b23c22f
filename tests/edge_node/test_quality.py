"""Figures against labels: by definition, and against chance and a clock that must look like what they are."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge_node.quality import Quality, Scoreboard, judge
from edge_node.settling import Trace
from models.labels import Labels, merge
from models.signal import NS_PER_S, Mode, WindowSpec

S = NS_PER_S
IRREGULAR = WindowSpec(n=4, hop=1, rate_hz=Fraction(1), mode=Mode.IRREGULAR)


def trace(
    alerting: NDArray[np.bool_], score: NDArray[np.number] | None = None, first: int = 0, hop: int = 1
) -> Trace:
    """Windows of which the last sample is at ``first``, ``first + hop``, … seconds."""
    ends = (first + hop * np.arange(len(alerting)) + 1) * S
    scores = (np.arange(len(alerting)) % 7 if score is None else score).astype(np.float32)
    return Trace("d", ends - 4 * S, ends, scores, np.ones(len(alerting)), alerting, alerting)


def labels(*spans: tuple[int, int]) -> Labels:
    return merge(np.array(spans, np.int64).reshape(-1, 2) * S)


def flags(n: int, *spans: tuple[int, int]) -> NDArray[np.bool_]:
    found = np.zeros(n, np.bool_)
    for start, stop in spans:
        found[start:stop] = True
    return found


def judged(alerting: NDArray[np.bool_], *spans: tuple[int, int], pieces: int = 1) -> Quality:
    board = Scoreboard(labels(*spans), IRREGULAR)
    for part in np.array_split(np.arange(len(alerting)), pieces):
        if part.size:
            board.add(trace(alerting[part], part % 7, first=int(part[0])))
    found = judge([board])
    assert found is not None
    return found


def test_figures_of_a_case_done_by_hand() -> None:
    # faults at 20-39 and 60-79; alerts 10-14 (false), 30-49 (raised in the first fault), 55-64 (open before the second)
    quality = judged(flags(100, (10, 15), (30, 50), (55, 65)), (20, 40), (60, 80))
    found = quality.alerts
    assert (quality.n_windows, quality.n_positive, quality.n_faults) == (100, 40, 2)
    hit, predicted = 10 + 5, 5 + 20 + 10
    assert found.precision == pytest.approx(hit / predicted)
    assert found.recall == pytest.approx(hit / 40)
    assert found.f1 == pytest.approx(2 * hit / (predicted + 40))
    assert found.far == pytest.approx((predicted - hit) / 60)
    assert found.mar == pytest.approx(1 - hit / 40)
    assert (found.n_detected, found.n_covered) == (1, 1)
    assert found.delay_s == 31 - 20  # the raising window ends a second after its last sample
    assert (found.n_alerts, found.n_false_alerts) == (3, 1)


def test_an_alert_from_before_does_not_hide_one_raised_in_the_fault() -> None:
    found = judged(flags(100, (15, 25), (30, 35)), (20, 40)).alerts
    assert (found.n_detected, found.n_covered) == (1, 0)
    assert found.delay_s == 11


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_figures_are_those_of_the_definitions(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 80))
    alerting = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    truth = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    score = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], truth, [False]])))
    spans = labels(*((int(i), int(j)) for i, j in edges.reshape(-1, 2)))
    board = Scoreboard(spans, IRREGULAR)
    cut = data.draw(st.integers(0, n))
    board.add(trace(alerting[:cut], score[:cut]))
    board.add(trace(alerting[cut:], score[cut:], first=cut))
    quality = judge([board], n_draws=20)
    assert quality is not None
    hit = int((alerting & truth).sum())
    found = quality.alerts
    assert quality.n_positive == truth.sum()
    assert found.recall == (pytest.approx(hit / truth.sum()) if truth.any() else None)
    assert found.precision == (pytest.approx(hit / alerting.sum()) if alerting.any() else None)
    assert found.far == (
        pytest.approx((alerting & ~truth).sum() / (~truth).sum()) if not truth.all() else None
    )
    if truth.any() and not truth.all():
        positive, negative = score[truth], score[~truth]
        wins = (positive[:, None] > negative).mean() + (positive[:, None] == negative).mean() / 2
        assert found.auc == pytest.approx(wins)
        later = np.flatnonzero(truth)[:, None] > np.flatnonzero(~truth)
        assert quality.clock.auc == pytest.approx(later.mean())
        tail = np.arange(n) >= n - alerting.sum()
        assert quality.clock.recall == pytest.approx((tail & truth).sum() / truth.sum())


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_moving_alerts_round_keeps_their_windows(data: st.DataObject) -> None:
    n = data.draw(st.integers(2, 60))
    alerting = np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    board = Scoreboard(labels((0, n // 2)), IRREGULAR)
    board.add(trace(alerting))
    by = data.draw(st.integers(0, n - 1))
    moved = board.shifted(by)
    assert moved.n_predicted == alerting.sum()
    assert moved.n_hit == np.roll(alerting, by)[: n // 2].sum()
    assert moved.n_alerts == board.as_alerted().n_alerts
    assert board.shifted(0).n_hit == board.as_alerted().n_hit


def test_chance_has_the_base_rate_for_precision_and_the_draws_are_seeded() -> None:
    alerting = flags(1000, (100, 150), (700, 720))
    board = Scoreboard(labels((400, 700)), IRREGULAR)
    board.add(trace(alerting))
    first, again, other = judge([board]), judge([board]), judge([board], seed=1)
    assert first == again
    assert first is not None
    assert first != other
    assert first.random.precision == pytest.approx(0.3, abs=0.05)
    assert first.random.recall == pytest.approx(70 / 1000, abs=0.02)
    assert first.random.auc == 0.5


def test_alerts_that_know_beat_chance_and_clock() -> None:
    truth = flags(1000, (300, 350), (600, 700))
    found = judged(truth, (300, 350), (600, 700))
    assert found.alerts.f1 == 1.0
    assert found.random.f1 is not None
    assert found.random.f1 < 0.5
    assert found.clock.f1 == 0.0


def test_what_is_undefined_is_none() -> None:
    nothing_said = judged(flags(50), (10, 20))
    assert nothing_said.alerts.precision is None
    assert nothing_said.random.precision is None
    assert nothing_said.alerts.delay_s is None
    assert nothing_said.alerts.recall == 0.0
    nothing_wrong = judged(flags(50, (3, 5)))
    assert nothing_wrong.alerts.recall is nothing_wrong.alerts.auc is nothing_wrong.random.auc is None
    assert nothing_wrong.alerts.far == pytest.approx(2 / 50)
    assert nothing_wrong.alerts.n_false_alerts == 1
    assert judge([Scoreboard(labels((0, 1)), IRREGULAR)]) is None


def test_the_label_of_a_window_is_its_last_samples() -> None:
    """Uniform samples lie up to half a period off their index, and each is labelled until the next."""
    spec = WindowSpec(n=4, hop=1, rate_hz=Fraction(1), mode=Mode.CONTINUOUS)
    for phase in (-0.49, 0.0, 0.49):
        start, stop = (round((t + phase) * S) for t in (20, 30))
        board = Scoreboard(merge(np.array([[start, stop]])), spec)
        board.add(trace(flags(100)))
        assert board.faults == [(20, 30)]
    board = Scoreboard(merge(np.array([[round(20.9 * S), round(30.9 * S)]])), IRREGULAR)
    board.add(trace(flags(100)))
    assert board.faults == [(20, 30)]


def test_devices_add_up() -> None:
    boards = []
    for alerting, span in ((flags(100, (50, 60)), (50, 60)), (flags(100), (10, 20))):
        board = Scoreboard(labels(span), IRREGULAR)
        board.add(trace(alerting))
        boards.append(board)
    found = judge(boards)
    assert found is not None
    assert (found.n_windows, found.n_positive, found.n_faults) == (200, 20, 2)
    assert (found.alerts.recall, found.alerts.precision, found.alerts.n_detected) == (0.5, 1.0, 1)


def test_records_of_a_burst_are_as_far_apart_as_they_come() -> None:
    spec = WindowSpec(n=100, hop=100, rate_hz=Fraction(1000), mode=Mode.BURST)
    board = Scoreboard(labels((200, 400)), spec)
    board.add(trace(flags(50, (25, 45)), hop=10))
    found = judge([board])
    assert found is not None
    assert found.alerts.delay_s == 251 - 200
    assert found.clock.delay_s == pytest.approx(201 - 200 + 100)  # the last 20 of 50 records, 10 s apart
