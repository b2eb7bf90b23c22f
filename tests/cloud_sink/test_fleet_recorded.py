"""On recorded machines: nothing is lost by learning from summaries, and a fleet helps who has just begun."""

from __future__ import annotations

import numpy as np

from benchmarks import fleet
from tests.data import data_path


def test_summaries_lose_nothing_and_a_fleet_helps() -> None:
    data_path("skab", "data")
    found = fleet.measure(quick=True)
    families, warm = found["families"], found["warm_up"]
    assert isinstance(families, dict)
    assert isinstance(warm, dict)
    for family in ("mahalanobis", "linear-ae"):
        assert np.isclose(families[family]["summaries"], families[family]["all_rows"], atol=1e-6)
    assert families["ae"]["all_rows"] - families["ae"]["summaries"] <= 0.015
    assert all(w["fleet"] > w["own"] for w in warm.values())
