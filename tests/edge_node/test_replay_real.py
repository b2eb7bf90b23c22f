"""Train on the healthy beginning of real recordings, replay the rest: what a person does first."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from cloud_sink.cli import main as cloud_sink
from edge_node.cli import main as edge_node
from tests import femto
from tests.data import data_path

FIGURE = r"^{} +(\S+) +(\S+) +(\S+)$"


def said_by(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert edge_node(["replay", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def figures(said: str, name: str) -> list[float | None]:
    found = re.search(FIGURE.format(re.escape(name)), said, re.M)
    assert found is not None, said
    return [None if text == "-" else float(text) for text in found.groups()]


SKAB = [f"valve1/{i}" for i in range(0, 16, 2)] + ["valve2/0", "valve2/2"]
SKAB += [f"other/{i}" for i in (1, 2, 4, 6, 8, 11, 13)]
CLEAR = ("valve1/8", "valve1/10", "other/4")


def skab_model(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[object, ...]:
    """The arguments that replay the rest of a recording with a model of its first 400 rows."""
    log = data_path("skab", "data", f"{name}.csv")
    model, device = tmp_path / "model", name.replace("/", "-")
    train = ["train", log, "--features", "slow", "--rows", 400, "--timezone", "UTC", "-o", model]
    assert cloud_sink([str(part) for part in train]) == 0
    assert "effective windows are few" in capsys.readouterr().err
    return (log, "--model", model, "--timezone", "UTC", "--skip-rows", 400, "--device", device)


@pytest.mark.parametrize("name", SKAB)
def test_every_faulty_skab_recording_gives_a_model_and_a_replay_that_says_what_would_alert(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = skab_model(name, tmp_path, capsys)
    said = said_by(capsys, *replay)
    assert re.search(r"^windows scored +[1-9]\d\d$", said, re.M)
    auc, n_alerts = figures(said, "ROC AUC")[0], len(re.findall(r"^2020-.* raised   ", said, re.M))
    assert auc is not None
    assert ("none lasts above the level" in said) == (auc > 0.7 and n_alerts == 0)
    hint = re.search(r"with --alerts-per-week (\S+) there would be alerts", said)
    if hint is not None:
        assert re.search(r"^2020-.* raised   ", said_by(capsys, *replay, "--alerts-per-week", hint[1]), re.M)


@pytest.mark.parametrize("name", CLEAR)
def test_skab_faults_are_found_by_a_model_of_the_first_400_rows(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    replay, device = skab_model(name, tmp_path, capsys), name.replace("/", "-")
    said = said_by(capsys, *replay, "--alerts-per-week", 100)
    assert re.search(rf"^2020-\S+ \S+Z  \w+ +raised   {device}: ", said, re.M)
    auc, chance, _ = figures(said, "ROC AUC")
    assert auc is not None
    assert auc > 0.9
    assert chance == 0.5
    f1 = figures(said, "F1")
    assert f1[0] is not None
    assert f1[1] is not None
    assert f1[0] > f1[1] + 0.1
    assert "verified only to" in said


def test_skab_alerts_do_not_depend_on_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = data_path("skab", "data", "anomaly-free", "anomaly-free.csv")
    model = tmp_path / "model"
    train = ["train", log, "--features", "slow", "--rows", 2000, "--timezone", "UTC", "-o", model]
    assert cloud_sink([str(part) for part in train]) == 0
    capsys.readouterr()
    out = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for path in out:
        said = said_by(capsys, log, "--model", model, "--timezone", "UTC", "--p", 0.05, "--output", path)
    assert out[0].read_bytes() == out[1].read_bytes() != b""
    assert "against the labels" not in said


def test_nab_univariate_with_its_own_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Hourly, with days missing; labels by a key in a JSON file."""
    log = data_path("nab", "data", "realKnownCause", "ambient_temperature_system_failure.csv")
    labels = data_path("nab", "labels", "combined_windows.json")
    model = tmp_path / "model"
    train = ["train", log, "--features", "slow", "--rows", 1100, "--timezone", "UTC", "-o", model]
    assert cloud_sink([str(part) for part in train]) == 0
    capsys.readouterr()
    said = said_by(
        capsys, log, "--model", model, "--timezone", "UTC", "--skip-rows", 1100, "--labels", labels
    )
    assert re.search(r"^faults detected, of 2 +[12] ", said, re.M)
    assert re.search(r"raised +ambient_temperature_system_failure: no data for \d", said)
    assert re.search(r"^windows dropped +\d+ gap$", said, re.M)
    auc = figures(said, "ROC AUC")[0]
    assert auc is not None
    assert auc > 0.55
    lines = [text for text in said.splitlines() if text.startswith("201")]
    assert len(lines) < 200  # an alert that is open for weeks does not say so every hour


def test_a_femto_bearing_alerts_before_it_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two channels at 25.6 kHz in records of 0.1 s: a hundred of them are healthy, the last is the failure."""
    log, model = tmp_path / "bearing.parquet", tmp_path / "model"
    n = femto.write_log(data_path("femto", "Bearing1_2_every3rd.npz"), log)
    rows = 100 * 2560
    train = ["train", log, "--features", "vibration", "--rows", rows, "-o", model]
    assert cloud_sink([str(part) for part in train]) == 0
    capsys.readouterr()
    said = said_by(capsys, log, "--model", model, "--skip-rows", rows, "--alerts-per-week", 100)
    assert re.search(rf"^windows scored +{n - 100}$", said, re.M)
    raised = re.findall(r"^(\S+ \S+)  \w+ +raised   bearing: (.*)$", said, re.M)
    assert len(raised) == 1
    assert "vibration" in raised[0][1]
    ended = re.search(r"^replayed .* to (\S+?)Z", said, re.M)
    assert ended is not None
    assert raised[0][0].replace(" ", "T") < ended[1]
    usual = said_by(capsys, log, "--model", model, "--skip-rows", rows)
    assert re.search(
        r"^alerts +1 machine; 1 still open$", usual, re.M
    )  # at one a week it comes later, and in time
    later = re.findall(r"^(\S+ \S+)  \w+ +raised   bearing: ", usual, re.M)
    assert raised[0][0] <= later[0] < ended[1].replace("T", " ")
