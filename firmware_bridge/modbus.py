"""Polling Modbus slaves, RTU on a serial line or TCP: one thread a bus.

Strategy: each round reads what is planned, slave by slave. A slave that does not answer costs one timeout and is then
asked ever more rarely; of several such slaves no more than one a round costs its timeout. One at whose question the
connection is lost time after time is such a slave too, unless all are: then it is the bus. What was read is handed over as
numbers with the time half-way between question and answer.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from firmware_bridge.modbus_link import Bus, BusLost, Fault, Link, loses_the_bus
from firmware_bridge.registers import Patience, Rate, Register, Request, plan, singly, turns, value_of
from firmware_bridge.transport import BACKOFF_S


@dataclass(frozen=True, slots=True)
class Reading:
    """What a slave answered in one round: place of the register -> value. ``utc_ns``: half-way between question and
    answer. ``whole``: nothing that was asked is missing."""

    slave: int
    values: dict[int, float]
    utc_ns: int
    whole: bool


class Taker(Protocol):
    """What a :class:`Poller` tells, on its thread."""

    def read(self, reading: Reading) -> None:
        """One slave's registers of one round."""

    def failed(self, slave: int, fault: Fault) -> None:
        """A question had no answer."""

    def connected(self, what: str) -> None:
        """The bus is open."""

    def lost(self, why: str) -> None:
        """The bus cannot be reached; it is tried again for ever."""


class Poller:
    """Reads ``registers`` every ``poll_s`` from :meth:`start` to :meth:`stop`."""

    def __init__(
        self,
        bus: Bus,
        registers: Sequence[Register],
        poll_s: float,
        taker: Taker,
        *,
        backoff_s: tuple[float, float] = BACKOFF_S,
    ) -> None:
        self.n_opens = 0
        self.is_open = False
        self.last_error: str | None = None
        self.finished: Future[None] = Future()
        self._bus, self._registers, self._poll_s, self._taker = bus, registers, poll_s, taker
        self._backoff_s = backoff_s
        self._by_slave: dict[int, list[Request]] = {}
        for request in plan(registers):
            self._by_slave.setdefault(request.slave, []).append(request)
        self._patience = {slave: Patience(poll_s) for slave in self._by_slave}
        self._n_dropped: Counter[int] = (
            Counter()
        )  # by slave: times it was asked when the bus was lost, since it answered
        self._rates = {i: Rate(r) for i, r in enumerate(registers) if r.counter}
        self._link: Link | None = None
        self._n_tried = 0
        self._n_answers = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"modbus {bus}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Ends the round, whoever does not answer; what is stuck in a driver is left behind after ``timeout_s``."""
        self._stopping.set()
        if (link := self._link) is not None:
            link.cancel()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            self._keep_up()
        except BaseException as error:  # a defect: whoever waits for the bus is told
            self.finished.set_exception(error)
            raise
        self.finished.set_result(None)

    def _keep_up(self) -> None:
        shortest_s, longest_s = self._backoff_s
        wait_s = shortest_s
        while not self._stopping.is_set():
            n_before = self._n_answers
            try:
                self._once()
            except BusLost as error:
                if self._stopping.is_set():
                    return
                self.last_error = str(error)
                self._taker.lost(str(error))
            if self._n_answers != n_before:
                wait_s = shortest_s  # it had gone well
            self._stopping.wait(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    def _once(self) -> None:
        """Opens the bus and polls until it is to stop. Raises BusLost."""
        try:
            link = Link(self._bus, self._n_tried)
        except BusLost:
            self._n_tried += 1
            raise
        try:
            self._link = link  # before `stopping` is looked at: whoever sets it finds the link
            self.n_opens += 1
            self.is_open, self.last_error = True, None
            self._taker.connected(link.where)
            next_ns = time.monotonic_ns()
            while not self._stopping.is_set():
                if not self._round(link):
                    link.renew()
                next_ns = max(next_ns + round(self._poll_s * 1e9), time.monotonic_ns())
                self._stopping.wait((next_ns - time.monotonic_ns()) / 1e9)
        finally:
            self.is_open, self._link = False, None
            link.close()

    def _round(self, link: Link) -> bool:
        """Asks whose turn it is; whether somebody answered, if anybody was asked."""
        answers: list[bool] = []
        waited_in_vain = False
        for slave in turns(self._patience, time.monotonic_ns()):
            patience = self._patience[slave]
            was_tried = patience.is_tried
            if self._stopping.is_set() or (was_tried and waited_in_vain):
                break
            answers.append(self._ask(link, slave))
            if answers[-1]:
                patience.answered()
                self._n_answers += 1
                self._n_dropped.pop(slave, None)
            else:
                patience.failed(time.monotonic_ns())
                waited_in_vain |= was_tried
        return any(answers) or not answers

    def _ask(self, link: Link, slave: int) -> bool:
        """Reads all of ``slave`` and tells what came; whether it is there."""
        began_utc, began = time.time_ns(), time.monotonic_ns()
        values: dict[int, float] = {}
        whole, alive = True, True
        lost: tuple[Request, BusLost] | None = None
        for request in tuple(self._by_slave[slave]):
            try:
                answer = link.ask(request)
            except BusLost as error:  # what was read before is not lost with it
                whole, lost = False, (request, error)
                break
            if not isinstance(answer, Fault):
                self._take(request, answer, values)
                continue
            whole = False
            if answer.divisible and len(request.registers) > 1:
                answer = self._divide(request, answer)
            self._taker.failed(slave, answer)
            if answer.dead:
                alive = False
                break
        utc_ns = began_utc + (time.monotonic_ns() - began) // 2
        if values or whole:
            self._taker.read(Reading(slave, values, utc_ns, whole))
        if lost is not None:
            self._dropped(lost[0])
            raise lost[1]
        return alive

    def _dropped(self, request: Request) -> None:
        """The bus was lost at this question. Once may be chance, or a connection that was closed for being idle: the slave is
        asked again first. Twice is its own doing, and it waits for its turn, lest nobody else be asked. Where it is so
        with every slave it is the bus, which has a back-off of its own."""
        if self._stopping.is_set():
            return
        slave, dropped = request.slave, self._n_dropped
        dropped[slave] += 1
        if dropped[slave] < 2:
            return
        self._taker.failed(slave, loses_the_bus(request))
        self._patience[slave].failed(time.monotonic_ns())
        if all(dropped[slave] >= 2 for slave in self._patience):
            dropped.clear()
            for patience in self._patience.values():
                patience.answered()

    def _divide(self, request: Request, fault: Fault) -> Fault:
        """One register that the slave does not have must not cost its neighbours: from now on each is asked alone."""
        requests = self._by_slave[request.slave]
        at = requests.index(request)
        requests[at : at + 1] = singly(request, self._registers)
        return replace(fault, text=f"{fault.text}; each is asked alone from now on")

    def _take(self, request: Request, words: list[int], values: dict[int, float]) -> None:
        mono_ns = time.monotonic_ns()
        for i in request.registers:
            register = self._registers[i]
            at = register.address - request.address
            raw: int | float | None = value_of(register, words[at : at + register.n_words])
            if raw is not None and i in self._rates:
                raw = self._rates[i].step(raw, mono_ns)
            if raw is not None:
                values[i] = raw * register.scale + register.offset
