"""The page of a replay as people see it: a real replay, a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from selenium.webdriver.common.keys import Keys

from edge_node.cli import main
from tests.edge_node.browsers import Browser, browser
from tests.edge_node.replays import T0_S, signal, write_csv
from tests.fixtures.bundle_files import BUNDLE

FAULTS = ((900, 1200), (3000, 3300), (6000, 6030))
N = 8000
ODD = '<script>alert(1)</script> & "so on"'
OVERLAPS = """
const labels = [...document.querySelectorAll(arguments[0])].map((e) => e.getBoundingClientRect()).filter((b) => b.width);
return labels.filter((a, i) => labels.some((b, j) => j > i && a.top < b.bottom && b.top < a.bottom
  && a.left < b.right && b.left < a.right)).length;
"""
NAMELESS = """
return [...document.querySelectorAll("svg[role=img], .track a, .scroll")].filter((e) => !e.getAttribute("aria-label")).length;
"""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as one:
        yield one


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two devices, one of which fails; labels; a limit; a sensor that freezes; an hour of which nothing is known."""
    folder = tmp_path_factory.mktemp("page")
    ill, sound = signal(N, faults=FAULTS), signal(N, seed=9)
    ill[4000:4600] = np.nan
    sound[5000:5400, 0] = sound[5000, 0]
    anomaly = np.zeros(N, np.bool_)
    for start, stop in FAULTS:
        anomaly[start:stop] = True
    values = np.stack([ill, sound], axis=1).reshape(-1, 2)
    log = write_csv(
        folder / "hall 3.csv",
        values,
        times_s=np.repeat(T0_S + np.arange(N), 2),
        devices=["pump", "fan"] * N,
        anomaly=np.repeat(anomaly, 2),
    )
    channels = '[{ name = "Temperature", unit = "°C" }, { name = "Pressure", unit = "bar" }]'
    (folder / "gateway.toml").write_text(
        '[gateway]\nname = "g"\n'
        + "".join(
            f'[[device]]\nid = "{device}"\nmachine = "{machine}"\nmode = "irregular"\ninterval_s = 1\n'
            f'alerts_per_week = 500\nmodel = "{BUNDLE}"\nchannels = {channels}\n'
            '[[device.limit]]\nname = "low"\nchannel = "Pressure"\nbelow = 0.8\n'
            for device, machine in (("pump", "line-1"), ("fan", "line-2"))
        )
    )
    quoted = ODD.replace('"', '""')
    rows = [(1200, "seal"), (2500, "belt"), (3300, quoted), (9_000_000, "later")]
    lines = [f'{T0_S + second},pump,"{text}"' for second, text in rows]
    (folder / "failures.csv").write_text("\n".join(["time,device,text", *lines]) + "\n")
    arguments = ["replay", str(log), "-c", str(folder / "gateway.toml"), "--report", str(folder / "report")]
    assert main([*arguments, "--events", str(folder / "failures.csv"), "--lead", "5m"]) == 0
    (page,) = (folder / "report").iterdir()
    assert page.name == "hall 3.html"
    return page


@pytest.fixture
def page(chromium: Browser, file: Path) -> Browser:
    chromium.resize(1280, 900)
    chromium.open(file.as_uri())
    return chromium


def test_everything_is_on_it_and_nothing_comes_from_elsewhere(page: Browser, file: Path) -> None:
    assert page.complaints() == []
    assert page.requested() == {"file://"}
    assert page.all("script") == []
    assert [e.text.split(" of ")[0] for e in page.all("h2")] == [
        "Failures",
        "pump",
        "fan",
        "Against the labels",
        "The replay",
    ]
    head = page.find("header").text
    assert "Replay of hall 3" in head
    assert "2023-11-14 22:13:20Z to 2023-11-15 00:26:39Z (2 h 13 min; all times are UTC)" in head
    assert "fixture version 1, cpu-float32" in head
    figures = [e.text.split("\n")[0] for e in page.all(".tiles dd")]
    assert figures[0] == "2 of 3"
    assert figures[4] == "16\u202f000"
    (pump, fan) = page.all(".device")
    for device in (pump, fan):
        titles = [e.text for e in device.find_elements("css selector", "figcaption")]
        assert titles[0] == "Failures and alerts by kind"
        assert titles[1].startswith("Score logarithmic anomalous from ")
        assert titles[2:] == ["Temperature °C", "Pressure bar"]
    lanes = [e.text for e in pump.find_elements("css selector", ".lane .name")]
    assert lanes[0] == "failures"
    assert {"machine", "labels"} <= set(lanes)
    assert "sensor" in [e.text for e in fan.find_elements("css selector", ".lane .name")]
    blamed = pump.find_element("css selector", ".blame tbody tr").text
    assert blamed.startswith("Pressure")
    assert file.stat().st_size < 150_000


