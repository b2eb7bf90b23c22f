"""Checkpoints on a disk that fails, or does not answer: alerts leave, sources go on, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from edge_node import checkpoints
from edge_node.checkpoints import Checkpoints
from edge_node.departures import Departures
from edge_node.egress import Outgoing, outgoing
from edge_node.outbox import Cut, Outbox, OutboxError
from tests.edge_node.outgoing_messages import TOPICS, alert


class Disk:
    """Checkpoints on a real outbox, between which and the disk somebody may stand."""

    def __init__(self, folder: Path) -> None:
        self.outbox = Outbox(folder)
        self.outbox.load()
        self.departures = Departures(1000, 10**7)
        self.tickets: list[int] = []
        self.points = Checkpoints(
            self.outbox,
            self.departures,
            every_s=3600.0,
            released=lambda: None,
            committed=self.tickets.append,
        )
        self.hangs = threading.Event()
        self.hangs.set()
        self.fails = False
        self._write = self.outbox.write
        self.outbox.write = self.write  # type: ignore[method-assign]

    def write(self, cut: Cut) -> int:
        self.hangs.wait()
        if self.fails:
            raise OutboxError("no room")
        return self._write(cut)

    def say(self, n: int) -> Outgoing:
        item = outgoing(alert(n), TOPICS)
        self.points.hold(item, time.monotonic(), urgency="now")
        return item

    def step(self, ticket: int, later_s: float = 0.0, *, wanted: bool = False) -> None:
        now_s = time.monotonic() + later_s
        due = self.points.due(now_s, wanted=wanted, changed=True, ticket=ticket)
        if due is not None:
            self.points.commit({"a": b"%d" % ticket}, ticket if due == "all" else None, now_s)

    @property
    def n_free(self) -> int:
        return len(self.departures.queue)


def run(story: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(story, 30))


def test_what_is_said_leaves_once_it_is_on_disk(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(tmp_path)
        disk.hangs.clear()
        disk.say(0)
        disk.step(1)
        await asyncio.sleep(0.05)
        assert (disk.n_free, disk.tickets) == (0, [])
        disk.hangs.set()
        assert await disk.points.finish()
        assert (disk.n_free, disk.tickets) == (1, [1])
        assert len(Outbox(tmp_path).load()[1]) == 1
        await disk.points.close()

    run(story())


def test_a_disk_that_does_not_answer_holds_up_neither_alerts_nor_sources_nor_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "FINISH_S", 0.2)

    async def story() -> None:
        disk = Disk(tmp_path)
        disk.hangs.clear()
        disk.say(0)
        disk.step(1)
        await asyncio.sleep(0.05)
        later = [disk.say(n) for n in (1, 2)]
        disk.step(2, checkpoints.PATIENCE_S + 1, wanted=True)
        assert disk.n_free == 3
        assert disk.tickets == [2]
        assert disk.points.problem is not None
        with disk.departures.moved:
            while len(disk.departures.queue):
                disk.departures.leave(disk.departures.queue.take())
        disk.step(3, checkpoints.PATIENCE_S + 1, wanted=True)
        assert disk.points._held == []  # what has left is not kept
        assert all(item.row is None for item in later)
        assert not await disk.points.finish()
        await disk.points.close()
        disk.hangs.set()

    run(story())


def test_a_disk_that_fails_gets_all_of_it_when_it_is_mended(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(tmp_path)
        disk.fails = True
        disk.say(0)
        disk.step(1)
        await disk.points.finish()
        assert (disk.n_free, disk.tickets) == (1, [1])
        assert disk.points.n_failures == 1
        disk.say(1)
        disk.step(2, 1.0, wanted=True)  # before it is tried again
        assert (disk.n_free, disk.tickets) == (2, [1, 2])
        disk.fails = False
        disk.step(3, checkpoints.RETRY_S + 1)
        await disk.points.finish()
        assert disk.points.problem is None
        state, messages = Outbox(tmp_path).load()
        assert (state["a"], len(messages)) == (b"3", 2)
        await disk.points.close()

    run(story())


def test_what_leaves_while_it_is_written_does_not_come_back(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(tmp_path)
        disk.fails = True
        item = disk.say(0)
        disk.step(1)
        await disk.points.finish()
        disk.fails = False
        disk.hangs.clear()
        disk.step(2, checkpoints.RETRY_S + 1)
        await asyncio.sleep(0.05)
        with disk.departures.moved:
            assert disk.departures.queue.take() is item
            disk.departures.leave(item)
        disk.hangs.set()
        await disk.points.finish()
        await disk.points.close()
        assert Outbox(tmp_path).load()[1] == []

    run(story())


def test_other_devices_replace_all_that_was_kept_even_if_a_cut_is_under_way(tmp_path: Path) -> None:
    async def story() -> None:
        disk = Disk(tmp_path)
        disk.points.commit({"device/old": b"1"}, 1, time.monotonic())
        await disk.points.finish()
        assert not disk.points.wants_all
        disk.hangs.clear()
        disk.points.commit({"device/old": b"2"}, 2, time.monotonic())
        await asyncio.sleep(0.05)
        disk.points.begin_anew()
        disk.hangs.set()
        await disk.points.finish()
        assert disk.points.wants_all
        disk.points.commit({"device/new": b"3"}, 3, time.monotonic())
        await disk.points.close()
        assert {"device/new", "uplink"} == Outbox(tmp_path).load()[0].keys() - {"clean"}

    run(story())
