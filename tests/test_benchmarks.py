"""The benchmarks run, on sizes that measure nothing, and the README says what was measured."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import feature_log, run, table
from benchmarks.quality import page as quality_page
from examples.demo.processes import NO_MOSQUITTO, DemoError
from tests.brokers import mosquitto_path

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a quick run of all of them left its results; but of ``scaling``, which tests/test_scaling.py runs."""
    folder = tmp_path_factory.mktemp("results")
    names = [name for name in run.BENCHMARKS if name != "scaling"]
    command = [sys.executable, "-m", "benchmarks.run", *names, "--quick", "--results", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return folder


def result(folder: Path, name: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    assert (record["benchmark"], record["quick"]) == (name, True)
    assert record["environment"]["versions"]["numpy"]
    assert len(table.rows({name: record})) > 0
    return record


@pytest.mark.timeout(450)
def test_throughput_of_the_pipeline_and_its_floor(quick: Path) -> None:
    r = result(quick, "throughput")
    assert (r["devices"], r["features"]) == (20, 42)
    assert r["floor_over_pipeline"] > 0
    assert list(r["ns_per_sample_by_devices"]) == ["1", "10", "100"]
    assert min(r["ns_per_sample_by_devices"].values()) > 0
    assert list(r["ns_per_sample_one_by_one"]) == ["1", "10", "100"]
    assert min(r["ns_per_sample_one_by_one"].values()) > 0


@pytest.mark.timeout(450)
def test_ingest_and_a_bare_decode(quick: Path) -> None:
    sizes = result(quick, "ingest")["by_rows_per_message"]
    assert list(sizes) == ["10", "100", "1000"]
    assert all(s["samples_per_s"] > 0 and s["bare_over_ours"] > 0 for s in sizes.values())


@pytest.mark.timeout(450)
def test_a_sink_and_a_bare_decode(quick: Path) -> None:
    r = result(quick, "sink")
    assert r["summaries"] == 300
    assert min(r["per_s"], r["per_cpu_s"], r["bare_us"], r["rss_mb"]) > 0


@pytest.mark.timeout(450)
def test_the_serial_protocol_and_its_floor(quick: Path) -> None:
    r = result(quick, "serial")
    sizes, line = r["by_bytes_per_read"], r["line"]
    assert list(sizes) == ["4096", "16384", "65536"]
    assert all(
        s["mb_per_s"] > 0 and s["samples_per_s"] > 0 and s["floor_over_ours"] > 0 for s in sizes.values()
    )
    assert line["samples"] > 0
    assert line["cpu_share"] > 0
    assert line["bare_cpu_share"] > 0
    assert 0 < line["bytes_per_read"] <= 4096


@pytest.mark.timeout(450)
def test_inference_in_a_process_of_its_own_and_in_this_one(quick: Path) -> None:
    r = result(quick, "inference")
    assert list(r["by_rows"]) == ["1", "16", "1024"]
    for size in r["by_rows"].values():
        for name in ("process", "in_process"):
            assert 0 < size[name]["p50_us"] <= size[name]["p99_us"]
            assert size[name]["windows_per_s"] > 0
    assert r["worker"]["rss_mb"] > 0 < r["bare"]["rss_mb"]
    assert 0 < r["start_ms"]["p50"] <= r["start_ms"]["max"]


@pytest.mark.timeout(450)
def test_every_lost_edge_tpu_is_taken_over_for_and_comes_back(quick: Path) -> None:
    r = result(quick, "failover")
    kinds = {"hang", "abort", "invoke", "kill"}
    assert set(r["to_cpu_ms"]) == {"all", *kinds}
    assert r["to_cpu_ms"]["all"]["n"] == r["deaths"] == 4
    assert r["to_cpu_ms"]["hang"]["max"] >= r["watchdog_ms"] > 0
    assert {how: found["n"] for how, found in r["to_tpu_ms"].items()} == dict.fromkeys(kinds, 1)
    assert r["windows_scored"] == r["windows_owed"] >= 32


@pytest.mark.timeout(450)
def test_every_fault_is_one_alert_and_its_latency_holds_what_the_gateway_took(quick: Path) -> None:
    mosquitto_path()
    r = result(quick, "latency")
    ours, broker, inside = r["alert_ms"], r["broker_ms"], r["in_gateway_ms"]
    assert r["n_faults"] == ours["n"] == inside["n"] == 20
    assert 0 < inside["p50"] <= ours["p50"] <= ours["p99"] <= ours["max"]
    assert broker["n"] > 0
    assert 0 < broker["p50"] <= broker["p99"] <= broker["max"]
    trips = r["broker_trips_ms"]
    assert {t["n"] for t in trips.values()} == {broker["n"]}
    assert all(t["max"] <= broker["max"] for t in trips.values())
    assert r["alert"]["cooldown_s"] == 0
    assert r["time"]["lateness_s"] == 2.0


@pytest.mark.timeout(450)
def test_what_the_boards_published_arrived_and_was_scored(quick: Path) -> None:
    mosquitto_path()
    r = result(quick, "resources")
    assert r["samples_in"] == r["samples_published"] > 0
    assert r["windows_scored"] > 0
    for state in ("idle", "load"):
        assert 0 < r[state]["bare"]["rss_mb"] < r[state]["gateway"]["rss_mb"]
        assert all(process["cpu_share"] >= 0 for process in r[state].values())


@pytest.mark.timeout(450)
def test_the_black_box_records_all_of_it(quick: Path) -> None:
    r = result(quick, "black_box")
    for signal in r["signals"].values():
        assert 0 < signal["file_bytes_per_day"] < signal["signal_bytes_per_day"]
        assert signal["loop_cpu_share"] > 0
        assert signal["thread_cpu_share"] > 0
        assert signal["record_cpu_share"] > 0
    assert r["rest_bytes_per_day"]["slow"] > r["rest_bytes_per_day"]["ticks"] > 0


@pytest.mark.timeout(450)
def test_features_are_far_smaller_than_signal() -> None:
    r = feature_log.measure(minutes=1)
    assert r["windows"] == 20 * 116
    assert 0 < 20 * r["bytes_a_window"] < r["signal_bytes_a_window"]  # type: ignore[operator]
    assert r["backtest_windows_per_s"] > 0  # type: ignore[operator]


@pytest.mark.parametrize("name", run.NEED_MOSQUITTO)
def test_without_mosquitto_a_benchmark_says_how_to_get_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "mosquitto_path", lambda: None)
    run.main([name, "--quick", "--results", str(tmp_path)])
    assert capsys.readouterr().out == f"{name}: skipped, {NO_MOSQUITTO}\n"
    assert "apt-get install mosquitto" in NO_MOSQUITTO
    assert list(tmp_path.iterdir()) == []


def test_the_readme_says_what_was_measured() -> None:
    readme = table.README.read_text()
    found = table.load()
    assert table.rewritten(readme, table.section(found)) == readme, "python -m benchmarks.table"
    told = table.reliability_section(found)
    assert table.rewritten(readme, told, *table.RELIABILITY) == readme, "python -m benchmarks.table"


def test_the_page_of_quality_says_what_was_measured() -> None:
    page, told = table.QUALITY.read_text(), quality_page.section(table.load())
    assert table.rewritten(page, told, quality_page.BEGIN, quality_page.END) == page, (
        "python -m benchmarks.table"
    )
    assert quality_page.section({}).startswith("|")


def test_what_is_not_measured_is_no_row(tmp_path: Path) -> None:
    ingest = table.load()["ingest"]
    assert [row.what.partition(",")[0] for row in table.rows({"ingest": ingest})] == ["JSON to arrays"]
    assert table.section(table.load(tmp_path)) == "Nothing has been measured yet: `make bench`.\n"


def test_the_readme_follows_what_was_measured_before_another_benchmark_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*, quick: bool) -> dict[str, object]:
        raise DemoError("no broker")

    sizes = {"10": {"samples_per_s": 2e6, "bare_over_ours": 0.25}}
    readme = tmp_path / "README.md"
    readme.write_text("".join((table.BEGIN, table.END, *table.RELIABILITY)))
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(run.ALL, "ingest", lambda *, quick: {"by_rows_per_message": sizes})
    monkeypatch.setitem(run.ALL, "throughput", fails)
    with pytest.raises(SystemExit, match="throughput: no broker"):
        run.main(["ingest", "throughput"])
    assert "2.0 M samples/s" in readme.read_text()
    assert "0.25 of its speed" in readme.read_text()


