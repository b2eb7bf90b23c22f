"""Whether another computer says that it is this gateway: a cloned SD card, a configuration copied without its name. Pure.

Two gateways of one name hear each other's status while both are connected. With one ``client_id`` they never are: each
throws the other off the broker, and finds of it only what it left retained. What is retained before the broker has ever
acknowledged a status of ours is our predecessor's. From then on it should be our own, so another boot's is a conflict; the
predecessor's is excused once, for a last will may come late and a broker may come back with an old memory. Who is not
heard any more is gone.
"""

from __future__ import annotations

from models.messages import Status

MAX_CONFLICTS = 8


class Clones:
    """What is known of other computers of this name; ``boot_id`` is ours."""

    def __init__(self, boot_id: str) -> None:
        self._boot_id = boot_id
        self._former: str | None = None
        self._ours_before = False
        self._taken_over = False
        self._heard_s: dict[
            str, float
        ] = {}  # their boot ids, at most MAX_CONFLICTS, and when they were last heard
        self.n_heard = 0  # statuses of theirs

    @property
    def conflicts(self) -> tuple[str, ...]:
        """Boot ids of those that are there."""
        return tuple(self._heard_s)

    def forget(self, before_s: float) -> None:
        """Those that were last heard before then are gone."""
        self._heard_s = {boot: at_s for boot, at_s in self._heard_s.items() if at_s >= before_s}

    def connected(self, *, ours_before: bool, taken_over: bool) -> None:
        """A connection begins. ``ours_before``: over an earlier one the broker acknowledged a status of ours;
        ``taken_over``: the last one ended because another client took its place."""
        self._ours_before, self._taken_over = ours_before, taken_over

    def hear(self, status: Status, now_s: float, *, retained: bool) -> bool:
        """Whether ``status``, from our own topic, is another computer's that is there beside us; then it is counted.
        ``now_s`` on any clock that never goes back."""
        if status.boot_id == self._boot_id or not (
            self._left_since(status.boot_id) if retained else status.state == "online"
        ):
            return False
        self.n_heard += 1
        if status.boot_id in self._heard_s or len(self._heard_s) < MAX_CONFLICTS:
            self._heard_s[status.boot_id] = now_s
        return True

    def _left_since(self, boot_id: str) -> bool:
        if not self._ours_before:
            self._former = boot_id
            return False
        if boot_id == self._former and not self._taken_over:
            self._former = None
            return False
        return True
