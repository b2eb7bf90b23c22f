"""The page as people see it: the real gateway, a real broker, a real browser."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys

from tests.brokers import HOST, Subscriber, broker, free_port, wait_for
from tests.edge_node.browsers import Browser, browser
from tests.edge_node.daemons import N_ROWS, config, connected, feed, metrics, rows, running, summed
from tests.edge_node.versions import PUBLIC, good, signed, written
from tests.models.test_local_http import TOKEN

ALERT = ".side [data-alert]"
NO_MODEL = """
[[device]]
id = "meter"
interval_s = 1
channels = [{ name = "current", unit = "A" }]
limit = [{ name = "hot", channel = "current", above = 5.0 }]
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


class Gateway:
    """A gateway of two devices, and its page."""

    def __init__(self, folder: Path, mosquitto: Any, seen: Subscriber, port: int) -> None:
        self.folder, self.mosquitto, self.seen, self.port = folder, mosquitto, seen, port
        self.url = f"http://{HOST}:{port}/"
        self.rows = rows()

    def feed(self, begin: int, end: int) -> None:
        feed(self.seen, self.rows[begin:end])

    def scored(self, n: int) -> None:
        wait_for(lambda: summed(metrics(self.port), "windows_scored_total") >= n, f"{n} windows")

    def answers(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(p) for p in self.seen.on(f"linewatch/s1/g1/response/{name}")]


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    port = free_port()
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        path = config(tmp_path, mosquitto.port, port, extra=NO_MODEL)
        path.write_text(path.read_text().replace("alerts_per_week = 100", "alerts_per_week = 1"))
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            yield Gateway(tmp_path, mosquitto, seen, port)


def fresh(page: Browser) -> None:
    """Nothing is known of what an earlier test saw."""
    page.open("about:blank")
    page.requested()
    page.complaints()


def drawn(page: Browser, css: str) -> int:
    """How many pixels of its score line and alert level a chart has."""
    n: int = page.run(
        """
        const canvas = document.querySelector(`${arguments[0]} canvas`);
        if (!canvas) return 0;
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        let n = 0;
        for (let i = 0; i < data.length; i += 4) {
          const [r, g, b, a] = data.slice(i, i + 4);
          if (a > 128 && Math.max(r, g, b) - Math.min(r, g, b) > 60) n++;
        }
        return n;
        """,
        css,
    )
    return n


def fill(page: Browser, by: str | None, note: str = "") -> None:
    """What a dialog asks for, and send it by the keyboard."""
    page.find("dialog[open]")
    if by is not None:
        field = page.find('dialog input[name="by"]')
        field.clear()
        field.send_keys(by)
    page.find('dialog input[name="note"]').send_keys(note, Keys.ENTER)