def test_a_table_goes_between_the_markers_and_replaces_the_one_before() -> None:
    readme = f"# A\n\n{table.BEGIN}\nold\n{table.END}\n\nmore\n"
    once = table.rewritten(readme, "new\n")
    assert once == f"# A\n\n{table.BEGIN}\n\nnew\n\n{table.END}\n\nmore\n"
    assert table.rewritten(once, "new\n") == once
    with pytest.raises(ValueError, match="no place for the table"):
        table.rewritten("# A\n", "new\n")


def test_a_target_that_is_missed_is_said_to_be() -> None:
    timed = {"median_cpu_s_per_unit": 2e-8}
    record = {
        "devices": 20, "floor_over_pipeline": 0.6, "pipeline": timed, "floor": timed,
        "ns_per_sample_by_devices": {"1": 30.0, "10": 40.0, "1000": 52.9},
        "ns_per_sample_one_by_one": {"1": 50.0, "10": 60.0, "1000": 90.0},
    }  # fmt: skip
    share, growth, alone = table.rows({"throughput": record})
    assert (share.target, growth.target) == ("at least 0.6", "at most 1.3: not yet")
    assert growth.ratio == "1.32 times with 1000"
    assert (alone.ratio, alone.target) == ("1.50 times with 1000", "")


@pytest.mark.parametrize(
    ("shares", "said"),
    [
        ((0.5, 0.6), "at least 0.5"),
        ((0.2, 0.5), "at least 0.5: not yet below 16 KB"),
        ((0.2, 0.4), "at least 0.5: not yet"),
    ],
)
def test_up_to_what_reads_the_serial_target_is_missed_is_said(shares: tuple[float, float], said: str) -> None:
    sizes = {
        size: {"floor_over_ours": share, "mb_per_s": 9.0, "samples_per_s": 4e6, "floor_mb_per_s": 18.0}
        for size, share in zip(("4096", "16384"), shares, strict=True)
    }
    line = {"cpu_share": 0.04, "bare_cpu_share": 0.02}
    record = {"channels": 3, "rate_hz": 25600, "by_bytes_per_read": sizes, "line": line}
    decoding, cost = table.rows({"serial": record})
    assert decoding.target == said
    assert (cost.ours, cost.target) == ("4.0 % of a core", "below 10 %")


def test_results_of_a_quick_run_are_no_results(quick: Path) -> None:
    with pytest.raises(ValueError, match="quick run"):
        table.load(quick)
