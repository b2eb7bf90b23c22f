"""NAB's threshold is learned on one half of the files and judged on the other."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality.cases import Case
from benchmarks.quality.nab import LEVELS, File, Track, judge, read
from models.logs import LogOptions

N, WINDOW = 100, (50, 59)
STRICT, LAX = 12, 4  # of LEVELS


def file(name: str) -> File:
    case = Case(
        name=name,
        path=Path(name),
        options=LogOptions(),
        times_ns=np.arange(N, dtype=np.int64),
        anomalous=np.zeros(N - 15, np.bool_),
        first_row=15,
        skip_rows=0,
    )
    return File(case, (WINDOW,))


def track(right_from: int) -> Track:
    """Raised at the window's first row from level ``right_from`` on, and at stricter ones nothing; at the laxest of all ten false
    ones as well."""
    raised = [[50] if k <= right_from else [] for k in range(len(LEVELS))]
    raised[0] = [*range(20, 30), 50]
    return Track(np.zeros(N), tuple(np.array(rows, np.int64) for rows in raised))


def by_part(*tracks: Track) -> dict[object, dict[str, object]]:
    files = [file(str(i)) for i in range(len(tracks))]
    return {row["part"]: row for row in judge("m", "float32", files, [list(tracks)])}


def test_levels_fall() -> None:
    assert all(a > b for a, b in pairwise(LEVELS))
    assert LEVELS[0] < 0.5


def test_a_level_that_both_halves_agree_on_is_judged_on_each() -> None:
    found = by_part(track(STRICT), track(STRICT))
    for part in ("even", "odd", "all"):
        assert found[part]["standard"] == pytest.approx(100.0)
    assert found["all"]["best_standard"] == pytest.approx(100.0)


def test_each_half_is_judged_by_the_level_of_the_other() -> None:
    found = by_part(track(LAX), track(STRICT))
    # The odd file is right at a strict level already, by which the even one says nothing; not so the other way round.
    assert found["even"]["standard"] == 0.0
    assert found["odd"]["standard"] == pytest.approx(100.0)
    assert found["all"]["standard"] == pytest.approx(50.0)
    assert found["all"]["best_standard"] == pytest.approx(100.0)
    assert "best_standard" not in found["even"]


def test_means_are_over_runs() -> None:
    files = [file("0"), file("1")]
    rows = judge("m", "", files, [[track(STRICT)] * 2, [track(LAX), track(STRICT)]])
    assert {row["part"]: row["standard"] for row in rows} == pytest.approx(
        {"all": 75.0, "even": 50.0, "odd": 100.0}
    )


def test_a_window_begins_and_ends_with_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("timestamp,value\n" + "".join(f"2015-01-01 00:{i:02}:00,{i}\n" for i in range(40)))
    one = read(path, [["2015-01-01 00:10:00.000000", "2015-01-01 00:20:00.000000"]])
    assert one.windows == ((10, 20),)
    assert one.case.first_row == 6
    assert np.flatnonzero(one.case.anomalous).tolist() == list(range(10 - 6, 21 - 6))
    with pytest.raises(ValueError, match="at no row of it"):
        read(path, [["2015-01-01 00:10:30.000000", "2015-01-01 00:20:00.000000"]])