def test_a_shift_in_front_of_the_page(gateway: Gateway, chromium: Browser) -> None:
    page = chromium
    fresh(page)
    page.open(gateway.url)
    page.run("window.neverReloaded = true")
    # Before anything has come, it says so, and what to look at.
    page.find('[data-device="pump-1"]', "Nothing has come from it yet. What feeds it is connected")
    page.find(".alerts", "No device scores yet.")
    assert drawn(page, '[data-device="pump-1"]') == 0
    gateway.feed(0, 6)
    page.find('[data-device="pump-1"]', "Its first window, of ")
    page.find('[data-device="pump-1"] progress')

    # Healthy: a curve below its level, and no alert.
    gateway.feed(6, 880)
    gateway.scored(80)
    page.find('[data-device="pump-1"] .state', "Normal")
    page.find('[data-device="pump-1"] .score', "at last; alert level")
    page.until(lambda: drawn(page, '[data-device="pump-1"]') > 200, "a curve")
    page.find(".alerts", "All is well with 1 device")
    assert page.all(ALERT) == []
    gateway.seen.publish("plant/meter", json.dumps([{"t": t, "current": 1.0} for t in times(gateway)]))
    page.find('[data-device="meter"]', "No model yet: only its sensors and 1 limit are watched.")

    # A fault: the alert appears by itself.
    gateway.feed(880, 980)
    alert = page.find(ALERT, "pump: ")
    assert page.run("return window.neverReloaded") is True
    assert "Critical" in alert.text or "Warning" in alert.text
    assert "expected" in alert.text
    assert "%" in alert.text, "who is to blame"
    page.find('[data-device="pump-1"] .state', "Anomalous")
    page.find(".overall", "1 open alert")
    page.until(lambda: page.run("return document.title").startswith("(1) g1"), "the title")
    alert_id = alert.get_attribute("data-alert")

    # Seen, by the keyboard alone.
    page.run("document.querySelector(arguments[0]).focus()", f"{ALERT} button.primary")
    page.press(Keys.ENTER)
    page.find("dialog[open]", "Acknowledge")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all("dialog"), "the dialog closed")
    page.press(Keys.ENTER)
    fill(page, "Jürgen <b>", "on my way")
    page.find(ALERT, "Seen by Jürgen <b>")
    page.find(".told", "Acknowledge: seen by Jürgen <b>")
    assert page.all(f"{ALERT} button.primary") == [], "once is enough"
    (answer,) = wait_for(lambda: gateway.answers("ack"), "the answer, for the sink")
    assert (answer["by"], answer["note"], answer["alert_id"]) == ("Jürgen <b>", "on my way", alert_id)

    page.click(f"{ALERT} button", "False alarm")
    fill(page, None, "belt swapped")
    page.find(f'{ALERT} button[aria-pressed="true"]', "False alarm")
    page.find(ALERT, "Called a false alarm by Jürgen <b>")
    (answer,) = wait_for(lambda: gateway.answers("label"), "the answer, for the sink")
    assert (answer["label"], answer["by"]) == ("false_alarm", "Jürgen <b>"), "the name is remembered"

    # What is refused is said where it was asked, and may be asked again.
    page.click(f"{ALERT} button", "Accept as normal")
    fill(page, "Anna", "new belt")
    page.find("dialog .error", "Not done: how pump-1 runs now is not known yet")
    gateway.feed(980, 1150)
    gateway.scored(112)
    page.click("dialog button.primary")
    page.find(".over .past", "pump: accepted as normal by Anna")
    page.find(".alerts", "All is well")
    refused, answer = wait_for(
        lambda: gateway.answers("accept_as_normal")[1:] and gateway.answers("accept_as_normal"), "both"
    )
    assert (refused["ok"], refused["reason"]) == (False, "too_soon")
    assert (answer["ok"], answer["device"], answer["by"]) == (True, "pump-1", "Anna")

    page.click('[data-device="pump-1"] h3 a')
    page.until(lambda: drawn(page, ".chart.large") > 400, "a large curve")
    page.find(".device .facts", "pump")

    # The gateway's own health.
    page.click(".top nav a", "Gateway")
    page.find(".connections", "source mqtt")
    page.find('[aria-labelledby="models"]', "version")
    page.find('[aria-labelledby="egress"]', "Alerts")
    page.find('[aria-labelledby="drops"]', "the device has no model")
    gateway.mosquitto.kill()
    page.find(".troubles", "source mqtt is not connected")
    page.find(".troubles", "uplink is not connected")
    page.find(".connections .down", "not connected")

    assert page.run("return window.neverReloaded") is True
    assert page.complaints() == []
    assert page.requested() - {"about:blank"} == {gateway.url.rstrip("/")}


def times(gateway: Gateway) -> list[int]:
    return [json.loads(row)["t"] for row in gateway.rows[:300]]


def test_it_fits_a_phone_and_the_dark(gateway: Gateway, chromium: Browser) -> None:
    page = chromium
    fresh(page)
    gateway.feed(0, N_ROWS)
    page.open(gateway.url)
    page.find(ALERT, "pump: ")
    for dark in (False, True):
        for width in (360, 768, 1920):
            page.resize(width, 900, dark=dark)
            for view, shows in (("#/", ALERT), ("#/device/pump-1", ".chart.large"), ("#/gateway", "#egress")):
                page.run("location.hash = arguments[0]", view)
                page.find(shows)
                page.until(
                    lambda: page.run("return document.documentElement.scrollWidth <= innerWidth"),
                    f"no sideways scrolling at {width} in {view}",
                )
                assert overlapping(page) == [], f"{view} at {width}"
        ground = page.run("return getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) is dark
    page.resize(360, 640)
    page.run("location.hash = '#/'")
    page.click(f"{ALERT} button.primary")
    page.find("dialog[open]")
    assert page.run("return document.querySelector('dialog').getBoundingClientRect().width") <= 360
    page.press(Keys.ESCAPE)
    page.resize(1280, 900)
    assert page.complaints() == []


def test_a_phone_shows_whole_words_and_what_time_it_was(gateway: Gateway, chromium: Browser) -> None:
    page = chromium
    fresh(page)
    gateway.feed(0, N_ROWS)
    page.open(gateway.url)
    page.find(ALERT, "pump: ")
    page.run(
        """
        window.written = [];
        const fillText = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
          window.written.push(text);
          return fillText.call(this, text, ...rest);
        };
        """
    )
    for width in (360, 390, 1400):
        page.run("window.written.length = 0")
        page.resize(width, 900)

        def times_said() -> set[str]:
            written = page.run("return window.written")
            return {text for text in written if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text)}

        page.until(lambda said=times_said: len(said()) >= 2, f"times below the curve at {width}")
    page.run("location.hash = '#/gateway'")
    page.resize(360, 900)
    page.find('[aria-labelledby="drops"] .table')
    broken = page.run(
        """
        const found = [];
        for (const cell of document.querySelectorAll(".table th, .table td")) {
          const walker = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
          while (walker.nextNode()) {
            for (const { 0: word, index } of walker.currentNode.data.matchAll(/[^\\s]+/g)) {
              const range = document.createRange();
              range.setStart(walker.currentNode, index);
              range.setEnd(walker.currentNode, index + word.length);
              if (range.getClientRects().length > 1) found.push(word);
            }
          }
        }
        return found;
        """
    )
    assert broken == []
    page.resize(1280, 900)


