"""What an operator accepted is in the recording, so that its replay says what the run said; older recordings read as ever."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from cloud_sink.cutting import Request, read_blocks
from edge_node.assembly import Core
from edge_node.replay import Item, as_received, play
from models import messages
from models.acceptance import Acceptance
from models.logs import LogOptions, Tick
from models.messages import Alert
from models.recording import RecordingWriter, read_log, select_rows
from models.signal import SampleBlock
from tests.edge_node.plant import T0_S, Identity, Plant, S, block, device, pieces
from tests.edge_node.test_acceptance import STEP, made, stepped


def core() -> Core:
    of = made("fixed")
    return Core(Plant(of).pipeline, {of.engine: Identity()}, (of,))  # type: ignore[dict-item]


def a_run() -> list[Item]:
    """A machine that steps to another level, is accepted there after 300 s, and departs further 700 s later."""
    signal = block(stepped(made("fixed"), (STEP, 8.0), (2000, 8.0), n=2400))
    items: list[Item] = []
    for piece in pieces(signal, range(0, 2400, 5)):
        arrival_ns = int(piece.times()[-1]) + S
        items += [msgspec.structs.replace(piece, arrival_ns=arrival_ns), Tick(arrival_ns)]
    word = Acceptance(
        device_id="d", arrival_ns=(T0_S + 1300) * S, transaction="t-1", by="Zoë", note="new, tool"
    )
    at = next(i for i, item in enumerate(items) if isinstance(item, Tick) and item.now_ns >= word.arrival_ns)
    return [*items[: at + 1], word, *items[at + 1 :]]


def live(items: list[Item]) -> list[bytes]:
    """What the daemon does: everything at once."""
    on, said = core(), []
    for item in items:
        if isinstance(item, Tick):
            on.pipeline.advance(item.now_ns)
        elif isinstance(item, Acceptance):
            on.pipeline.accept(item)
        else:
            on.push(item)
        on.score()
        said += [messages.encode(e.event) for e in on.pipeline.events() if isinstance(e.event, Alert)]
    on.pipeline.finish()
    on.score()
    return said + [messages.encode(e.event) for e in on.pipeline.events() if isinstance(e.event, Alert)]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_recording_with_an_acceptance_replays_to_the_alerts_of_the_run(tmp_path: Path, suffix: str) -> None:
    path, items = tmp_path / f"run{suffix}", a_run()
    with RecordingWriter(path) as log:
        for item in items:
            log.write(item)
    said = live(items)
    assert sum("accepted as normal by Zoë: " in line.decode() for line in said) == 1
    assert json.loads(said[-1])["state"] != "cleared", "the further departure"
    on = core()
    steps = play(as_received(read_log(path), on, recorded=True), on, recorded=True)
    assert [messages.encode(alert) for step in steps for alert in step.alerts] == said
    without = [item for item in items if not isinstance(item, Acceptance)]
    assert live(without) != said


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_training_takes_no_notice_of_it(tmp_path: Path, suffix: str) -> None:
    path, items = tmp_path / f"run{suffix}", a_run()
    with RecordingWriter(path) as log:
        for item in items:
            log.write(item)
    request = Request(logs=(path,), options=LogOptions(), feature_set="slow")
    read = list(read_blocks(request, device(), lambda _: None, lambda _: None))
    assert len(read) == len(items) - 1
    assert sum(isinstance(item, Acceptance) for item in select_rows(iter(items), n_rows=3)) == 1


OLD = b"""\
{"kind":"log","format":"linewatch block log","version":1,"devices":[]}
{"kind":"tick","arrival_ns":5}
{"kind":"block","device":"d","arrival_ns":7,"clock":"device","channels":["x"],"time_ns":[6],"values":"AACAPw=="}
"""


def test_a_log_of_before_there_were_acceptances_is_read(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    path.write_bytes(OLD)
    tick, sample = read_log(path)
    assert tick == Tick(5)
    assert isinstance(sample, SampleBlock)
    assert sample.values.tolist() == [[1.0]]
