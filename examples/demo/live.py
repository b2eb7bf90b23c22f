"""What the demo shows while a day is played: faults as they begin, alerts as they come, and how far it is. Its operator
looks at each machine that is alerted of, and calls the alert true or false."""

from __future__ import annotations

import numpy as np

from examples.demo.findings import Day, bytes_text, clock_text, episodes, is_due, judge
from examples.demo.monitor import Monitor
from examples.demo.scenario import Injected, Period
from examples.demo.screen import Screen, Style, bar
from examples.plant_simulator import ClockReading
from models.messages import Alert
from models.signal import NS_PER_S

MAX_SHOWN = 4  # false alarms, one by one
VISIBLE = 0.01  # of a fault's full growth: who looks at the machine sees it from there on


class LiveView:
    """A period of the plant that began at ``epoch_ns``, with ``faults``."""

    def __init__(
        self, period: Period, faults: tuple[Injected, ...], screen: Screen, monitor: Monitor, epoch_ns: int
    ) -> None:
        self._period, self._faults, self._screen, self._monitor = period, faults, screen, monitor
        self._zero_ns = epoch_ns + period.from_s * NS_PER_S
        self._alerts: list[Alert] = []
        self._n_false = self._n_labelled = 0
        changes = [(i.fault.start_s, "fault begins", i.title) for i in faults]
        changes += [(i.fault.end_s, "repaired", i.title) for i in faults if i.fault.end_s is not None]
        self._to_come = sorted(changes)

    @property
    def day(self) -> Day:
        """What there is to say of it."""
        return judge(episodes(self._alerts, self._zero_ns), self._faults, self._period.length_s)

    def read_clock(self, reading: ClockReading) -> None:
        """The simulator was there: say what has begun and ended since."""
        now_s = reading.second - self._period.from_s
        while self._to_come and self._to_come[0][0] <= now_s:
            at_s, what, title = self._to_come.pop(0)
            self._line(at_s, what, title, "magenta")

    def hear(self, alert: Alert) -> None:
        """Keep it, show it, and answer it where it was raised."""
        self._alerts.append(alert)
        if alert.state != "raised":
            return
        found = episodes([alert], self._zero_ns)
        if not found:
            return
        (episode,) = found
        due = any(is_due(episode, injected) for injected in self._faults)
        if alert.kind == "machine":
            damaged = any(
                is_due(episode, i) and float(i.fault.severity(np.asarray(episode.raised_s))) >= VISIBLE
                for i in self._faults
            )
            note = "looked at the machine: " + ("it is damaged" if damaged else "nothing is wrong with it")
            self._monitor.label(alert, "true_alarm" if damaged else "false_alarm", note)
        style: Style = "green" if due else "red"
        if due or self._n_false < MAX_SHOWN:
            self._line(episode.raised_s, "alert" if due else "false alarm", alert.message, style)
        elif self._n_false == MAX_SHOWN:
            self._line(episode.raised_s, "false alarm", "and so on: the others are counted", style)
        self._n_false += not due

    def show(self, reading: ClockReading, speed: float) -> None:
        """How far it is."""
        now_s = reading.second - self._period.from_s
        n_bytes = sum(self._monitor.n_bytes.values())
        day = self.day
        self._screen.progress(
            f"{bar(now_s / self._period.length_s)} {clock_text(now_s)} of {clock_text(self._period.length_s)}, "
            f"{speed:g} times as fast; {len(day.false_alarms)} false alarms, {day.n_found} faults noticed; "
            f"signal {bytes_text(reading.n_bytes)}, upstream so far {bytes_text(n_bytes)}"
        )

    def _line(self, at_s: float, mark: str, text: str, style: Style) -> None:
        screen = self._screen
        screen.line(
            f"  {screen.style(clock_text(at_s), 'dim')}  {screen.style(f'{mark:<12}', style)}  {text}"
        )