def test_a_model_that_was_refused_is_told(tmp_path: Path, chromium: Browser) -> None:
    page, port = chromium, free_port()
    fresh(page)
    with broker(tmp_path) as mosquitto, Subscriber(mosquitto.port, "linewatch/#") as seen:
        bundle = written(tmp_path / "bundle", signed(good(1)))
        keys = f'[models]\ntrusted_keys = ["{PUBLIC}"]'
        path = config(tmp_path, mosquitto.port, port, bundle=bundle, gateway=keys)
        with running(path):
            wait_for(lambda: connected(port), "the source's connection")
            page.open(f"http://{HOST}:{port}/#/gateway")
            page.find('[aria-labelledby="models"]', "version 1")
            model_id = good(1)[0].model_id
            seen.publish(f"linewatch/models/{model_id}/stable", b"{}", retain=True)
            page.find('[aria-labelledby="models"] .error', "Refused:")
    assert page.complaints() == []


def overlapping(page: Browser) -> list[str]:
    """Texts that run over others, or out of the box that holds them."""
    found: list[str] = page.run(
        """
        const texts = "button, h2, h3, .state, .score, .sentence, .hint, .since, .value, .expected, dt, dd, .canvas";
        const boxes = [...document.querySelectorAll(texts)]
          .filter((e) => e.checkVisibility() && e.textContent.trim() + e.className)
          .map((e) => [e, e.getBoundingClientRect()]).filter(([, r]) => r.width && r.height);
        const said = [...document.querySelectorAll(".alert, .card, .panel, .top")]
          .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => `too wide: ${e.textContent}`);
        for (const [e, r] of boxes) {
          const block = getComputedStyle(e).display !== "inline";
          if (block && e.scrollWidth > e.clientWidth + 1) said.push(`out of itself: ${e.textContent}`);
          for (const [f, s] of boxes) {
            if (e === f || e.contains(f) || f.contains(e)) continue;
            const w = Math.min(r.right, s.right) - Math.max(r.left, s.left);
            const h = Math.min(r.bottom, s.bottom) - Math.max(r.top, s.top);
            if (w > 1 && h > 1) said.push(`${e.textContent} | ${f.textContent}`);
          }
        }
        return said;
        """
    )
    return found


def test_who_is_let_in_by_a_token(tmp_path: Path, chromium: Browser) -> None:
    page, port = chromium, free_port()
    fresh(page)
    (tmp_path / "t").write_text(TOKEN)
    with broker(tmp_path) as mosquitto:
        path = config(
            tmp_path, mosquitto.port, port, gateway='metrics_host = "0.0.0.0"\nhttp_token_file = "t"'
        )
        with running(path):
            url = f"http://{HOST}:{port}/"

            def answers() -> bool:
                page.open(url)
                return page.url == f"{url}login"

            wait_for(lambda: is_listening(port), "the page")
            assert answers()
            page.find("#token").send_keys("not-the-token-of-it", Keys.ENTER)
            page.find(".wrong", "That was not the token.")
            page.find("#token").send_keys(TOKEN, Keys.ENTER)
            page.find('[data-device="pump-1"]')
            assert page.url == url
            assert page.run("return document.cookie") == "", "no script can read it"
            page.open(url)
            page.find('[data-device="pump-1"]')
            page.click("button", "Log out")
            page.find("#token")
            assert answers()
    refused = [said for said in page.complaints() if "403" not in said]
    assert refused == []


def is_listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex((HOST, port)) == 0
