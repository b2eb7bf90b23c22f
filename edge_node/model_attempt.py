"""A model on trial on a gateway's loop: from the moment at which no window is out for scoring until the verdict."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeVar

from edge_node.model_admission import Prepared
from edge_node.model_home import ModelHome
from edge_node.model_record import NotAdmitted
from edge_node.model_trial import Trial
from edge_node.plans import NotDrained
from edge_node.shadow import Shadow
from models.acceptance import Acceptance
from models.refusals import RefusalReason
from models.signal import SampleBlock

DRAIN_PATIENCE_S, DRAIN_POLL_S = 60.0, 0.1

T = TypeVar("T")


class Attempt:
    """The trials of one model, one at a time. What the pipeline in service is given is given to the one on trial by
    :meth:`push`, :meth:`advance` and :meth:`accept`."""

    def __init__(self, home: ModelHome) -> None:
        self._home = home
        self._shadow: Shadow | None = None
        self._over: asyncio.Future[None] | None = None

    @property
    def n_windows(self) -> int:
        """Windows of the trial in progress; 0: none is."""
        return 0 if self._shadow is None else self._shadow.trial.n

    async def run(
        self,
        prepared: Prepared,
        budgets: Mapping[str, float],
        begun: Callable[[], None],
        alone: Collection[str] = (),
    ) -> str:
        """What there is to say for ``prepared`` after a trial, of which ``begun`` is told; NotAdmitted with what there is
        against it. ``budgets``: alerts a week, by device; ``alone``: devices that nothing scores for as yet."""
        home, limits, gateway = self._home, self._home.config.models, self._home.config.gateway
        trial = Trial(budgets, limits.shadow_windows, alone)
        shadow = await between_windows(
            lambda: Shadow(gateway.site, gateway.name, home.core, prepared, trial, limits.max_latency_ms)
        )
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._shadow, self._over = shadow, over
        try:
            begun()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over, limits.shadow_max_s)
            return shadow.judge(home.labelled_false())
        finally:
            shadow.close()
            if self._shadow is shadow:
                self._shadow = self._over = None

    def push(self, blocks: Sequence[SampleBlock]) -> None:
        """These have been given to the pipeline in service, and scored."""

        def step(shadow: Shadow) -> None:
            if self._home.crowded():
                text = "samples pile up: there is no time for a trial"
                raise NotAdmitted(RefusalReason.OVERLOADED, text)
            shadow.push(blocks)

        self._step(step)

    def advance(self, now_ns: int) -> None:
        """It was told the time."""
        self._step(lambda shadow: shadow.advance(now_ns))

    def accept(self, acceptance: Acceptance) -> None:
        """An operator told it this."""
        self._step(lambda shadow: shadow.accept(acceptance))

    def _step(self, act: Callable[[Shadow], None]) -> None:
        shadow, over = self._shadow, self._over
        if shadow is None or over is None or over.done():
            return
        try:
            act(shadow)
        except NotAdmitted as refused:
            over.set_exception(refused)
        else:
            if shadow.complete:
                over.set_result(None)


async def between_windows(act: Callable[[], T]) -> T:
    """Does ``act`` as soon as no window is out for scoring. NotAdmitted where that does not come, or what would be changed
    has become another by then."""
    deadline = time.monotonic() + DRAIN_PATIENCE_S
    while True:
        try:
            return act()
        except NotDrained:
            if time.monotonic() >= deadline:
                text = f"windows have waited for their scores for {DRAIN_PATIENCE_S:g} s"
                raise NotAdmitted(RefusalReason.OVERLOADED, text) from None
        except ValueError as error:
            raise NotAdmitted(RefusalReason.WRONG_SCHEMA, str(error)) from error
        await asyncio.sleep(DRAIN_POLL_S)
