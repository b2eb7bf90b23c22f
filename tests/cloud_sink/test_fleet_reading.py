"""A fleet read day by day on threads is the fleet that one thread reads at once."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest

from cloud_sink.computing import Threads
from cloud_sink.features_store import DAY_NS, FeatureStore, StoreError
from cloud_sink.fleet import Fleet, gathered
from cloud_sink.fleet_reading import Gathered, Span, gathering
from cloud_sink.summaries import SummaryTable
from cloud_sink.train import FitError
from models.messages import Summary
from tests.cloud_sink.gateways import summary

SCHEMA = "0123456789abcdef"


def month(n_days: int = 12, n_gateways: int = 6, n_spans: int = 6) -> list[Summary]:
    """Of the days before yesterday."""
    found = []
    for g in range(n_gateways):
        for i in range(n_spans):
            one = summary(i, gateway=f"g{g}", device=f"d{g}", seed=100 * g + i)
            for day in range(n_days):
                back = day * DAY_NS
                found.append(
                    msgspec.structs.replace(
                        one,
                        message_id=f"{one.message_id}-{day}",
                        start_ns=one.start_ns - back,
                        end_ns=one.end_ns - back,
                    )
                )
    return found


def read(url: str, days: float = 30.0) -> Gathered | FitError:
    span = Span(url, "press", SCHEMA, time.time_ns(), days)
    (found,) = Threads().run([gathering(span)], "reading")
    assert isinstance(found, Gathered | FitError)
    return found


def same(ours: Fleet, wanted: Fleet) -> None:
    assert list(ours.devices) == list(wanted.devices)
    assert ours.n_windows == wanted.n_windows
    unit = np.outer(wanted.total.spread, wanted.total.spread) * wanted.total.n
    assert (np.abs(ours.total.mean - wanted.total.mean) <= 1e-12 * wanted.total.spread).all()
    assert (np.abs(ours.total.comoment - wanted.total.comoment) <= 1e-12 * unit).all()
    assert np.array_equal(ours.rows, wanted.rows)
    assert np.array_equal(ours.row_device, wanted.row_device)


def test_what_is_read_by_days_is_what_is_read_at_once(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "a")
    everything = month()
    store.append([SummaryTable.of(everything)])
    store.append([SummaryTable.of(everything[::3])])  # doubles
    store.append([SummaryTable.of([summary(99, feature_names=tuple("abcdef"), gateway="odd")])])
    for days in (30.0, 5.3):
        whole = store.read("press", SCHEMA, from_ns=time.time_ns() - round(days * DAY_NS))
        assert whole is not None
        found = read(str(tmp_path), days)
        assert isinstance(found, Gathered)
        same(found.fleet, gathered(whole))
        assert (found.start_ns, found.end_ns) == (whole.start_ns.min(), whole.end_ns.max())


def test_nothing_to_read_is_said(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "a")
    with pytest.raises(FitError, match=r"of class 'press'.*there are of nothing"):
        read(str(tmp_path))
    store.append([SummaryTable.of([summary(1, class_="pump")])])
    with pytest.raises(FitError, match="there are of 'pump' 0123456789abcdef"):
        read(str(tmp_path))
    one = summary(1)
    still = msgspec.structs.replace(
        one, n=0, mean=[0.0] * 6, comoment=[0.0] * len(one.comoment), reservoir=None
    )
    store.append([SummaryTable.of([still])])
    found = read(str(tmp_path))
    assert isinstance(found, FitError)
    assert "no summary counts a healthy window of class 'press' of the last 30 days" in str(found)


def test_a_day_that_goes_meanwhile_is_no_day_without_summaries(tmp_path: Path) -> None:
    """As where a computer does not see the store: nobody learns from half of it in silence."""
    store = FeatureStore(str(tmp_path), "a")
    store.append([SummaryTable.of(month(3))])
    task = gathering(Span(str(tmp_path), "press", SCHEMA, time.time_ns(), 30.0))
    assert store.retain(time.time_ns(), 1.5) > 0
    with pytest.raises(StoreError, match="is it the same store"):
        Threads().run([task], "reading")


def test_days_that_are_compacted_between_the_readings(tmp_path: Path) -> None:
    store = FeatureStore(str(tmp_path), "a")
    everything = month(4)
    for i in range(10):
        store.append([SummaryTable.of(everything[i::10])])
    task = gathering(Span(str(tmp_path), "press", SCHEMA, time.time_ns(), 30.0))
    assert store.compact(time.time_ns()) >= 20
    (found,) = Threads().run([task], "reading")
    same(found.fleet, gathered(SummaryTable.of(everything).distinct()))


LAZY = """
import sys
from cloud_sink.cli import main
try:
    main(sys.argv[1:])
except SystemExit:
    pass
print(sorted({m.partition(".")[0] for m in sys.modules} & {"dask", "distributed", "sklearn"}))
"""


@pytest.mark.parametrize("arguments", [["--help"], ["learn", "--help"], ["check", "-c", "no.toml"]])
def test_who_does_not_learn_does_not_wait_for_dask(tmp_path: Path, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LAZY, *arguments], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "[]"
