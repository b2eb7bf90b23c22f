"""What the demo plays: which gateways watch which machines, how the plant runs on which day, and what goes wrong. Pure.

The plant's seconds count from the beginning of the recording; those of a day from its own.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from examples.simulated_plant import Fault, FaultKind

QUIET, LIVELY = 0.06, 0.35  # how far vibration follows the load: of the old product, and of the new one


@dataclass(frozen=True, slots=True)
class Injected:
    """A fault, at seconds of a day, that a machine alert must tell."""

    title: str
    fault: Fault


@dataclass(frozen=True, slots=True)
class Period:
    """A part of the plant's time, of ``length_s`` from ``from_s`` on: the load is followed by ``swing``; ``seed``: which day."""

    from_s: int
    length_s: int
    swing: float
    seed: int

    @property
    def until_s(self) -> int:
        return self.from_s + self.length_s


@dataclass(frozen=True, slots=True)
class Scenario:
    """``gateways``: machines of each. The first machine of the first gateway is recorded for ``history_s``; a day with
    ``injected`` takes ``day_s``, a night at most ``night_s``; all at ``speed`` times real time. ``windows``: that a canary has to
    score."""

    gateways: dict[str, tuple[str, ...]]
    canary: str
    history_s: int
    day_s: int
    night_s: int
    speed: float
    windows: int
    injected: tuple[Injected, ...]

    @property
    def machines(self) -> tuple[str, ...]:
        return tuple(machine for machines in self.gateways.values() for machine in machines)

    @property
    def pilot(self) -> tuple[str, str]:
        """The gateway and the machine that the first model is made from."""
        gateway = next(iter(self.gateways))
        return gateway, self.gateways[gateway][0]

    @property
    def history(self) -> Period:
        return Period(0, self.history_s, QUIET, 0)

    @property
    def first_day(self) -> Period:
        return Period(self.history.until_s, self.day_s, LIVELY, 1)

    @property
    def night(self) -> Period:
        return Period(self.first_day.until_s, self.night_s, QUIET, 2)

    @property
    def second_day(self) -> Period:
        return Period(self.night.until_s, self.day_s, LIVELY, 3)

    def faults_in(self, day: Period) -> tuple[Fault, ...]:
        """The faults, at the plant's own seconds."""
        return tuple(
            dataclasses.replace(
                i.fault,
                start_s=i.fault.start_s + day.from_s,
                end_s=None if i.fault.end_s is None else i.fault.end_s + day.from_s,
            )
            for i in self.injected
        )


FULL = Scenario(
    gateways={
        "hall-1": ("blower-1", "blower-2"),
        "hall-2": ("blower-3", "blower-4"),
        "hall-3": ("blower-5",),
        "hall-4": ("blower-6",),
    },
    canary="hall-2",
    history_s=600,
    day_s=1200,
    night_s=3600,
    speed=60.0,
    windows=1000,
    injected=(
        Injected(
            "blower-4: unbalanced", Fault(FaultKind.IMBALANCE, "blower-4", 340, growth_s=120, end_s=800)
        ),
        Injected(
            "blower-2: bearing damage, growing",
            Fault(FaultKind.BEARING, "blower-2", 480, growth_s=420, end_s=1080),
        ),
        Injected("blower-6: bearing damage, sudden", Fault(FaultKind.BEARING, "blower-6", 720, end_s=1020)),
    ),
)

# Three gateways, one machine each, and a short day: for the tests, and for those in a hurry.
SHORT = Scenario(
    gateways={"hall-1": ("blower-1",), "hall-2": ("blower-3",), "hall-3": ("blower-5",)},
    canary="hall-2",
    history_s=400,
    day_s=600,
    night_s=2400,
    speed=60.0,
    windows=400,
    injected=(
        Injected("blower-5: bearing damage, sudden", Fault(FaultKind.BEARING, "blower-5", 300, end_s=540)),
    ),
)
