"""docs/sink.md says what there is: every command can be given, every metric and every reason is named."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from pathlib import Path

import pytest

from cloud_sink import figures
from cloud_sink.cli import parser
from cloud_sink.config import load_config
from cloud_sink.events import EventStore
from cloud_sink.features_store import FeatureStore
from cloud_sink.influx_options import Influx
from cloud_sink.influx_queue import PointQueue
from cloud_sink.influx_writer import Writer
from cloud_sink.ingest import Refusal
from cloud_sink.intake import Intake
from cloud_sink.scoring import Scoring
from cloud_sink.stores import Stores
from models.refusals import ScoreRefusal
from tests.cloud_sink.sinks import config

PAGE = (Path(__file__).parents[2] / "docs" / "sink.md").read_text()
COMMANDS = [
    line.split("#")[0]
    for block in re.findall(r"```sh\n(.*?)```", PAGE, re.S)
    for line in block.splitlines()
    if line.strip()
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_are_ones(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert program == "cloud-sink"
    assert callable(parser().parse_args(arguments).act)


def test_every_reason_and_every_metric_is_named(tmp_path: Path) -> None:
    assert [r.value for r in Refusal if f"`{r.value}`" not in PAGE] == []
    loaded = load_config(config(tmp_path, 1))
    features = FeatureStore(loaded.store.features, "s")
    intake = Intake(loaded, Stores(EventStore(loaded.store.events), features), client_id="x")
    queue = PointQueue(tmp_path / "q", 1 << 20)
    found = figures.families([intake], features) + figures.of_points(
        queue, Writer(Influx(url="http://x"), queue)
    )
    found += Scoring(loaded, {}).families() + figures.of_retraining(Counter(), Counter(), 0)
    found += figures.of_retention(Counter())
    assert [r.value for r in ScoreRefusal if f"`{r.value}`" not in PAGE] == []
    names = {f"linewatch_{f.name}" + ("_total" if f.kind == "counter" else "") for f in found}
    assert set(re.findall(r"`(linewatch_\w+)`", PAGE)) == names
