"""When what the gateway knows is committed, and what follows once it is.

Strategy: what is said is held here until it is on disk. An alert makes a checkpoint at once, so that it is there together with
the state that said it; that is a copy of all devices of which something is new, and wears out an SD card. So the change of a
device's state is committed alone within ``SOON_S`` (after a crash it may be said again, with the same id), and all else waits for
the next checkpoint, which comes after ``every_s`` at the latest. The loop gathers a
:class:`~edge_node.outbox.Cut`, a thread writes it, and the loop then releases what was held and lets the sources acknowledge. One
cut is written at a time: what comes meanwhile goes into the next, so a slow disk makes larger cuts, not a longer queue.

Invariants: what is released was committed, unless the disk failed or did not answer for ``PATIENCE_S``; that is counted, and
:attr:`Checkpoints.problem` says it. After a failure the next cut holds what this one did.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import structlog

from edge_node.departures import Departures
from edge_node.egress import Outgoing
from edge_node.gateway_state import UplinkCounts, packed
from edge_node.outbox import Cut, Outbox, OutboxError

SOON_S = 2.0
PATIENCE_S = 5.0
RETRY_S = 5.0
AT_REST_S = 3600.0
MANY_GONE = 256  # rows of messages that have left: what is forgotten too late is only sent twice
IN_MEMORY_BYTES = 8 << 20  # of payloads that wait: past that they are read back from disk

UPLINK = "uplink"  # key of the counters of what leaves

Urgency = Literal["now", "soon", "later"]
Due = Literal["all", "messages"]  # a checkpoint, or only what is held

log = structlog.get_logger("linewatch.outbox")


class Checkpoints:
    """``released`` is called on the loop when messages may leave, ``committed`` with the ticket of a cut that is done."""

    def __init__(
        self,
        outbox: Outbox,
        departures: Departures,
        *,
        every_s: float,
        released: Callable[[], None],
        committed: Callable[[int], None],
    ) -> None:
        self.outbox = outbox
        self._departures = departures
        self.every_s = every_s
        self._released = released
        self._committed = committed
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="outbox")
        self._held: list[Outgoing] = []
        self._urgent = False
        self._soon_s = math.inf  # when what is held is to be committed
        self._next_s = 0.0
        self._retry_s = 0.0
        self._begun_s: float | None = None  # when the cut that is being written was begun
        self._writing: asyncio.Task[None] | None = None
        self._unwritten: tuple[list[Outgoing], dict[str, bytes]] = ([], {})
        self._all = True  # the next cut says all there is, since nobody knows what the file holds
        self.problem: str | None = None  # why nothing is committed now
        self.n_written = 0
        self.n_bytes = 0
        self.n_failures = 0
        self.total_s = 0.0

    @property
    def wants_all(self) -> bool:
        """Whether the next cut must hold the state of every device."""
        return self._all

    def begin_anew(self) -> None:
        """The devices are others: the next cut, which is due, replaces all that was kept."""
        self._all = True
        self._unwritten = (self._unwritten[0], {})

    def hold(self, item: Outgoing, now_s: float, *, urgency: Urgency) -> None:
        """``item`` leaves once it is committed: with a checkpoint at once, alone but soon, or with the next checkpoint."""
        item.row = self.outbox.next_row()
        self._departures.hold(item)
        self._held.append(item)
        if urgency == "now":
            self._urgent = True
        elif urgency == "soon":
            self._soon_s = min(self._soon_s, now_s + SOON_S)

    def due(self, now_s: float, *, wanted: bool, changed: bool) -> Due | None:
        """What to :meth:`commit` now; ``wanted``: a source cannot go on before; ``changed``: there is something new. A plant
        at rest costs its disk nothing but a sign of life an hour."""
        if self._writing is not None:
            self._lose_patience(now_s)
            return None
        if now_s < self._retry_s:
            self._release(self._held, stored=False)
            self._unwritten[0].extend(self._held)
            self._held = []
            return None
        some = changed or bool(self._held) or self._departures.n_gone > 0
        if self._urgent or self._all or wanted or now_s >= self._next_s + (0.0 if some else AT_REST_S):
            return "all"
        return "messages" if now_s >= self._soon_s or self._departures.n_gone >= MANY_GONE else None

    def commit(self, state: Mapping[str, bytes], ticket: int | None, now_s: float) -> None:
        """Write ``state`` (all of it, where :attr:`wants_all`) and what is held; ``ticket``: of the last block that is in it,
        None where only what is held is committed."""
        held, self._held, self._soon_s = self._held, [], math.inf
        hurried = self._urgent
        if ticket is not None:
            self._urgent, self._next_s = False, now_s + self.every_s
        before, parts = self._unwritten
        gone, counters = self._departures.take_gone()
        whole = {**parts, **state, UPLINK: packed(UplinkCounts.of(counters))}
        cut = Cut(
            messages=[item for item in [*before, *held] if item.row is not None and item.payload is not None],
            gone=gone,
            state=whole,
            keep=whole.keys() if self._all and ticket is not None else None,
            hurried=hurried,
        )
        self._begun_s = now_s
        self._writing = asyncio.create_task(self._write(cut, held, ticket), name="checkpoint")

    def failure(self) -> BaseException | None:
        """What ended a write that nobody foresaw: nothing would be committed any more."""
        writing = self._writing
        return writing.exception() if writing is not None and writing.done() else None

    async def finish(self) -> None:
        """Waits for the cut that is being written."""
        if self._writing is not None:
            await asyncio.wait((self._writing,))

    def close(self) -> None:
        """After the last cut: forgets what has left since, and waits for the disk."""
        self._thread.shutdown()
        gone, counters = self._departures.take_gone()
        try:
            self.outbox.write(Cut(gone=gone, state={UPLINK: packed(UplinkCounts.of(counters))}))
        except OutboxError as error:
            log.error(f"what has left could not be forgotten, and will be sent again: {error}")
        self.outbox.close()

    async def _write(self, cut: Cut, held: list[Outgoing], ticket: int | None) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            n_bytes = await loop.run_in_executor(self._thread, self.outbox.write, cut)
        except OutboxError as error:
            self._failed(cut, error, loop.time())
        else:
            if self.problem is not None:
                log.info("checkpoints are written again")
            self.problem, self._unwritten = None, ([], {})
            if ticket is not None:
                self._all = False
                self.n_written += 1
            self.n_bytes += n_bytes
            self.total_s += loop.time() - begun_s
        self._writing = self._begun_s = None
        self._release(held, stored=self.problem is None and self.outbox.durable)
        if ticket is not None:
            self._committed(ticket)

    def _failed(self, cut: Cut, error: OutboxError, now_s: float) -> None:
        self.n_failures += 1
        text = f"what must survive a restart cannot be written ({error}): alerts are sent all the same, but a restart forgets"
        if self.problem is None:
            log.error(text)
        self.problem = text
        self._retry_s = now_s + RETRY_S
        self._departures.put_back_gone(list(cut.gone))
        self._unwritten = (list(cut.messages), dict(cut.state))
        if error.damaged:
            self.outbox.begin_anew(str(error))
            self._all = True
            waiting = self._departures.waiting()
            self._unwritten = ([*waiting, *(m for m in cut.messages if m not in waiting)], {})

    def _release(self, held: list[Outgoing], *, stored: bool) -> None:
        if held:
            self._departures.release(held)
            if stored and self._departures.n_queued_bytes > IN_MEMORY_BYTES:
                self._departures.forget_payloads(held)
            self._released()

    def _lose_patience(self, now_s: float) -> None:
        """The disk does not answer: what is held may be alerts."""
        if self._begun_s is not None and now_s - self._begun_s > PATIENCE_S:
            if self.problem is None:
                self.n_failures += 1
                self.problem = (
                    f"the disk has not answered for {PATIENCE_S:g} s: alerts are sent before they are stored"
                )
                log.error(self.problem)
            self._departures.release_all()
            self._released()
