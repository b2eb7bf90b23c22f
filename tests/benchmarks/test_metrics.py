"""Figures of scores and alarms against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality import metrics
from benchmarks.quality.cases import loss, mean, of_part
from benchmarks.quality.metrics import alarms, ranking


def bools(text: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array([c == "x" for c in text])


def test_auc_and_average_precision() -> None:
    found = ranking(bools(".x.x"), np.array([0.1, 0.4, 0.35, 0.8]), with_vus=False)
    assert found == (1.0, 1.0, None)
    found = ranking(bools("..xx"), np.array([0.1, 0.4, 0.35, 0.8]), with_vus=False)
    assert found.auc == pytest.approx(0.75)
    assert found.average_precision == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_volume_under_the_surface_is_the_package_s() -> None:
    pytest.importorskip("TSB_AD", reason="TSB-AD is not installed: pip install --no-deps TSB-AD")
    truth = bools("." * 400 + "x" * 60 + "." * 340)
    generator = np.random.default_rng(0)
    noise = generator.random(800)
    perfect, weak, lots = (ranking(truth, noise + by * truth).vus_pr for by in (10.0, 0.3, 0.0))
    assert perfect is not None
    assert weak is not None
    assert lots is not None
    assert 1.0 >= perfect > weak > lots > truth.mean() / 2
    assert ranking(truth, np.exp(3 * (noise + 0.3 * truth))).vus_pr == pytest.approx(
        weak
    )  # ranks alone count


def test_without_the_package_there_is_no_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "generate_curve", None)
    assert ranking(bools(".x"), np.array([0.0, 1.0])).vus_pr is None


def test_alarms_are_pooled_over_files() -> None:
    found = alarms([bools("....xx"), bools("xx..")], [bools("..xxx."), bools("xx..")])
    assert found.f1 == pytest.approx(2 * 3 / (4 + 5))
    assert found.far == pytest.approx(2 / 6)
    assert found.mar == pytest.approx(1 / 4)


def test_alarms_at_random_times_are_as_many_and_no_better_than_chance() -> None:
    truth = bools("." * 500 + "x" * 500)
    half = bools("." * 500 + "x" * 500)
    found = alarms([truth], [half])
    assert found.f1 == 1.0
    assert 0.4 < found.f1_random < 0.6  # an alarm for half of the time hits half of it
    assert alarms([truth], [np.ones(1000, np.bool_)]).f1_random == pytest.approx(2 / 3)
    assert alarms([truth], [np.zeros(1000, np.bool_)]).f1_random == 0.0


def test_what_is_all_of_one_kind_cannot_be_judged() -> None:
    for truth in ("....", "xxxx"):
        with pytest.raises(ValueError, match="of one kind"):
            ranking(bools(truth), np.arange(4.0))
        with pytest.raises(ValueError, match="of one kind"):
            alarms([bools(truth)], [bools("x...")])


def test_means_are_of_those_that_have_a_figure() -> None:
    assert mean([{"a": 1.0, "b": None}, {"a": 3.0, "b": None, "c": 2.0}]) == {"a": 2.0, "b": None, "c": 2.0}


def test_what_int8_loses_is_of_the_files_that_have_both() -> None:
    assert loss({"a": 0.9, "b": 0.8, "c": 0.5}, {"a": 0.8, "b": 0.82}) == {
        "mean": pytest.approx(0.04),
        "worst": pytest.approx(0.1),
        "files": 2,
    }
    assert loss({"a": 0.9}, {}) == {"files": 0}


def test_even_and_odd_files_are_by_index() -> None:
    assert [of_part(part, 5) for part in ("all", "even", "odd")] == [[0, 1, 2, 3, 4], [0, 2, 4], [1, 3]]
