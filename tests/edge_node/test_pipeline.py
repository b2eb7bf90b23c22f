"""The core hands out batches and takes scores back, in any order, late or never."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.pipeline import ScoreBatch
from models import messages
from models.messages import Alert
from models.signal import DropReason, SampleBlock
from tests.edge_node.plant import Plant, block, device, healthy, pieces, plan, story


def faulty(n: int = 1200, begin: int = 500, end: int = 700) -> NDArray[np.float32]:
    values = healthy(n)
    values[begin:end, 0] *= 1.3
    return values


def two_devices() -> list[SampleBlock]:
    blocks = []
    for name, values in (("a", faulty()), ("b", faulty(1200, 300, 800))):
        blocks.append(pieces(block(values, to=name), range(0, 1200, 100)))
    return [piece for pair in zip(*blocks, strict=True) for piece in pair]


def plant(**bounds: Any) -> Plant:
    return Plant(plan(device("a")), plan(device("b")), **bounds)


@pytest.fixture(scope="module")
def undisturbed() -> Plant:
    return plant().play(two_devices()).finish()


def test_a_fault_is_raised_and_cleared(undisturbed: Plant) -> None:
    for name in ("a", "b"):
        told = [alert for alert in undisturbed.alerts() if alert.device == name]
        assert story(told)[0] == "machine raised"
        assert story(told)[-1] == "machine cleared"
        assert len({alert.alert_id for alert in told}) == 1


@pytest.mark.parametrize("order", ["reversed", "shuffled", "one device last"])
def test_the_order_of_scores_does_not_show(undisturbed: Plant, order: str) -> None:
    late = plant(max_batches_out=64)
    for piece in two_devices():
        late.pipeline.push(piece)
        late.hold()
    assert len(late.held) > 8
    assert not late.pipeline.events()
    if order == "reversed":
        late.held.reverse()
    elif order == "shuffled":
        np.random.default_rng(5).shuffle(late.held)
    else:
        late.held.sort(key=lambda batch: "a" in batch.devices)
    for batch in late.held:
        late.give(batch)
        late.collect()
    late.finish()
    for name in ("a", "b"):
        assert late.wire(name) == undisturbed.wire(name)
        assert_in_event_time_order(late, name)


def assert_in_event_time_order(plant: Plant, name: str) -> None:
    ends = [
        e.event.end_ns
        for e in plant.events
        if isinstance(e.event, Alert | messages.Summary) and e.event.device == name
    ]
    assert ends == sorted(ends)


def test_a_window_waits_for_the_scores_of_those_before_it() -> None:
    late = plant(max_batches_out=64)
    for piece in two_devices():
        late.pipeline.push(piece)
        late.hold()
    first_of_a = next(batch for batch in late.held if "a" in batch.devices)
    for batch in late.held:
        if batch is not first_of_a:
            late.give(batch)
    assert {e.event.device for e in late.pipeline.events()} == {"b"}
    late.give(first_of_a)
    assert {e.event.device for e in late.pipeline.events()} == {"a"}


def test_a_failed_batch_is_counted_and_the_rest_goes_on() -> None:
    late = plant(max_batches_out=64)
    for piece in two_devices():
        late.pipeline.push(piece)
        late.hold()
    failed = late.held[2]
    late.pipeline.failed(failed.batch_id, DropReason.INFERENCE_FAILED)
    late.check()
    for batch in late.held:
        if batch is not failed:
            late.give(batch)
    late.finish()
    counters = late.pipeline.counters()
    assert counters.window_drops == {DropReason.INFERENCE_FAILED: failed.n}
    assert counters.n_windows_pending == 0
    assert sum(s.excluded.get("not_scored", 0) for s in late.summaries()) == failed.n
    assert {"machine raised", "machine cleared"} <= set(story(late.alerts()))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_outputs_that_are_no_numbers_are_counted_and_never_alert(bad: float) -> None:
    def broken(batch: ScoreBatch) -> NDArray[np.float32]:
        output = batch.inputs.copy()
        output[::2, 0] = bad
        return output

    poor = Plant(plan(), engine=broken).play(pieces(block(healthy(600)), range(0, 600, 60))).finish()
    counters = poor.pipeline.counters()
    if np.isfinite(bad):  # finite, and its square is no float32
        assert counters.n_windows_scored > 0
    else:
        assert counters.window_drops[DropReason.NOT_FINITE_SCORE] >= counters.n_windows_closed // 2
        assert not poor.alerts()
    assert counters.n_windows_pending == 0
    assert all(np.isfinite(s.mean).all() for s in poor.summaries())


def test_an_answer_to_nothing_or_of_another_shape_is_refused() -> None:
    one = Plant(plan())
    one.pipeline.push(block(healthy(200)))
    (batch,) = one.pipeline.take_batches()
    with pytest.raises(ValueError, match=r"expected \(37, 10\)"):
        one.pipeline.scored(batch.batch_id, batch.inputs[:-1], "cpu-float32", 0)
    one.give(batch)  # it stayed out
    refusals: list[Callable[[], None]] = [
        lambda: one.pipeline.scored(batch.batch_id, batch.inputs, "cpu-float32", 0),
        lambda: one.pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED),
    ]
    for refused in refusals:
        with pytest.raises(KeyError):
            refused()
    assert one.pipeline.counters().n_windows_scored == 37


def test_batches_out_are_bounded_and_what_waits_too_long_is_counted() -> None:
    slow = Plant(plan(), max_batches_out=3, max_waiting=40)
    for piece in pieces(block(faulty()), range(0, 1200, 50)):
        slow.pipeline.push(piece)
        slow.hold()
        assert slow.pipeline.n_batches_out <= 3
        counters = slow.pipeline.counters()
        assert counters.n_windows_pending <= 40 + sum(batch.n for batch in slow.held)
    assert counters.window_drops[DropReason.BACKPRESSURE] > 100
    for batch in slow.held:
        slow.give(batch)
    slow.score()
    assert slow.pipeline.counters().n_windows_pending == 0


def test_the_newest_windows_survive_backpressure() -> None:
    slow = Plant(plan(), max_batches_out=1, max_waiting=20)
    for piece in pieces(block(healthy(600)), range(0, 600, 25)):
        slow.pipeline.push(piece)
        slow.hold()
    newest: list[float] = []
    for batch in slow.held:
        slow.give(batch)
    slow.pipeline.trace_scores()
    slow.score()
    for trace in slow.pipeline.take_traces():
        newest += trace.end_ns.tolist()
    closed = slow.pipeline.counters().n_windows_closed
    assert len(newest) == 20
    assert newest[-1] - newest[0] == 19 * 5 * 10**9
    assert closed == 117


def test_windows_that_nobody_could_have_scored_yet_are_not_dropped() -> None:
    one = Plant(plan(), max_waiting=40).play([block(healthy(600))])
    counters = one.pipeline.counters()
    assert counters.n_windows_scored == counters.n_windows_closed == 117


def test_windows_of_devices_that_share_a_model_are_scored_together() -> None:
    many = Plant(*[plan(device(f"d{i}")) for i in range(12)])
    for i in range(12):
        many.pipeline.push(block(healthy(30, seed=i), to=f"d{i}"))
    (batch,) = many.pipeline.take_batches()
    assert batch.n == 36
    assert sorted(batch.devices) == sorted(f"d{i}" for i in range(12))


def test_company_in_a_batch_does_not_show() -> None:
    alone = Plant(plan(device("a"))).play(pieces(block(faulty(), to="a"), range(0, 1200, 100))).finish()
    assert plant().play(two_devices()).finish().wire("a") == alone.wire("a")


def test_an_unknown_device_is_counted() -> None:
    one = Plant(plan()).play([block(healthy(50), to="nobody")])
    assert one.pipeline.counters().sample_drops == {DropReason.UNKNOWN_DEVICE: 100}


def test_ids_depend_on_the_signal_alone() -> None:
    items = pieces(block(faulty()), range(0, 1200, 77))
    first, second = Plant(plan()).play(items).finish(), Plant(plan()).play(items).finish()
    ids = [a.message_id for a in first.alerts()]
    assert ids == [a.message_id for a in second.alerts()]
    assert len(set(ids)) == len(ids)
    later = Plant(plan()).play(pieces(block(faulty(), at_s=6000), range(0, 1200, 77))).finish()
    assert not set(ids) & {a.message_id for a in later.alerts()}
    everything = [e.event.message_id for e in first.events]
    assert len(set(everything)) == len(everything)


def test_traces_tell_every_score_in_order() -> None:
    traced = Plant(plan())
    traced.pipeline.trace_scores()
    traced.play(pieces(block(faulty()), range(0, 1200, 77))).finish()
    traces = traced.pipeline.take_traces()
    ends = np.concatenate([t.end_ns for t in traces])
    assert (np.diff(ends) > 0).all()
    assert ends.size == traced.pipeline.counters().n_windows_scored
    alerting = np.concatenate([t.alerting for t in traces])
    opened, closed = np.flatnonzero(np.diff(alerting.astype(int)))
    raised, cleared = traced.alerts()[0], traced.alerts()[-1]
    assert ends[opened + 1] == raised.end_ns
    assert ends[closed + 1] == cleared.end_ns
    assert not traced.pipeline.take_traces()
