"""An operator says that how a machine runs now is normal: what is open ends, the same signal alarms nobody any more, and a
further departure does."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_node.acceptance import NEED
from edge_node.plans import DevicePlan
from models.acceptance import Acceptance
from models.limits import LimitSpec
from models.messages import DeviceStateMessage
from models.recentring import RecentringSpec
from models.requests import Refusal
from models.signal import DropReason
from tests.edge_node.plant import T0_S, Plant, S, block, healthy, pieces, plan, story, window

TAU = 60.0
N, STEP = 3000, 1000
WORD = Acceptance(device_id="d", arrival_ns=T0_S * S, transaction="t-1", by="Anna", note="new tool")


@cache
def made(kind: str, **changes: Any) -> DevicePlan:
    return plan(recentring=RecentringSpec(tau_windows=TAU) if kind == "re-centred" else None, **changes)


def sigma(of: DevicePlan) -> float:
    assert of.model is not None
    return float(of.model.scale[0])


def stepped(of: DevicePlan, *steps: tuple[int, float], n: int = N) -> NDArray[np.float32]:
    """A healthy signal whose first channel stands so many sigmas off from such a row on."""
    values = healthy(n)
    for row, sigmas in steps:
        values[row:, 0] += sigmas * sigma(of)
    return values


def play(plant: Plant, values: NDArray[np.float32], start: int, end: int) -> None:
    plant.play(pieces(block(values).slice(start, end), range(0, N, 50)))


def accept(plant: Plant, word: Acceptance = WORD) -> Refusal | None:
    """The verdict on ``word``, given now."""
    plant.pipeline.accept(word)
    plant.score()
    (verdict,) = plant.pipeline.take_verdicts()
    assert verdict.acceptance == word
    assert verdict.text
    return verdict.refusal


@pytest.mark.parametrize("kind", ["re-centred", "fixed"])
@pytest.mark.parametrize("sigmas", [8.0, -20.0])
def test_the_same_signal_raises_no_alert_and_a_further_departure_does(kind: str, sigmas: float) -> None:
    of = made(kind)
    values = stepped(of, (STEP, sigmas), (2400, np.copysign(8.0, sigmas)))
    plant = Plant(of)
    play(plant, values, 0, 1250)
    assert story(plant.alerts())[0] == "machine raised"
    assert plant.states()[-1] == "anomalous"
    assert accept(plant) is None
    ended = plant.alerts()[-1]
    assert (ended.state, ended.kind, ended.alert_id) == (
        "cleared",
        "machine",
        plant.alerts("machine")[0].alert_id,
    )
    assert ended.message.startswith("press-4: accepted as normal by Anna: Pressure ")
    assert plant.states()[-1] == "normal"
    n_said = len(plant.alerts())
    play(plant, values, 1250, 2400)
    assert len(plant.alerts()) == n_said, "1150 s of the signal that was accepted"
    play(plant, values, 2400, 2700)
    assert story(plant.alerts()[n_said:])[0] == "machine raised"
    again = plant.alerts()[n_said]
    assert again.start_ns / S - T0_S == pytest.approx(2400, abs=25)
    seen = again.contributions[0]
    assert seen.expected_low is not None
    assert seen.expected_high is not None
    accepted = 3.0 + sigmas * sigma(of)
    assert seen.expected_low < accepted < seen.expected_high, "what is expected is what was accepted"


def test_without_it_the_same_signal_stays_alerted() -> None:
    """What the test above would miss: an alert that ends by itself."""
    of = made("fixed")
    plant = Plant(of)
    play(plant, stepped(of, (STEP, 8.0)), 0, 2400)
    assert "cleared" not in [a.state for a in plant.alerts()]


def test_a_drift_that_is_accepted_ends_and_the_bound_is_measured_from_there() -> None:
    of = made("re-centred")
    values = healthy(N)
    values[:, 0] += np.interp(np.arange(N), (0, 1500), (0, 6 * sigma(of))).astype(np.float32)
    plant = Plant(of)
    play(plant, values, 0, 2000)
    assert plant.alerts("drift")[-1].state != "cleared"
    assert accept(plant) is None
    assert plant.alerts("drift")[-1].state == "cleared"
    assert "accepted as normal by Anna" in plant.alerts("drift")[-1].message
    n_said = len(plant.alerts())
    play(plant, values, 2000, N)
    assert len(plant.alerts()) == n_said, "six sigma, twice the bound, is normal now"
    far = healthy(4 * N)
    far[:, 0] += np.interp(np.arange(4 * N), (0, N), (6 * sigma(of), 12 * sigma(of))).astype(np.float32)
    plant.play(pieces(block(far, N), range(0, 4 * N, 250)))
    again = next(a for a in plant.alerts()[n_said:] if a.kind == "drift")
    assert again.state == "raised"
    seen = again.contributions[0]
    assert seen.expected_low is not None
    assert seen.expected_high is not None
    middle = (seen.expected_low + seen.expected_high) / 2
    assert middle == pytest.approx(3.0 + 6 * sigma(of), abs=0.5 * sigma(of))


def test_with_nothing_open_the_centre_moves_to_where_re_centring_has_it() -> None:
    of = made("re-centred")
    plant = Plant(of)
    values = healthy(N)
    values[:, 0] += np.interp(np.arange(N), (0, 1000), (0, 2 * sigma(of))).astype(np.float32)
    play(plant, values, 0, N)
    assert plant.alerts() == []
    stood = plant.pipeline._lanes["d"].normal.offset
    assert stood is not None
    assert stood[0] > 1.2 * sigma(of)
    assert accept(plant) is None
    lane = plant.pipeline._lanes["d"]
    assert lane.settler.accepted is not None
    np.testing.assert_array_equal(lane.settler.accepted, stood)
    assert lane.normal.offset is not None
    assert not lane.normal.offset.any()
    play(plant, stepped(of), 0, 0)
    assert plant.alerts() == []


def test_a_machine_that_runs_in_another_way_is_not_only_elsewhere() -> None:
    """Twenty times the noise: no centre makes that normal."""
    of = made("fixed")
    values = healthy(N)
    rng = np.random.default_rng(3)
    # A level that jumps about from window to window: the spread of the means is what changes.
    values[STEP:, 0] += np.repeat(rng.normal(size=(N - STEP) // 20), 20).astype(np.float32) * 30 * sigma(of)
    plant = Plant(of)
    play(plant, values, 0, 1800)
    assert plant.states()[-1] == "anomalous"
    n_said = len(plant.alerts())
    assert accept(plant) is Refusal.STILL_ANOMALOUS
    assert len(plant.alerts()) == n_said
    assert plant.states()[-1] == "anomalous"


def test_what_cannot_be_accepted_says_why_and_changes_nothing() -> None:
    of = made("fixed")
    plant = Plant(of)
    assert accept(plant) is Refusal.NOTHING_OPEN
    play(plant, stepped(of, (STEP, 8.0)), 0, STEP + 40)
    assert plant.alerts()[-1].state == "raised"
    before = plant.pipeline.snapshot()
    assert accept(plant) is Refusal.TOO_SOON
    assert plant.pipeline.snapshot() == before
    elsewhere = Acceptance(device_id="nobody", arrival_ns=0, transaction="t", by="Anna")
    assert accept(plant, elsewhere) is Refusal.UNKNOWN_DEVICE
    bare = Plant(plan(model=None))
    bare.play([block(healthy(100))])
    assert accept(bare) is Refusal.NO_MODEL


def test_too_few_windows_of_the_alert_say_how_long_to_wait() -> None:
    of = made("fixed")
    plant = Plant(of)
    values = stepped(of, (STEP, 8.0))
    play(plant, values, 0, STEP)
    waits = []
    for end in range(STEP, N, 10):
        play(plant, values, end, end + 10)
        if not plant.alerts():
            continue
        plant.pipeline.accept(WORD)
        plant.score()
        (verdict,) = plant.pipeline.take_verdicts()
        if verdict.refusal is None:
            break
        waits.append(verdict.text.rpartition(" in ")[2])
    assert waits[0] == "3 min"  # 8 windows of 20 s
    assert waits[-1] == "20 s"
    assert len(dict.fromkeys(waits)) >= 3
    raised = plant.alerts()[0]
    assert (end + 10) - (raised.end_ns / S - T0_S) == pytest.approx(NEED * 20, abs=10)


def test_a_score_that_cannot_be_had_refuses_it() -> None:
    of = made("fixed")
    plant = Plant(of)
    play(plant, stepped(of, (STEP, 8.0)), 0, 1400)
    plant.pipeline.accept(WORD)
    (batch,) = plant.pipeline.take_batches()
    plant.pipeline.failed(batch.batch_id, DropReason.INFERENCE_FAILED)
    plant.collect()
    assert plant.pipeline.take_verdicts()[0].refusal is Refusal.INFERENCE_FAILED
    assert plant.pipeline.counters().window_drops == {}, "what was tried were no windows of the signal"
    assert plant.alerts()[-1].state != "cleared"


@pytest.mark.parametrize("kind", ["re-centred", "fixed"])
def test_when_scores_come_changes_nothing(kind: str) -> None:
    """All windows around it out at once, or each scored at once; in blocks of 5 or of 500 rows."""
    of = made(kind)
    values = stepped(of, (STEP, 8.0), (1800, 8.0))
    whole = block(values).slice(0, 2000)
    at_once = Plant(of)
    at_once.play(pieces(whole.slice(0, 1250), range(0, N, 5)))
    at_once.pipeline.accept(WORD)
    at_once.score()
    at_once.play(pieces(whole.slice(1250, 2000), range(0, N, 5))).finish()
    late = Plant(of)
    late.play(pieces(whole.slice(0, 800), range(0, N, 500)))
    for piece in pieces(whole.slice(800, 1250), range(0, N, 150)):
        late.pipeline.push(piece)
        late.hold()
    late.pipeline.accept(WORD)
    for piece in pieces(whole.slice(1250, 1600), range(0, N, 70)):
        late.pipeline.push(piece)
        late.hold()
    assert late.pipeline.take_verdicts() == []
    for batch in reversed(late.held):
        late.give(batch)
    late.score()
    late.play([whole.slice(1600, 2000)]).finish()
    assert at_once.pipeline.take_verdicts() == late.pipeline.take_verdicts() != []
    assert at_once.wire() == late.wire()
    assert "accepted as normal" in str(at_once.wire())


def test_what_is_to_be_tried_is_handed_out_once_the_windows_before_it_have_their_scores() -> None:
    plant = Plant(made("fixed"))
    whole = block(stepped(made("fixed"), (STEP, 8.0)))
    plant.play([whole.slice(0, 1200)])
    plant.pipeline.push(whole.slice(1200, 1250))
    plant.hold()
    plant.pipeline.accept(WORD)
    plant.hold()
    (batch,) = plant.held
    plant.give(batch)
    plant.score()
    assert [v.refusal for v in plant.pipeline.take_verdicts()] == [None]


@pytest.mark.parametrize("moment", ["asked", "out", "decided"])
@pytest.mark.parametrize("kind", ["re-centred", "fixed"])
def test_a_restart_goes_on_from_it(kind: str, moment: str) -> None:
    of = made(kind)
    values = stepped(of, (STEP, 8.0), (1800, 8.0))
    whole = block(values).slice(0, 2000)
    plain, cut = Plant(of), Plant(of)
    for plant in (plain, cut):
        plant.play([whole.slice(0, 1250)])
        plant.pipeline.accept(WORD)
    plain.score()
    plain.play([whole.slice(1250, 1260)])
    if moment == "out":
        cut.hold()
    cut.pipeline.push(whole.slice(1250, 1260))
    if moment == "decided":
        cut.score()
    after = cut.restarted()
    after.score()
    for plant in (plain, after):
        plant.play([whole.slice(1260, 2000)]).finish()
    assert [v.refusal for v in after.pipeline.take_verdicts()] == [None]
    assert cut.wire() + after.wire() == plain.wire()


def test_a_device_that_is_gone_with_the_configuration_has_its_verdict() -> None:
    of = made("fixed")
    plant = Plant(of)
    play(plant, stepped(of, (STEP, 8.0)), 0, 1250)
    plant.pipeline.accept(WORD)
    other = Plant(plan(spec=window(30)))
    other.pipeline.restore(plant.pipeline.snapshot())
    (verdict,) = other.pipeline.take_verdicts()
    assert verdict.refusal is Refusal.RECONFIGURED


def test_a_summary_is_of_one_centre() -> None:
    """It ends where the centre moves, and says where it stood."""
    of = made("fixed")
    plant = Plant(of)
    values = stepped(of, (700, 8.0))
    play(plant, values, 0, 950)
    assert accept(plant) is None
    play(plant, values, 950, 2600)
    assert of.model is not None
    centres = [s.centre[0] for s in plant.summaries() if s.n]
    assert {round(c, 3) for c in centres} == {
        round(float(of.model.centre[0]), 3),
        round(float(centres[-1]), 3),
    }
    assert centres[-1] == pytest.approx(3.0 + 8 * sigma(of), abs=0.5 * sigma(of))
    assert centres.count(centres[0]) == 2, "of 0 to 600, and of what was healthy after that until the word"
    after = [s for s in plant.summaries() if s.n and s.centre[0] == centres[-1]]
    for summary in after:
        assert abs(summary.mean[0] - float(of.model.centre[0])) < sigma(of), "re-centred: as healthy ones are"


def test_windows_shed_while_an_acceptance_waits_are_counted() -> None:
    of = made("fixed")
    plant = Plant(of, max_waiting=8)
    values = stepped(of, (STEP, 8.0))
    play(plant, values, 0, 1250)
    plant.pipeline.accept(WORD)
    plant.hold()  # what is tried is out
    for piece in pieces(block(values).slice(1250, 1500), range(0, N, 5)):
        plant.pipeline.push(piece)
        plant.hold()
    assert plant.pipeline.counters().window_drops == {DropReason.BACKPRESSURE: 42}
    for batch in plant.held:
        plant.give(batch)
    plant.score()
    assert plant.pipeline.take_verdicts()[0].refusal is None


def test_sensor_faults_and_limits_stay_open() -> None:
    limit = LimitSpec(name="pressure", channel="Pressure", above=3.2)
    of = plan(limits=(limit,))
    plant = Plant(of)
    values = stepped(of, (STEP, 20.0))
    play(plant, values, 0, 1300)
    assert accept(plant) is None
    ended = {a.kind for a in plant.alerts() if a.state == "cleared"}
    assert ended == {"machine"}
    state = [e.event for e in plant.events if isinstance(e.event, DeviceStateMessage)][-1]
    (still,) = state.open_alerts
    assert still in {a.alert_id for a in plant.alerts("limit")}
