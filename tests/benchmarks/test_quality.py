"""The quality harness runs, on so little that it measures nothing, and its results can be compared."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import table
from benchmarks.quality.__main__ import SETS, main
from benchmarks.quality.compare import changes
from benchmarks.quality.report import COLUMNS, text
from tests.data import data_path

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.quality", "--quick", "--results", str(folder), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout


def record(**figures: float) -> dict[str, Any]:
    return {
        "benchmark": "quality_smap_msl", "at": "2026-01-01T00:00:00+00:00", "quick": False, "seeds": [0], "files": ["A"],
        "environment": {"versions": {"numpy": "2"}}, "took_s": 1.0,
        "rows": [{"model": "ae", "graph": "int8", "part": "all", **figures}],
    }  # fmt: skip


@pytest.mark.timeout(300)  # of a machine that is busy; else it is seconds
@pytest.mark.parametrize("name", SETS)
def test_a_set_is_run_and_told(name: str, tmp_path: Path) -> None:
    data_path(name)
    out = run(tmp_path, name)
    found = json.loads((tmp_path / f"quality_{name}.json").read_text())
    assert (found["benchmark"], found["quick"], found["seeds"]) == (f"quality_{name}", True, [0])
    assert len(found["files"]) == 2
    assert found["environment"]["versions"]["scikit-learn"]
    rows = {(r["model"], r["graph"]): r for r in found["rows"] if r["part"] == "all"}
    assert {("random", ""), ("clock", ""), ("mahalanobis", "float32")} <= set(rows)
    ours = rows["mahalanobis", "float32"]
    told = [column for column in COLUMNS[name] if column in ours]
    assert len(told) >= len(COLUMNS[name]) - 2
    if name != "nab":
        assert 0.0 <= ours["auc"] <= 1.0
        assert abs(rows["random", ""]["auc"] - 0.5) < 0.1
    assert text(found) in out


def test_what_has_changed_is_told_largest_first() -> None:
    before, after = (
        record(auc=0.8, vus_pr=0.5, average_precision=0.3),
        record(auc=0.81, vus_pr=0.4, average_precision=0.3),
    )
    lines = changes(before, after).splitlines()
    assert lines[0] == "against the results of 2026-01-01:"
    assert [line.split()[3] for line in lines[-2:]] == ["vus_pr", "auc"]
    assert lines[-2].split()[-3:] == ["0.5000", "0.4000", "-0.1000"]
    assert "average_precision" not in "".join(lines)


def test_what_made_two_results_differ_is_told() -> None:
    after = record(auc=0.8) | {"seeds": [0, 1], "environment": {"versions": {"numpy": "3"}}}
    after["rows"] = [*after["rows"], {"model": "ae", "graph": "float32", "part": "all", "auc": 0.9}]
    assert changes(record(auc=0.8), after).splitlines()[1:] == [
        "  seeds: [0] before, [0, 1] now",
        "  numpy: 2 before, 3 now",
        "  only now: ae float32 all",
        "  no figure differs",
    ]


@pytest.mark.timeout(300)
def test_a_run_is_compared_with_one_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data_path("femto")
    run(tmp_path, "femto")
    main(["--quick", "--results", str(tmp_path / "now"), "--against", str(tmp_path / "quality_femto.json")])
    assert "no figure differs" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ("nonsense", "cannot be read"),
        ('{"benchmark": "fleet"}', "holds no results of this command"),
        ('{"benchmark": "quality_skab"}', "is of skab: name that set, or none"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_words(tmp_path: Path, held: str, says: str) -> None:
    path = tmp_path / "before.json"
    path.write_text(held)
    with pytest.raises(SystemExit, match=says):
        main(["nab", "--quick", "--against", str(path)])


def test_without_the_package_of_a_metric_only_a_short_run_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.quality.__main__.metrics.generate_curve", None)
    with pytest.raises(SystemExit, match="pip install --no-deps TSB-AD"):
        main(["femto", "--results", str(tmp_path)])


def test_a_set_that_is_not_here_is_skipped_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("benchmarks.quality.__main__.DATA", tmp_path)
    main(["--quick", "--results", str(tmp_path / "results")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == list(SETS)
    assert all("set LINEWATCH_DATA" in line for line in lines)
    assert not (tmp_path / "results").exists()


def test_the_gist_says_which_targets_are_missed() -> None:
    found = {name: r for name, r in table.load().items() if name.startswith("quality_")}
    rows = {row.what.partition(" (")[0]: row for row in table.rows(found)}
    auc = rows["ROC AUC of faults"]
    best = max(float(x) for x in auc.ours.split(", "))
    assert auc.target.endswith("not yet") == (best < 0.89)
    assert "random" not in auc.ours
    assert "drawn by lot" in auc.beside
    assert "clock" in auc.beside
