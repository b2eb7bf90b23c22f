"""What the demo shows while the plant runs: faults as they begin, alerts as they come, and how far it is."""

from __future__ import annotations

from examples.demo.findings import PlantClock, Raised, bytes_text, clock_text
from examples.demo.report import Upstream
from examples.demo.scenario import Injected, Scenario
from examples.demo.screen import Screen, Style, bar
from examples.plant_simulator import ClockReading
from models.messages import Alert
from models.signal import NS_PER_S


class LiveView:
    """Keeps what was raised, by arrival."""

    def __init__(self, scenario: Scenario, screen: Screen, epoch_ns: int) -> None:
        self._alerts: list[Alert] = []
        self._scenario, self._screen = scenario, screen
        real_time = () if scenario.worn is None else (scenario.worn.board.device,)
        self._clock = PlantClock(epoch_ns + scenario.history_s * NS_PER_S, real_time)
        self._worn_ns: int | None = None
        self._worn_to_come = False
        changes = [(i.fault.start_s, "begins", i.title) for i in scenario.injected]
        changes += [(i.fault.end_s, "over", i.title) for i in scenario.injected if i.fault.end_s is not None]
        self._to_come = sorted(changes)

    @property
    def raised(self) -> list[Raised]:
        """Alerts as they were raised, with their times by all that is known of the plant's clock."""
        return [Raised.of(alert, self._clock) for alert in self._alerts]

    @property
    def faults(self) -> tuple[Injected, ...]:
        """Every fault, with the board's where the plant was when it began."""
        worn = self._scenario.worn
        if worn is None or self._worn_ns is None:
            return self._scenario.injected
        return (*self._scenario.injected, worn.injected(self._worn_ns, self._clock.of_wall(self._worn_ns)))

    def expect_wear(self, at_ns: int) -> None:
        """The board's fault begins then."""
        self._worn_ns, self._worn_to_come = at_ns, True

    def read_clock(self, at_ns: int, reading: ClockReading) -> None:
        """The simulator was there at ``at_ns``: say what has begun and ended since."""
        now_s = reading.second - self._scenario.history_s
        self._clock.read(at_ns, now_s)
        if self._worn_to_come and self._worn_ns is not None and at_ns >= self._worn_ns:
            self._worn_to_come = False
            assert self._scenario.worn is not None
            self._line(
                self._clock.of_wall(self._worn_ns), "fault begins", self._scenario.worn.title, "magenta"
            )
        while self._to_come and self._to_come[0][0] <= now_s:
            at_s, what, title = self._to_come.pop(0)
            mark = "fault begins" if what == "begins" else "fault is over"
            self._line(at_s, mark, title, "magenta")

    def show_alert(self, alert: Alert) -> None:
        """A line for every change of an alert."""
        seen = Raised.of(alert, self._clock)
        if alert.state == "raised":
            self._alerts.append(alert)
        style: Style = "red" if alert.severity == "critical" else "yellow"
        if alert.state == "cleared":
            style = "green"
        elif alert.state == "updated":
            style = "dim"
        mark = f"{alert.kind} {alert.state}" if alert.state != "raised" else f"{alert.kind} {alert.severity}"
        self._line(seen.at_s, mark, alert.message, style)

    def show_plant(self, reading: ClockReading, upstream: Upstream) -> None:
        """How far it is."""
        now_s = reading.second - self._scenario.history_s
        n = len(self._alerts)
        self._screen.progress(
            f"{bar(now_s / self._scenario.live_s)} {clock_text(now_s)} of {clock_text(self._scenario.live_s)}  "
            f"in {bytes_text(reading.n_bytes)}, upstream {bytes_text(sum(upstream.n_bytes.values()))}, "
            f"{n} alert{'s' if n != 1 else ''}"
        )

    def _line(self, at_s: float, mark: str, text: str, style: Style) -> None:
        screen = self._screen
        screen.line(
            f"  {screen.style(clock_text(at_s), 'dim')}  {screen.style(f'{mark:<17}', style)}  {text}"
        )
