"""Which alerts of a replay a person is told of as they come, and how. Pure."""

from __future__ import annotations

from models.messages import Alert, rfc3339


def alert_line(alert: Alert) -> str:
    """``alert`` for a terminal: when its last window ended, severity, state, sentence."""
    at = rfc3339(alert.end_ns)
    return f"{at[:10]} {at[11:19]}Z  {alert.severity:<8}  {alert.state:<7}  {alert.message}"


class News:
    """Which alerts are worth a line: every raise and clear; of updates those of another severity or channel to blame,
    and the first after each doubling of the time an alert has been open."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[str, str, int]] = {}
        self.n_left_out = 0

    def is_in(self, alert: Alert) -> bool:
        """Whether ``alert`` is; asked once for each, in order."""
        if alert.state == "cleared":
            self._told.pop(alert.alert_id, None)
            return True
        channel = alert.contributions[0].channel if alert.contributions else ""
        before = self._told.get(alert.alert_id)
        lasted_ns = alert.end_ns - alert.start_ns
        if before is not None and before[:2] == (alert.severity, channel) and lasted_ns < 2 * before[2]:
            self.n_left_out += 1
            return False
        self._told[alert.alert_id] = (alert.severity, channel, lasted_ns)
        return True
