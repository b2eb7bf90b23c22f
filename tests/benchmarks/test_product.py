"""What the quality figures rest on: rows are given the last word that a gateway had for them, and never a later one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import skab
from benchmarks.quality.product import Rows, Scored, at_rows, raised_at
from cloud_sink.fit import Trained
from tests.data import data_path


def scored(ends: list[int], changed: list[int], raised: list[int]) -> Scored:
    n = len(ends)
    return Scored(
        np.array(ends, np.int64),
        np.arange(1, n + 1, dtype=np.float32),
        np.linspace(0.5, 0.1, n),
        np.ones(n, np.bool_),
        np.array(changed, np.int64),
        np.array(raised, np.int64),
    )


def test_a_row_has_the_last_word_from_before_the_next_one() -> None:
    rows = at_rows(scored([20, 25, 30, 41], [25, 41], [25]), np.array([0, 10, 20, 30, 40]))
    assert rows.score.tolist() == [0.0, 1.0, 3.0, 3.0, 4.0]
    assert rows.alerting.tolist() == [False, True, True, True, True]
    assert rows.p.tolist()[0] == 1.0
    assert rows.changed.tolist() == [2, 4]
    assert rows.raised.tolist() == [2]
    after = rows.after(2)
    assert (after.score.tolist(), after.changed.tolist()) == ([3.0, 3.0, 4.0], [0, 2])


def test_who_says_nothing_has_no_word_anywhere() -> None:
    rows = at_rows(scored([], [], []), np.array([0, 10]))
    assert (rows.score.tolist(), rows.p.tolist(), rows.alerting.any()) == ([0.0, 0.0], [1.0, 1.0], False)


@pytest.fixture(scope="module")
def file() -> skab.File:
    return skab.read(data_path("skab", "data", "other", "1.csv"))


@pytest.fixture(scope="module")
def model(file: skab.File) -> Trained:
    return skab.fitted(file, "mahalanobis")


def said(file: skab.File, model: Trained) -> Rows:
    rows = file.case.said(model, "float32", skab.P_ALARM)
    assert rows is not None
    return rows


def test_what_is_said_of_a_row_does_not_depend_on_those_after_it(
    file: skab.File, model: Trained, tmp_path: Path
) -> None:
    n_kept = 650
    part = tmp_path / "1.csv"
    part.write_text("".join(file.case.path.read_text().splitlines(keepends=True)[: n_kept + 1]))
    whole, cut = said(file, model), said(skab.read(part), model)
    n = n_kept - skab.HEALTHY_ROWS
    assert cut.score.size == n
    assert whole.alerting[:n].any()
    for name in ("score", "p", "alerting"):  # but for the last row: when the next one comes is not known
        assert np.array_equal(getattr(whole, name)[: n - 1], getattr(cut, name)[: n - 1]), name


@pytest.mark.parametrize("n_healthy", [skab.HEALTHY_ROWS, 500])
def test_a_model_is_of_the_healthy_rows_alone(n_healthy: int) -> None:
    one = skab.read(data_path("skab", "data", "other", "1.csv"), n_healthy)
    training = skab.fitted(one, "mahalanobis").manifest.training
    assert training.start_ns <= one.case.times_ns[0]
    assert one.case.times_ns[n_healthy - 2] < training.end_ns <= one.case.times_ns[n_healthy]
    assert one.case.anomalous.size == one.case.times_ns.size - n_healthy


def test_the_first_row_that_is_judged_has_a_word_already(file: skab.File, model: Trained) -> None:
    rows = said(file, model)
    assert rows.score.size == file.case.anomalous.size == file.case.times_ns.size - skab.HEALTHY_ROWS
    assert rows.score[0] > 0.0
    assert file.case.anomalous.sum() > 0
    assert file.changes.size > 0


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_a_level_raises_what_a_replay_at_it_does(file: skab.File, model: Trained, level: float) -> None:
    scored = file.case.scored(model, "float32", level)
    assert scored is not None
    assert scored.raised_ns.size > 0
    assert raised_at(scored, model.manifest.window, level).tolist() == scored.raised_ns.tolist()


def test_float32_and_int8_are_two_graphs_of_one_training(file: skab.File, model: Trained) -> None:
    float32, int8 = (file.case.scored(model, graph, skab.P_ALARM) for graph in ("float32", "int8"))
    assert float32 is not None
    assert int8 is not None
    assert np.array_equal(float32.end_ns, int8.end_ns)
    assert not np.array_equal(float32.score, int8.score)
    assert np.corrcoef(np.log(float32.score), np.log(int8.score))[0, 1] > 0.9