def test_failures_say_what_became_of_them_and_texts_stay_texts(page: Browser) -> None:
    rows = page.all("[aria-label=Failures] tbody tr")
    assert [row.text.split("\n")[0].split(" ")[2:4] for row in rows] == [
        ["✓", "caught"],
        ["✕", "missed"],
        ["✓", "caught"],
        ["–", "not"],
    ]
    assert ODD in rows[2].text
    assert len(page.all(".tall .box .dot.now")) == 1
    caught = page.run("return document.querySelector('.tall svg').getAttribute('aria-label')")
    assert caught.startswith("Of 3 failures, 2 caught with ")


def test_charts_hold_what_was_replayed(page: Browser) -> None:
    """The signal's gap is a gap, and the level lies between quiet and fault."""
    said = page.run(
        "return [...document.querySelectorAll('#device-0 ~ .chart svg')].map((s) => s.getAttribute('aria-label'))"
    )
    assert len(said) == 3
    assert said[0].startswith("Score, logarithmic: up to ")
    assert " °C to " in said[1]
    assert said[2].startswith("Pressure: from ")
    paths = page.run(
        "return [...document.querySelectorAll('#device-0 ~ .chart path.line')].map((p) => p.getAttribute('d'))"
    )
    temperature = paths[-2]
    assert temperature.count("M") == 2
    filled = page.run(
        "return [...document.querySelectorAll('path.line')].map((p) => [getComputedStyle(p).fill, p.classList.contains('area')])"
    )
    assert all((fill != "none") is area for fill, area in filled)
    heights = page.run(
        "const box = (css) => document.querySelector(css).getBoundingClientRect();"
        "const chart = '#device-0 ~ .chart:has(.level) ';"
        "return [box(chart + 'path.line').top, box(chart + 'path.level:not(.clear)').top, box(chart + 'path.line').bottom]"
    )
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (375, False), (375, True)])
def test_it_is_readable_at_any_width_in_light_and_dark(page: Browser, width: int, dark: bool) -> None:
    page.resize(width, 900, dark=dark)
    assert page.run("return document.documentElement.scrollWidth") <= width
    for labels in (".x > span", ".y > span", ".lane .name", "figcaption"):
        assert page.run(OVERLAPS, labels) == 0, labels
    ground, ink = (
        page.run(f"return getComputedStyle(document.body).{name}") for name in ("backgroundColor", "color")
    )
    brightness = [sum(int(part) for part in colour[4:-1].split(",")) for colour in (ground, ink)]
    assert (brightness[0] < brightness[1]) is dark
    outcome = page.find("[aria-label=Failures] .outcome").rect
    assert outcome["x"] >= 0
    assert outcome["x"] + outcome["width"] <= width
    page.resize(1280, 900)


def test_who_does_not_see_it_and_who_has_no_mouse_get_it_too(page: Browser) -> None:
    assert page.run(NAMELESS) == 0
    assert page.run("return document.documentElement.lang") == "en"
    page.press(Keys.TAB)
    assert page.run("return document.activeElement.textContent") == "To the charts"
    page.press(Keys.ENTER)
    page.until(lambda: page.url.endswith("#device-0"), "the charts")
    link = page.find("#device-0 ~ .lanes a.mark")
    target = str(link.get_attribute("href")).partition("#")[2]
    page.run("arguments[0].focus()", link)
    page.press(Keys.ENTER)
    page.until(lambda: page.url.endswith(f"#{target}"), "the alert's row")
    assert page.find(f"[id='{target}']").tag_name == "tr"
    assert page.complaints() == []


def test_without_failures_and_labels_there_are_signals_all_the_same(
    tmp_path: Path, chromium: Browser
) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(300))
    for _ in range(2):  # the second in place of the first
        assert (
            main(["replay", str(log), "--model", str(BUNDLE), "--report", str(tmp_path / "new" / "r")]) == 0
        )
    (page,) = (tmp_path / "new" / "r").iterdir()
    chromium.open(page.as_uri())
    assert [e.text for e in chromium.all("h2")] == ["pump", "The replay"]
    assert chromium.find(".empty").text == "No alert was raised."
    assert chromium.complaints() == []


def test_a_folder_that_cannot_be_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_csv(tmp_path / "pump.csv", signal(300))
    assert main(["replay", str(log), "--model", str(BUNDLE), "--report", str(log)]) == 1
    assert (
        capsys.readouterr().err
        == f"edge-node replay: {log}: cannot be made a folder for the page (File exists)\n"
    )
