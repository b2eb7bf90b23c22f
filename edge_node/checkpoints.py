"""When what the gateway knows is committed, and what follows once it is.

Strategy: what is said is held here until it is on disk. An alert makes a checkpoint at once, so that it is there together with
the state that said it; that is a copy of all devices of which something is new, and wears out an SD card. So the change of a
device's state is committed alone within ``SOON_S`` (after a crash it may be said again, with the same id), and all else waits for
the next checkpoint, which comes after ``every_s`` at the latest. The loop gathers a
:class:`~edge_node.outbox.Cut`, a thread writes it, and the loop then releases what was held and lets the sources acknowledge. One
cut is written at a time: what comes meanwhile goes into the next, so a slow disk makes larger cuts, not a longer queue.

Invariants: what is released was committed, unless the disk failed or did not answer for ``PATIENCE_S``; that is counted, and
:attr:`Checkpoints.problem` says it. After a failure the next cut holds what this one did. Nothing here waits for a disk
for longer than ``FINISH_S``.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Literal, TypeVar

import structlog

from edge_node.departures import Departures
from edge_node.egress import Outgoing
from edge_node.gateway_state import UplinkCounts, packed
from edge_node.outbox import Cut, Outbox, OutboxError

SOON_S = 2.0
PATIENCE_S = 5.0
RETRY_S = 5.0
FINISH_S = 10.0
AT_REST_S = 3600.0
MANY_GONE = 256  # rows of messages that have left: what is forgotten too late is only sent twice
IN_MEMORY_BYTES = 8 << 20  # of payloads that wait: past that they are read back from disk

UPLINK = "uplink"  # key of the counters of what leaves

T = TypeVar("T")
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
        self._thread = DiskThread()
        self._held: list[Outgoing] = []
        self._urgent = False
        self._soon_s = math.inf  # when what is held is to be committed
        self._next_s = 0.0
        self._retry_s = 0.0
        self._begun_s: float | None = None  # when the cut that is being written was begun
        self._writing: asyncio.Task[None] | None = None
        self._generation = 0  # of the devices that the state is of
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
        self._generation += 1
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

    def due(self, now_s: float, *, wanted: bool, changed: bool, ticket: int) -> Due | None:
        """What to :meth:`commit` now; ``wanted``: a source cannot go on before; ``changed``: there is something new; ``ticket``:
        of the last block that was taken. A plant at rest costs its disk nothing but a sign of life an hour."""
        if self._writing is not None:
            if self._begun_s is not None and now_s - self._begun_s > PATIENCE_S:
                self._lose_patience(ticket if wanted else None)
            return None
        if now_s < self._retry_s:
            self._go_unstored(ticket if wanted else None)
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
        messages = [*before, *held]
        stored, gone, counters = self._departures.take_gone(messages)
        whole = {**parts, **state, UPLINK: packed(UplinkCounts.of(counters))}
        keep = whole.keys() if self._all and ticket is not None else None
        cut = Cut(messages=stored, gone=gone, state=whole, keep=keep, hurried=hurried)
        self._begun_s = now_s
        self._writing = asyncio.create_task(
            self._write(cut, messages, held, ticket, self._generation), name="checkpoint"
        )

    def failure(self) -> BaseException | None:
        """What ended a write that nobody foresaw: nothing would be committed any more."""
        writing = self._writing
        return writing.exception() if writing is not None and writing.done() else None

    async def finish(self) -> bool:
        """Waits for the cut that is being written; False where the disk does not answer, and what is held leaves without it."""
        if self._writing is None:
            return True
        await asyncio.wait((self._writing,), timeout=FINISH_S)
        if self._writing is not None and not self._writing.done():
            self._lose_patience(None)
            return False
        return True

    async def close(self) -> None:
        """After the last cut: forgets what has left since, and waits for the disk, but not for ever."""
        if not await self.finish():
            return
        _, gone, counters = self._departures.take_gone()
        last = Cut(gone=gone, state={UPLINK: packed(UplinkCounts.of(counters))})
        try:
            async with asyncio.timeout(FINISH_S):
                await self._thread.run(lambda: self.outbox.write(last))
                await self._thread.run(self.outbox.close)
        except OutboxError as error:
            log.error(f"what has left could not be forgotten, and will be sent again: {error}")
            self.outbox.close()
        except TimeoutError:
            log.error("the disk does not answer: what has left will be sent again")

    async def _write(
        self, cut: Cut, messages: list[Outgoing], held: list[Outgoing], ticket: int | None, generation: int
    ) -> None:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        try:
            n_bytes = await self._thread.run(lambda: self.outbox.write(cut))
        except OutboxError as error:
            await self._failed(cut, messages, error, generation)
        else:
            if self.problem is not None:
                log.info("checkpoints are written again")
            self.problem, self._unwritten = None, ([], {})
            if cut.keep is not None and generation == self._generation:
                self._all = False
            self.n_written += ticket is not None
            self.n_bytes += n_bytes
            self.total_s += loop.time() - begun_s
        self._writing = self._begun_s = None
        self._release(held, stored=self.problem is None and self.outbox.durable)
        if ticket is not None:
            self._committed(ticket)

    async def _failed(self, cut: Cut, messages: list[Outgoing], error: OutboxError, generation: int) -> None:
        self.n_failures += 1
        text = f"what must survive a restart cannot be written ({error}): alerts are sent all the same, but a restart forgets"
        if self.problem is None:
            log.error(text)
        self.problem = text
        self._retry_s = time.monotonic() + RETRY_S
        self._departures.put_back_gone(list(cut.gone))
        self._unwritten = (messages, dict(cut.state) if generation == self._generation else {})
        if error.damaged:
            await self._thread.run(lambda: self.outbox.begin_anew(str(error)))
            self._all = True
            waiting = self._departures.waiting()
            self._unwritten = ([*waiting, *(m for m in messages if m not in waiting)], {})

    def _go_unstored(self, ticket: int | None) -> None:
        """What is held leaves, and up to ``ticket`` the sources go on, though nothing is on disk."""
        self._release(self._held, stored=False)
        unwritten = [item for item in [*self._unwritten[0], *self._held] if item.row is not None]
        self._unwritten, self._held = (unwritten, self._unwritten[1]), []
        if ticket is not None:
            self._committed(ticket)

    def _release(self, held: list[Outgoing], *, stored: bool) -> None:
        if held:
            self._departures.release(held)
            if stored and self._departures.n_queued_bytes > IN_MEMORY_BYTES:
                self._departures.forget_payloads(held)
            self._released()

    def _lose_patience(self, ticket: int | None) -> None:
        """The disk does not answer: what is held may be alerts, and machines are to be watched."""
        if self.problem is None:
            self.n_failures += 1
            self.problem = (
                f"the disk has not answered for {PATIENCE_S:g} s: alerts are sent before they are stored"
            )
            log.error(self.problem)
        self._departures.release_all()
        self._released()
        self._held = [item for item in self._held if item.row is not None]
        if ticket is not None:
            self._committed(ticket)


class DiskThread:
    """Runs one thing after the other on a thread that the process does not wait for when it ends."""

    def __init__(self) -> None:
        self._work: SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = SimpleQueue()
        threading.Thread(target=self._serve, name="outbox", daemon=True).start()

    async def run(self, work: Callable[[], T]) -> T:
        """What ``work`` returns or raises."""
        done: Future[T] = Future()
        self._work.put((work, done))
        return await asyncio.wrap_future(done)

    def _serve(self) -> None:
        while True:
            work, done = self._work.get()
            if done.set_running_or_notify_cancel():
                try:
                    done.set_result(work())
                except BaseException as error:  # noqa: BLE001 (whoever waits is told)
                    done.set_exception(error)
