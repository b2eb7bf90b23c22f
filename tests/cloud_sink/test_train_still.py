"""``cloud-sink train`` on channels that stand still, or nearly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from cloud_sink.cli import REFUSED, main
from edge_node.model_store import load_bundle
from models.manifest import Family
from tests.cloud_sink.recordings import write_csv

FAMILIES: tuple[Family, ...] = ("mahalanobis", "linear-ae", "ae")


def still(n: int = 600) -> NDArray[np.float64]:
    return np.tile([60.0, 45.0], (n, 1))


def train(log: Path, out: Path, family: Family) -> int:
    return main(["train", str(log), "--features", "slow", "--family", family, "-o", str(out)])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("level", [60.0, 0.0])
def test_nothing_is_learned_where_nothing_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: Family, level: float
) -> None:
    log = write_csv(tmp_path / "press.csv", np.full((600, 2), level))
    assert train(log, tmp_path / "m", family) == REFUSED
    said = capsys.readouterr().err
    assert said.startswith(f"cloud-sink: {log}: nothing ever changes in the part to train on")
    assert "(channels 'pressure', 'flow')" in said
    assert "Train on a part in which the machine runs" in said
    assert said.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["press.csv"]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", FAMILIES)
def test_one_constant_channel_among_others_is_warned_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], family: Family
) -> None:
    signal = still()
    signal[:, 1] += np.random.default_rng(0).normal(size=len(signal))
    assert train(write_csv(tmp_path / "press.csv", signal), tmp_path / "m", family) == 0
    assert "channel 'pressure' never changes in training" in capsys.readouterr().err
    load_bundle(tmp_path / "m")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("row", [0, 300, 599])
def test_one_changed_digit_is_no_crash(tmp_path: Path, family: Family, row: int) -> None:
    # Where it is at an end, there is a block of the cross-fit whose training rows are all alike.
    signal = still()
    signal[row, 0] = 60.1
    assert train(write_csv(tmp_path / "press.csv", signal), tmp_path / "m", family) == 0
    load_bundle(tmp_path / "m")
