"""Whether how a device runs now can be made its normal, and where its centre then is.

Strategy. While a machine or drift alert is open, how the device runs is the mean of its features over the latest windows
of that alert, all features alike: re-centring's own estimate is bounded and comes late, so it says where the centre may
stand, not where the machine does. The windows share no sample with each other nor with the one that raised the alert (in
which the change itself may lie), and are ``NEED`` at least: a mean of so few is off by about a third of the healthy
spread, which raises scores by 6 %. They are then scored anew as they would be with the centre there (a
:class:`Trial`), and the centre moves only if they are normal then: a machine that runs in another way, not only elsewhere,
would alert on, and is refused. With no alert open the centre moves to where re-centring has it.

Invariant: an acceptance takes its place among the windows of its device, after all that had closed before it; which of
them had their scores by then does not matter. Pure.
"""

from __future__ import annotations

from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from edge_node.chunk import Chunk
from models.acceptance import Acceptance
from models.calibration import AlertLevel
from models.requests import Refusal

NEED, KEEP = 8, 16
_MAY_BE_ABOVE = 1 / 8  # share of the windows tried that may still be above the level: noise


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an acceptance; ``refusal`` None: the centre was moved. ``text`` says it in a sentence."""

    acceptance: Acceptance
    refusal: Refusal | None
    text: str


class Trial(msgspec.Struct, tag="trial", kw_only=True, eq=False):
    """An acceptance among the windows of its device. ``shift`` float64[k]: the centre that is tried less the commissioned
    one; ``features`` float32[m, k]: the present windows with it, which go out for scoring."""

    acceptance: Acceptance
    stage: Literal["waiting", "ready", "out", "done"] = "waiting"
    shift: NDArray[np.float64] | None = None
    features: NDArray[np.float32] | None = None
    saturated: NDArray[np.bool_] | None = None
    refusal: Refusal | None = None
    text: str = ""

    @property
    def device_id(self) -> str:
        return self.acceptance.device_id

    @property
    def n(self) -> int:
        """Number of rows to score."""
        return 0 if self.features is None else len(self.features)

    @property
    def verdict(self) -> Verdict:
        return Verdict(acceptance=self.acceptance, refusal=self.refusal, text=self.text)

    def refuse(self, refusal: Refusal, text: str) -> None:
        """It is over, and nothing changes."""
        self.refusal, self.text, self.stage = refusal, text, "done"

    def grant(self, shift: NDArray[np.float64], text: str) -> None:
        """It is over, and the centre moves."""
        self.shift, self.text, self.stage = shift, text, "done"

    def judge(self, p: NDArray[np.float64], finite: NDArray[np.bool_] | None, level: AlertLevel) -> None:
        """The scores of :attr:`features` are there: float64[m] p-values, of which those that are ``finite`` (None: all)
        mean something."""
        above = p <= level.p_raise
        if finite is not None:
            above = above | ~finite
        if self.saturated is not None:
            above = above | self.saturated
        n = int(np.count_nonzero(above))
        if n > _MAY_BE_ABOVE * self.n:
            self.refuse(
                Refusal.STILL_ANOMALOUS,
                f"{n} of its last {self.n} windows would still be above the alert level with the centre where the machine "
                "is now: it runs in another way, not only elsewhere, and takes a new model",
            )
            return
        assert self.shift is not None
        self.grant(self.shift, f"the centre is now the mean of the last {self.n} windows")


class PresentState(msgspec.Struct, kw_only=True):
    """Everything a :class:`Present` remembers."""

    rows: list[NDArray[np.float32]] = []
    free_ns: int | None = None
    end_ns: int = 0


class Present:
    """How one device has run since its alert was raised: features float32[k] of at most ``KEEP`` windows that share no
    sample."""

    def __init__(self) -> None:
        self._state = PresentState()

    @property
    def rows(self) -> list[NDArray[np.float32]]:
        return self._state.rows

    def note(self, chunk: Chunk, is_open: NDArray[np.bool_]) -> None:
        """Scored rows of ``chunk``, and whether an alert was open after each, bool[m]."""
        assert chunk.raw is not None
        for i, row in enumerate(chunk.rows.tolist()):
            s, start_ns, end_ns = self._state, int(chunk.start_ns[row]), int(chunk.end_ns[row])
            if not is_open[i]:
                self.forget()
            elif s.free_ns is None or end_ns < s.end_ns:  # just raised, or the clock was set back
                self._state = PresentState(free_ns=end_ns, end_ns=end_ns)
            else:
                s.end_ns = end_ns
                if start_ns >= s.free_ns:
                    s.rows, s.free_ns = [*s.rows[1 - KEEP :], chunk.raw[i].copy()], end_ns

    def forget(self) -> None:
        """No alert is open."""
        if self._state.free_ns is not None:
            self._state = PresentState()

    def state(self) -> PresentState:
        return msgspec.structs.replace(self._state, rows=list(self._state.rows))

    def restore(self, state: PresentState) -> None:
        self._state = msgspec.structs.replace(state, rows=list(state.rows))


def moved(features: NDArray[np.float32], shift: NDArray[np.float64] | None) -> NDArray[np.float32]:
    """``features`` float32[m, k] as they are with the centre moved by ``shift`` float64[k]; None: not moved."""
    if shift is None:
        return features
    return np.ascontiguousarray(features.astype(np.float64) - shift, dtype=np.float32)
