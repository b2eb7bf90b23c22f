"""docs/scaling.md plans with what was measured: the arithmetic holds, the page says what it gives, the measurement runs."""

from __future__ import annotations

import json
import math
import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import scaling, scaling_learning, scaling_page, table
from benchmarks.scaling_broker import packet
from benchmarks.scaling_plan import Plant, largest, plan
from cloud_sink.cli import parser
from tests.brokers import mosquitto_path

ROOT = Path(__file__).parents[1]
SIZE = {"payload_bytes": 900, "packet_bytes": 1000}
# Round numbers, so that what follows from them can be reckoned by hand.
FIGURES: dict[str, Any] = {
    "wire": {"summary": {"40": SIZE}, "alert": {"40": SIZE}, "state": SIZE, "status": SIZE},
    "broker": {
        "by_size": {"summary-40": {"in_us": 20.0, "out_us": 10.0}, "status": {"in_us": 10.0, "out_us": 5.0}},
        "retained_kb": 2.0,
        "connection_kb": 10.0,
        "connects_per_s": 1_000.0,
    },
    "sink": {
        "summary": {"40": {"per_cpu_s": 1_000.0}},
        "alert": {"per_cpu_s": 500.0},
        "status": {"per_cpu_s": 1_000.0},
    },
    "features": {"40": {"bytes": 1_000.0, "compact_bytes_a_summary": 5_000.0, "counted_per_s": 4_000.0}},
    "events": {
        "sqlite": {
            "status_again_per_s": 1_000.0,
            "device_again_per_s": 2_000.0,
            "alert_per_s": 500.0,
            "status_bytes": 1_000.0,
            "device_bytes": 100.0,
            "alert_bytes": 4_000.0,
        }
    },
    "learning": {
        "40": {
            "s": 1.0,
            "s_a_summary": 1e-4,
            "s_a_device": 1e-3,
            "s_a_device_summary": 1e-9,
            "mb": 200.0,
            "mb_a_summary": 0.05,
            "mb_a_device": 0.01,
            "fit": {"mahalanobis": {"s": 2.0, "s_a_device": 1e-4}, "ae": {"s": 60.0, "s_a_device": 1e-4}},
        }
    },
}
FALLS = {("learning", "days_in_memory_d")}  # where more is asked for, less is left


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    mosquitto_path()
    folder = tmp_path_factory.mktemp("results")
    command = [sys.executable, "-m", "benchmarks.run", "scaling", "--quick", "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    for part in scaling.PARTS:
        assert f"  {part}\n" in done.stdout
    record: dict[str, Any] = json.loads((folder / "scaling.json").read_text())
    assert (record["benchmark"], record["quick"]) == ("scaling", True)
    return record


@pytest.mark.timeout(120)
def test_a_quick_run_has_every_figure_and_they_make_a_plan(quick: dict[str, Any]) -> None:
    wire, known = quick["wire"], quick["learning"]["16"]
    with_rows, without = (
        wire[name]["16"]["payload_bytes"] for name in ("summary", "summary_without_reservoir")
    )
    rows = 16 * 16 * 4 * 4 / 3  # base64
    assert with_rows - without == pytest.approx(rows, abs=8)
    assert wire["summary"]["16"]["packet_bytes"] > with_rows
    stored = quick["features"]["16"]
    assert 0 < stored["bytes"] <= stored["bytes_as_they_come"]
    assert quick["broker"]["by_size"]["summary-16"]["per_s"] > 0
    assert [(p["learned_devices"], p["summaries"]) for p in known["points"]] == [(20, 40), (40, 80)]
    assert set(quick["events"]["sqlite"]) == {
        f"{what}_{unit}"
        for what in ("status", "status_again", "device", "device_again", "alert")
        for unit in ("per_s", "bytes")
    }
    assert len(table.rows({"scaling": quick})) == 1
    assert len(scaling_page.figures(quick).splitlines()) > 15
    found = plan(quick, Plant(n_gateways=5_000, features=16))
    assert found["store"]["day_gb"] == pytest.approx(100_000 * 288 * stored["bytes"] / 1e9)


def test_the_page_says_what_was_measured() -> None:
    page = scaling_page.PAGE.read_text()
    assert scaling_page.rendered(page, table.load()["scaling"]) == page, "python -m benchmarks.scaling_page"


def test_every_label_is_of_a_figure_and_every_figure_has_one() -> None:
    found = plan(FIGURES, Plant(n_gateways=10))
    assert set(found) == set(scaling_page.LABELS)
    assert all(name in found[kind] for _, kind, name, _, _ in scaling_page.ENDS)
    for kind, tables in found.items():
        missing = set(scaling_page.LABELS[kind]) - set(tables)
        assert missing <= {"all_linear-ae_h"}  # of which FIGURES has none
        assert set(tables) <= set(scaling_page.LABELS[kind])


def test_a_plan_reckoned_by_hand() -> None:
    plant = Plant(
        n_gateways=3_000,
        devices_per_gateway=10,
        gateways_per_broker=2_000,
        classes=3,
        alerts_per_device_week=0.0,
    )
    found = plan(FIGURES, plant)
    broker, sinks, store = found["broker"], found["sinks"], found["store"]
    assert broker["messages_in_per_s"] == pytest.approx(30_000 / 300 + 3_000 / 30)
    assert broker["in_mbit_per_s"] == pytest.approx(200 * 1000 * 8 / 1e6)
    assert (broker["brokers"], broker["gateways_per_broker"]) == (2, 2_000)
    # The first: 66.7 summaries and statuses a second, each a thousandth of a core, of half a core that is left.
    assert sinks["sinks_per_broker"] == math.ceil(0.0667 / (0.5 - 0.0667)) == 1
    assert broker["broker_busy_cores"] == pytest.approx(66.667 * 30e-6 + 66.667 * 15e-6, rel=1e-4)
    assert broker["retained_per_broker"] == 2_000 * 12
    assert broker["broker_memory_mb"] == pytest.approx(2_000 * 12 * 2 / 1e3 + 2_000 * 10 / 1e3)
    assert broker["reconnect_s"] == pytest.approx(2.0)
    assert store["summaries_per_day"] == pytest.approx(30_000 * 288)
    assert store["day_gb"] == pytest.approx(8.64)
    assert store["retention_tb"] == pytest.approx(8.64 * 400 / 1e3)
    assert store["compaction_memory_gb"] == pytest.approx(8_640_000 / 3 * 5_000 / 1e9)
    assert store["rollout_count_s"] == pytest.approx(2 * 8_640_000 / 3 / 4_000)
    assert found["database"]["rows"] == 36_000
    assert found["database"]["row_writes_per_s"] == pytest.approx(200)
    assert found["database"]["sqlite_busy_writers"] == pytest.approx(100 / 1_000 + 100 / 2_000)
    learning = found["learning"]
    m = 10_000 * 30 * 288
    gather_s = 1 + m * 1e-4 + 10_000 * 1e-3 + m * 10_000 * 1e-9
    assert learning["summaries_per_class"] == pytest.approx(m)
    assert learning["class_gather_s"] == pytest.approx(gather_s)
    assert learning["class_memory_gb"] == pytest.approx(0.2 + m * 0.05 / 1e3 + 0.1)
    assert learning["all_ae_h"] == pytest.approx(3 * (gather_s + 60 + 1) / 3_600)
    assert learning["days_in_memory_d"] == pytest.approx((64_000 - 200 - 100) / (10_000 * 288 * 0.05))


def test_learners_share_the_classes() -> None:
    one, two, four = (
        plan(FIGURES, Plant(n_gateways=1_000, classes=4, learners=n))["learning"] for n in (1, 2, 4)
    )
    assert one["all_ae_h"] == pytest.approx(2 * two["all_ae_h"])
    assert one["all_ae_h"] == pytest.approx(4 * four["all_ae_h"])


def test_where_statuses_alone_fill_a_sink_no_number_of_them_is_enough() -> None:
    """500 statuses a second are half a core of each sink, which is all that it may be busy."""
    plant = Plant(n_gateways=15_000, gateways_per_broker=15_000, alerts_per_device_week=0.0)
    found = plan(FIGURES, plant)
    assert found["sinks"]["sinks"] == found["broker"]["broker_busy_cores"] == math.inf
    fewer = plan(FIGURES, replace(plant, n_gateways=14_000, gateways_per_broker=14_000))
    assert math.isfinite(fewer["sinks"]["sinks"])
    apart = plan(FIGURES, replace(plant, gateways_per_broker=5_000))
    assert apart["sinks"]["one_broker_sinks"] == math.inf
    assert math.isfinite(apart["sinks"]["sinks"])


def test_where_it_ends_one_more_is_too_many() -> None:
    plant = Plant(n_gateways=1, alerts_per_device_week=0.0, classes=1)
    # 20 / 300 and 1 / 30 a second of a gateway, at 1,000 statuses a second.
    most = largest(FIGURES, plant, "sinks", "one_broker_statuses_busy_cores", 0.5)
    assert most == 15_000
    n = largest(FIGURES, plant, "learning", "class_memory_gb", 64.0)
    both = [plan(FIGURES, replace(plant, n_gateways=m))["learning"]["class_memory_gb"] for m in (n, n + 1)]
    assert both[0] <= 64.0 < both[1]
    assert largest(FIGURES, plant, "learning", "class_memory_gb", 0.1) == 0


plants = st.builds(
    Plant,
    n_gateways=st.integers(1, 60_000),
    devices_per_gateway=st.integers(1, 200),
    summary_s=st.floats(10, 86_400),
    status_s=st.floats(1, 3_600),
    alerts_per_device_week=st.floats(0, 100),
    messages_per_alert=st.floats(2, 20),
    gateways_per_broker=st.integers(100, 20_000),
    classes=st.integers(1, 100),
    retention_days=st.floats(1, 2_000),
    learn_days=st.floats(0.1, 400),
    learners=st.integers(1, 50),
    busy=st.floats(0.1, 0.9),
)
MORE = {  # each makes more of something to do, or leaves less to do it with
    "n_gateways": lambda x, f: math.ceil(x * f),
    "devices_per_gateway": lambda x, f: math.ceil(x * f),
    "summary_s": lambda x, f: x / f,
    "status_s": lambda x, f: x / f,
    "alerts_per_device_week": lambda x, f: x * f,
    "messages_per_alert": lambda x, f: x * f,
    "retention_days": lambda x, f: x * f,
    "learn_days": lambda x, f: x * f,
    "learners": lambda x, f: max(1, math.floor(x / f)),
    "busy": lambda x, f: x / f,
}


@settings(max_examples=60, deadline=None)
@given(plant=plants, factor=st.floats(1, 5))
@pytest.mark.parametrize("name", MORE)
def test_more_of_anything_is_no_less_of_what_it_takes(name: str, plant: Plant, factor: float) -> None:
    before = plan(FIGURES, plant)
    after = plan(FIGURES, replace(plant, **{name: MORE[name](getattr(plant, name), factor)}))
    for kind, tables in before.items():
        for what, value in tables.items():
            now = after[kind][what]
            less, more = (now, value) if (kind, what) in FALLS else (value, now)
            assert more >= less * (1 - 1e-9), what


@settings(max_examples=40, deadline=None)
@given(plant=plants)
def test_a_plant_twice_as_large_says_and_stores_twice_as_much(plant: Plant) -> None:
    """Units: rates, bytes and rows are of all of it; what is said of one broker or one class is not."""
    plant = replace(plant, n_gateways=plant.gateways_per_broker)
    one, two = plan(FIGURES, plant), plan(FIGURES, replace(plant, n_gateways=2 * plant.n_gateways))
    for kind, what in (
        ("broker", "messages_in_per_s"), ("broker", "in_mbit_per_s"), ("broker", "brokers"), ("sinks", "sinks"),
        ("store", "day_gb"), ("store", "retention_tb"), ("database", "rows"), ("database", "alert_rows_per_year"),
        ("learning", "summaries_per_class"),
    ):  # fmt: skip
        assert two[kind][what] == pytest.approx(2 * one[kind][what]), what
    for kind, what in (("broker", "broker_busy_cores"), ("sinks", "sinks_per_broker"), ("sinks", "start_s")):
        assert two[kind][what] == one[kind][what], what


def test_the_costs_of_learning_are_found_again() -> None:
    points = [
        {
            "devices": d, "each": e, "family": "mahalanobis", "read_s": 1e-4 * d * e,
            "gather_s": 0.2 + 2e-9 * d * d * e, "fit_s": 0.5 + 1e-4 * d, "base_mb": 200.0,
            "grown_mb": 10.0 + 0.05 * d * e + 0.02 * d,
        }
        for d, e in ((100, 10), (1_000, 10), (1_000, 50), (10_000, 5), (10_000, 10))
    ]  # fmt: skip
    found = scaling_learning.costs(points)
    assert found["s_a_summary"] == pytest.approx(1e-4, rel=1e-3)
    assert found["s_a_device_summary"] == pytest.approx(2e-9, rel=1e-3)
    assert found["mb_a_summary"] == pytest.approx(0.05, rel=1e-3)
    assert found["mb_a_device"] == pytest.approx(0.02, rel=1e-2)
    assert found["fit"]["mahalanobis"]["s_a_device"] == pytest.approx(1e-4, rel=1e-3)
    assert max(found["worst"].values()) < 1e-3
    told = scaling_learning.costs(points, looks=2e-9)
    assert told["s_a_device_summary"] == 2e-9
    assert told["s_a_summary"] == pytest.approx(1e-4, rel=1e-2)
    points[-1]["read_s"] *= 2
    assert scaling_learning.costs(points)["worst"]["seconds"] > 0.05


@pytest.mark.parametrize(
    ("n", "header"), [(0, "3200"), (127, "327f"), (128, "328001"), (16_383, "32ff7f"), (16_384, "32808001")]
)
def test_lengths_of_packets_are_those_of_mqtt(n: int, header: str) -> None:
    """The examples of MQTT 3.1.1, table 2.4."""
    assert packet(0x32, b"x" * n) == bytes.fromhex(header) + b"x" * n


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (math.inf, "not to be had"),
        (0.0123, "0.012"),
        (7.0, "7"),
        (12.34, "12"),
        (1234.5, "1,230"),
        (100_000, "100,000"),
    ],
)
def test_figures_have_as_many_digits_as_mean_something(value: float, text: str) -> None:
    assert scaling_page.said(value) == text


def commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", scaling_page.PAGE.read_text(), re.DOTALL)
    return [line.split("#")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


def test_commands_of_the_page_are_ones(capsys: pytest.CaptureFixture[str]) -> None:
    found = commands()
    assert len(found) > 2
    for command in found:
        program, *arguments = shlex.split(command)
        if program == "cloud-sink":
            assert callable(parser().parse_args(arguments).act)
            continue
        assert (program, *arguments[:1]) == ("python", "-m")
        module, *more = arguments[1:]
        with pytest.raises(SystemExit) as ended:  # all of it is parsed before help is given
            {"benchmarks.scaling": scaling.main, "benchmarks.scaling_page": scaling_page.main}[module](
                [*more, "--help"]
            )
        assert ended.value.code == 0
    told = scaling_page.figures(table.load()["scaling"])
    named = set(re.findall(r"python -m benchmarks\.scaling (\w+)", told))
    assert named == set(scaling.PARTS)
