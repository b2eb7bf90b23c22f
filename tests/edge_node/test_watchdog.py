"""When the watchdog may be fed: at rest and under load, but not while what waits stands still."""

from __future__ import annotations

import pytest

from edge_node.watchdog import Progress, Watchdog
from models.gating import GateSpec
from models.signal import DropReason
from tests.edge_node.plant import Plant, block, device, healthy, plan

REST = Progress(n_queued=0, n_taken=100, n_unscored=0, n_settled=10)


def after(**changed: int) -> bool:
    """Whether it is fed at what ``changed`` since it was last fed."""
    dog = Watchdog()
    assert dog.may_be_fed(REST)
    now = {name: getattr(REST, name) + changed.get(name, 0) for name in Progress.__slots__}
    return dog.may_be_fed(Progress(**now))


@pytest.mark.parametrize(
    "moved",
    [
        {},  # a plant at rest
        {"n_queued": 5, "n_taken": 50},  # values wait and are taken; no window is full yet
        {"n_unscored": 3, "n_settled": 1},
        {"n_queued": 5, "n_taken": 50, "n_unscored": 3, "n_settled": 1},
        {
            "n_queued": 5,
            "n_taken": -100,
            "n_unscored": 3,
            "n_settled": -10,
        },  # another configuration counts anew
    ],
)
def test_it_is_fed_while_what_waits_moves(moved: dict[str, int]) -> None:
    assert after(**moved)


@pytest.mark.parametrize(
    "stuck",
    [
        {"n_queued": 5},  # nobody takes them
        {"n_unscored": 3},  # nobody scores them
        {"n_queued": 5, "n_settled": 1},
        {"n_queued": 5, "n_taken": 50, "n_unscored": 3},  # the loop spins, scoring hangs
    ],
)
def test_it_is_not_fed_while_something_stands_still(stuck: dict[str, int]) -> None:
    assert not after(**stuck)


def test_what_moves_again_is_fed_again() -> None:
    dog = Watchdog()
    assert dog.may_be_fed(REST)
    hangs = Progress(n_queued=0, n_taken=200, n_unscored=3, n_settled=10)
    assert not dog.may_be_fed(hangs)
    assert not dog.may_be_fed(hangs)
    assert dog.n_withheld == 2
    assert dog.may_be_fed(Progress(n_queued=0, n_taken=200, n_unscored=2, n_settled=11))


def test_windows_that_are_shed_while_scoring_hangs_are_no_progress() -> None:
    plant = Plant(plan(), max_waiting=4, max_batches_out=1)
    dog, fed = Watchdog(), []
    for i in range(20):
        plant.pipeline.push(block(healthy(20, seed=i), at_s=20 * i))
        plant.hold()  # nobody scores them
        fed.append(dog.may_be_fed(Progress.of(plant.pipeline, 0)))
    assert plant.pipeline.counters().window_drops[DropReason.BACKPRESSURE] > 0
    assert fed == [True] + [False] * 19


def test_windows_that_wait_for_their_gate_hold_up_nothing() -> None:
    gate = GateSpec(device_id="motor", channel="Pressure", comparison=">", value=1.0)
    plant = Plant(plan(gate=gate), plan(device("motor"), model=None))
    dog = Watchdog()
    for i in range(3):
        plant.play([block(healthy(60, seed=i), at_s=60 * i)])
        assert dog.may_be_fed(Progress.of(plant.pipeline, 0))
    assert plant.pipeline.counters().n_windows_pending > 0
    plant.pipeline.push(block(healthy(200), to="motor"))
    plant.hold()
    assert plant.pipeline.n_unscored > 0
    dog.may_be_fed(Progress.of(plant.pipeline, 0))
    assert not dog.may_be_fed(Progress.of(plant.pipeline, 0))
    for batch in plant.held:
        plant.give(batch)
    assert plant.pipeline.n_unscored == 0
    assert dog.may_be_fed(Progress.of(plant.pipeline, 0))
