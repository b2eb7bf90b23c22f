"""Alerts at other levels, of one pass: the same as those of a replay at each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from edge_node.assembly import Core
from edge_node.budgets import LADDER, ask, common_budget
from edge_node.replay import Item, as_received, play
from edge_node.what_if import WhatIf
from models.logs import LogOptions
from models.recording import read_log
from tests.edge_node import test_acceptance_recorded as accepted
from tests.edge_node.replays import core, signal, write_csv

OF_THE_LEVEL = ("machine", "drift")


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fault that lasts, short ones of any size, and a slow departure that re-centring follows."""
    values = signal(6000, faults=[(900, 1200)])
    for k in range(1, 9):
        start = 1200 + 200 * k + 2000 * (k > 7)
        values[start : start + 80, 1] -= 0.12 * k
    values[3000:4500, 0] += np.linspace(0, 6, 1500)
    values[4500:, 0] += 6
    return write_csv(tmp_path_factory.mktemp("log") / "pump.csv", values)


def items(log: Path, on: Core) -> Iterable[Item]:
    read = read_log(log, LogOptions(device_id="pump", block_rows=50), warn=lambda text: None)
    return as_received(read, on, recorded=False)


def raised(on: Core, given: Iterable[Item], *, recorded: bool = False) -> list[int]:
    alerts = [alert for step in play(given, on, recorded=recorded) for alert in step.alerts]
    return [a.end_ns for a in alerts if a.state == "raised" and a.kind in OF_THE_LEVEL]


def test_every_budget_raises_what_a_replay_at_it_raises(log: Path) -> None:
    asked = core(alerts_per_week=1.0)
    budgets = ask(asked)
    raised(asked, items(log, asked))
    outcomes = set()
    for budget in budgets:
        alone = core(alerts_per_week=budget.alerts_per_week)
        wanted = sorted(raised(alone, items(log, alone)))
        assert budget.raised()["pump"].tolist() == wanted
        outcomes.add(tuple(wanted))
    assert len(outcomes) > 3  # or the budgets would not be told apart


def test_budgets_end_where_the_level_gets_no_more_lenient(log: Path) -> None:
    asked = core()
    budgets = ask(asked)
    given = [budget.alerts_per_week for budget in budgets]
    assert given == list(LADDER[: len(given)])
    assert 5 < len(given) <= len(LADDER)
    assert common_budget(asked) == 500.0


def test_asking_changes_nothing_of_the_replay(log: Path) -> None:
    plain, asked = core(), core()
    ask(asked)
    assert raised(plain, items(log, plain)) == raised(asked, items(log, asked)) != []


def test_what_an_operator_accepted_is_over_at_every_level() -> None:
    on = accepted.core()
    (plan,) = on.plans
    same: WhatIf = on.pipeline.what_if(dataclasses.replace(plan))
    found = raised(on, accepted.a_run(), recorded=True)
    assert sorted(same.raised_ns) == sorted(found)
    assert len(found) >= 2  # before the acceptance, and of what departed after it


def test_a_level_goes_on_from_what_is_remembered(log: Path) -> None:
    """Asked in the midst of the lasting fault: the alert that is open then is not raised anew."""
    on = core()
    given = list(items(log, on))
    rows = np.cumsum([getattr(item, "n", 0) for item in given])
    cut = int(np.searchsorted(rows, 1100))
    before = raised(on, given[:cut])
    assert [alert.kind for alert in on.pipeline.open_alerts("pump")] == ["machine"]
    other = on.pipeline.what_if(on.plans[0])
    after = raised(on, given[cut:])
    assert sorted(other.raised_ns) == sorted(after) != []
    whole = core()
    assert before + after == raised(whole, items(log, whole))
