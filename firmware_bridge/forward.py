"""``firmware-bridge forward``: a board's rows, published to a broker."""

from __future__ import annotations

import re
import time

from firmware_bridge.batch_json import RATE_KEY, SUBSCRIPTION, TIME_KEY, batch
from firmware_bridge.figures import plural, silence_text, size_text, summary
from firmware_bridge.following import Follower, follow
from firmware_bridge.news import Came
from firmware_bridge.outlet import Outlet
from firmware_bridge.protocol import Hello
from firmware_bridge.session_items import Greeting, Rows
from firmware_bridge.stopping import Stopping
from firmware_bridge.telling import Teller

BOARD = "{board}"  # in a topic: the serial number of the Hello
REPORT_EVERY_S = 10.0


class NotForwardable(Exception):
    """What the board sends cannot be published so; one line that says what to change."""


def check_topic(topic: str) -> str:
    """``topic``, which may hold ``{board}``. ValueError where it is no topic to publish to."""
    if not topic or re.search(r"[+#\0]", topic) or len(topic.encode()) > 1000:
        raise ValueError(f"{topic!r} is no topic to publish to")
    return topic


def forward(
    follower: Follower,
    outlet: Outlet,
    topic: str,
    where: str,
    stopping: Stopping,
    *,
    for_s: float | None = None,
    wait: bool = False,
) -> int:
    """Publishes until it is stopped; returns the exit code: 1 where nothing got through. ``where``: the broker, for
    people. PortUnavailable as :func:`follow`, NotForwardable."""
    began_s = time.monotonic()
    due_s = began_s + REPORT_EVERY_S
    teller = Teller()
    connected = outlet.connected
    for news in follow(follower, stopping, for_s=for_s, wait=wait):
        for new in news:
            if isinstance(new, Came) and isinstance(new.item, Rows):
                rows = new.item
                outlet.put(topic_of(topic, rows.hello), batch(rows), len(rows.counts))
                continue
            _say(teller.tell(new, time.monotonic()))
            if isinstance(new, Came) and isinstance(new.item, Greeting) and new.item.new:
                _check(new.item.hello)
                to = topic_of(topic, new.item.hello)
                print(
                    f"forwarding to {where}, topic {to}; the mqtt source reads it with {SUBSCRIPTION}",
                    flush=True,
                )
        _say(teller.hint(follower.standing(), time.monotonic()))
        outlet.send()
        if outlet.connected != connected:
            connected = outlet.connected
            print(
                f"{where}: {'connected' if connected else 'the connection was lost; rows wait'}", flush=True
            )
        if time.monotonic() >= due_s:
            due_s = time.monotonic() + REPORT_EVERY_S
            print(_report(outlet, where), flush=True)
    outlet.drain()
    standing = follower.standing()
    if not stopping.hung_up:
        print(_report(outlet, where))
        print(summary(standing, time.monotonic() - began_s), flush=True)
    if not outlet.counters.n_rows:
        why = teller.trouble or (
            silence_text(standing) if standing.hello is None else "no row came, or none got through"
        )
        raise NotForwardable(f"nothing was forwarded: {why}")
    return 0


def topic_of(topic: str, hello: Hello) -> str:
    """``topic`` for the board of ``hello``. NotForwardable where its serial number can be no level of one."""
    if BOARD not in topic:
        return topic
    if not hello.serial or re.search(r"[+#/\0]", hello.serial):
        raise NotForwardable(
            f"the board's serial number {hello.serial!r} can be no level of a topic: give --topic"
        )
    return topic.replace(BOARD, hello.serial)


def _check(hello: Hello) -> None:
    taken = {TIME_KEY, RATE_KEY} & {channel.name for channel in hello.channels}
    if taken:
        raise NotForwardable(
            f'channel "{taken.pop()}" of board {hello.serial} is called as a key of the batch is'
        )


def _report(outlet: Outlet, where: str) -> str:
    counters = outlet.counters
    text = (
        f"forwarded {plural(counters.n_rows, 'row')} in {plural(counters.n_messages, 'message')}, "
        f"{size_text(counters.n_bytes)}, to {where}"
    )
    for n, what in (
        (counters.n_waiting_rows, "not sent yet"),
        (counters.n_dropped_rows, "dropped: the queue was full"),
        (counters.n_lost_rows, "on the way as the connection broke"),
        (counters.n_refused_rows, "refused by the broker"),
    ):
        if n:
            text += f"; {plural(n, 'row')} {what}"
    return text


def _say(text: str | None) -> None:
    if text is not None:
        print(text, flush=True)
