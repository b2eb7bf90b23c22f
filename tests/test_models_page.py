"""docs/models.md says what holds."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import msgspec

from edge_node import model_record, model_track, model_trial, model_watch
from edge_node.config_schema import Models
from models.messages import ModelStage
from models.refusals import RefusalReason

PAGE = (Path(__file__).parents[1] / "docs" / "models.md").read_text()
CODE = set(re.findall(r"`([a-z_]+)`", PAGE))


def test_every_reason_state_and_option_is_told() -> None:
    assert {reason.value for reason in RefusalReason} - CODE == {"unreadable"}  # of files alone
    assert set(get_args(ModelStage)) - CODE == set()
    options = {field.name for field in msgspec.structs.fields(Models)}
    assert {name for name in options if name not in PAGE} == set()


def test_its_numbers_are_those_of_the_code() -> None:
    assert f"more than {model_trial.MAX_RARE:.0%} of quiet windows".replace("%", " %") in PAGE
    assert f"p ≤ {model_trial.RARE_P:g}" in PAGE
    assert model_trial.ALERTS_OVER_BUDGET == 2
    assert "more than twice as many as the budget" in PAGE
    assert (model_watch.MIN_FAILURES, model_watch.MIN_ALERTS, model_watch.FAR_OVER) == (3, 3, 10)
    assert "ten times as often as their budget allows (three at least)" in " ".join(PAGE.split())
    assert (model_record.MAX_STARTS, model_track.PROVED_S) == (5, 600)
    assert "ended five times without living ten minutes" in " ".join(PAGE.split())
    assert (model_track.BLOB_PATIENCE_S, model_track.CANARY_PATIENCE_S) == (60, 10)
    passing = re.search(r"\n((?:`[a-z_]+`(?:, | and )?)+) may come out otherwise", PAGE)
    assert passing is not None
    assert set(re.findall(r"`([a-z_]+)`", passing[1])) == {r.value for r in model_track._PASSING}
