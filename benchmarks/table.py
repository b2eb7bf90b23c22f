"""``python -m benchmarks.table``: the results as they stand in the README, between its two markers.

A test holds the README to what this renders; ``make bench`` calls it after each benchmark.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tabulate import tabulate

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parents[1] / "README.md"
QUALITY = Path(__file__).parents[1] / "docs" / "quality.md"
BEGIN, END = "<!-- `make bench` writes from here -->", "<!-- to here -->"
RELIABILITY = ("<!-- `make reliability` writes from here -->", "<!-- reliability: to here -->")
FLOOR_SHARE, GROWTH = 0.6, 1.3  # the targets
DECODING_SHARE, LINE_SHARE = 0.5, 0.1
FAILOVER_MS = 1000.0
MILLION = 1e6

Record = Mapping[str, Any]


class Row(NamedTuple):
    """A line of the table; ``target`` is "" where there is none."""

    what: str
    ours: str
    beside: str
    ratio: str
    target: str = ""


def load(folder: Path = RESULTS) -> dict[str, Record]:
    """Results by benchmark. ValueError for those of a quick run, which measures nothing."""
    results: dict[str, Record] = {}
    for path in sorted(folder.glob("*.json")):
        record = json.loads(path.read_text())
        if record["quick"]:
            raise ValueError(f"{path} is of a quick run, which measures nothing: make bench")
        results[record["benchmark"]] = record
    return results


def rows(results: Mapping[str, Record]) -> list[Row]:
    """What is known, in the order in which it is told."""
    from benchmarks.quality.told import rows as quality  # which has rows of this kind

    told = {
        "throughput": _throughput,
        "ingest": _ingest,
        "serial": _serial,
        "inference": _inference,
        "failover": _failover,
        "latency": _latency,
        "resources": _resources,
        "disk": _disk,
        "black_box": _black_box,
        "sink": _sink,
        "fleet": _fleet,
        "drift": _drift,
        "scaling": _scaling,
        "quality_skab": quality,
        "quality_nab": quality,
        "quality_femto": quality,
        "quality_smap_msl": quality,
    }
    return [row for name, tell in told.items() if name in results for row in tell(results[name])]


def section(results: Mapping[str, Record]) -> str:
    """Markdown: the table of what ``results`` has, and what machine it is of."""
    if not results:
        return "Nothing has been measured yet: `make bench`.\n"
    headers = ("", "Linewatch", "beside it, in the same run", "ratio", "target")
    lines = tabulate(rows(results), headers=headers, tablefmt="github", disable_numparse=True)
    return f"{lines}\n\n{measured_on(results)}\n"


def reliability(results: Mapping[str, Record]) -> list[tuple[str, str]]:
    """What was done to the gateway, and what came of it."""
    told = {"chaos": _chaos, "failover": _failed_over, "swaps": _swaps, "nonsense": _nonsense}
    return [row for name, tell in told.items() if name in results for row in tell(results[name])]


def reliability_section(results: Mapping[str, Record]) -> str:
    """Markdown: the table of what broke and what was lost."""
    found = reliability(results)
    if not found:
        return "Nothing has been broken yet: `make reliability`.\n"
    lines = tabulate(
        found, headers=("what was done", "what came of it"), tablefmt="github", disable_numparse=True
    )
    used = {name: results[name] for name in ("chaos", "failover", "swaps", "nonsense") if name in results}
    return f"{lines}\n\n{measured_on(used)}\n"


def rewritten(readme: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """``readme`` with ``text`` between the markers. ValueError where they are not."""
    before, found_begin, rest = readme.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found_begin or not found_end:
        raise ValueError(f"the README has no place for the table: {begin} ... {end}")
    return f"{before}{begin}\n\n{text}\n{end}{after}"


def write(readme: Path, results: Path, quality: Path | None = None) -> None:
    """Puts the tables of ``results`` into ``readme``, and those of how well faults are found into the page ``quality``.
    ValueError as :func:`load` and :func:`rewritten`."""
    from benchmarks.quality import page  # which has rows of this module's kind

    found = load(results)
    text = rewritten(readme.read_text(), section(found))
    readme.write_text(rewritten(text, reliability_section(found), *RELIABILITY))
    if quality is not None:
        quality.write_text(rewritten(quality.read_text(), page.section(found), page.BEGIN, page.END))


def _throughput(r: Record) -> list[Row]:
    share, by_devices = r["floor_over_pipeline"], r["ns_per_sample_by_devices"]
    ours, floor = (1e9 * r[name]["median_cpu_s_per_unit"] for name in ("pipeline", "floor"))
    sizes = list(by_devices)
    few, many = "10", sizes[-1]
    growth = by_devices[many] / by_devices[few]
    alone = r["ns_per_sample_one_by_one"]
    return [
        Row(
            f"CPU time from blocks to alerts, {r['devices']} devices × 3 axes × 1 kHz",
            f"{_figure(ours)} ns a sample",
            f"{_figure(floor)} ns: features and model alone, all windows in memory",
            f"{_figure(share)} of its speed",
            _target(f"at least {FLOOR_SHARE}", share >= FLOOR_SHARE),
        ),
        Row(
            f"the same with {_list(sizes)} devices, working off a backlog",
            f"{_list(map(_figure, by_devices.values()))} ns a sample",
            f"{_figure(by_devices[few])} ns with {few} devices",
            f"{growth:.2f} times with {many}",
            _target(f"at most {GROWTH}", growth <= GROWTH),
        ),
        Row(
            f"the same with {_list(alone)} devices, each block as it comes",
            f"{_list(map(_figure, alone.values()))} ns a sample",
            f"{_figure(alone[few])} ns with {few} devices",
            f"{alone[many] / alone[few]:.2f} times with {many}",
        ),
    ]


def _ingest(r: Record) -> list[Row]:
    sizes = r["by_rows_per_message"]
    return [
        Row(
            f"JSON to arrays, {_list(sizes)} rows of 3 a message",
            f"{_list(_figure(s['samples_per_s'] / MILLION) for s in sizes.values())} M samples/s",
            "a bare msgspec decode of the same bytes",
            f"{_list(_figure(s['bare_over_ours']) for s in sizes.values())} of its speed",
        )
    ]


def _sink(r: Record) -> list[Row]:
    return [
        Row(
            f"summaries a sink stores and acknowledges, {r['features']} features, {r['bytes_per_summary'] / 1000:.1f} KB each",
            f"{_figure(r['per_s'])} a second, {_figure(r['per_cpu_s'])} a CPU-second; {_figure(r['rss_mb'])} MB",
            f"{_figure(1e6 / r['bare_us'])} a CPU-second: a bare msgspec decode of the same bytes",
            f"{_figure(r['bare_over_ours'])} of its speed",
        )
    ]


def _fleet(r: Record) -> list[Row]:
    families, warm = r["families"], r["warm_up"]
    names = {"mahalanobis": "Mahalanobis", "linear-ae": "linear autoencoder", "ae": "autoencoder"}
    lost = max(f["all_rows"] - f["summaries"] for f in families.values())
    wins = all(w["fleet"] > w["own"] for w in warm.values())
    return [
        Row(
            f"ROC AUC of models learned from other devices' summaries ({_list(names[f] for f in families)}); "
            f"{r['devices']} recordings of SKAB, one device each",
            _list(f"{f['summaries']:.3f}" for f in families.values()),
            _list(f"{f['all_rows']:.3f}" for f in families.values()) + ": learned from all of their rows",
            _list(f"{f['summaries'] - f['all_rows']:+.3f}" for f in families.values()),
            _target("at most 0.015 lost", lost <= 0.015),
        ),
        Row(
            f"the same of a device that has run for {_list(warm)} rows: borrowing from the fleet",
            _list(f"{w['fleet']:.3f}" for w in warm.values()),
            _list(f"{w['own']:.3f}" for w in warm.values()) + ": a model of its own",
            f"better for {_list(str(w['better_in']) for w in warm.values())} of {r['devices']}",
            _target("better", wins),
        ),
    ]


def _drift(r: Record) -> list[Row]:
    alarms, changes = r["false_alarms"], r["changes"]
    still = {name: max(a["devices_by_scores"], a["devices_by_features"]) for name, a in alarms.items()}
    fleets = [a["fleets"] for a in alarms.values()]
    steps = [c for name, c in changes.items() if name.endswith("over 0")]
    ramps = [c for name, c in changes.items() if not name.endswith("over 0")]
    least = min(c["told"] for c in (*steps, *ramps))

    def delays(found: list[Record]) -> str:
        return _list("never" if c["median_h"] is None else f"{c['median_h']:.0f}" for c in found)

    return [
        Row(
            f"devices told to have drifted in {r['days']} days in which none did (AR({r['ar']:g}); {_list(still)}), "
            f"{r['devices']} each",
            _list(f"{100 * share:.2g} %" for share in still.values()),
            f"fleets of {r['fleet_devices']}: {_list(f'{100 * share:.2g} %' for share in fleets)}",
            "",
        ),
        Row(
            "hours until a step is told, half of them sooner: scores by 2 and 4 deviations, features by 2 and 4",
            delays(steps),
            f"{delays(ramps)}: a ramp of 3 days",
            f"at least {100 * least:.0f} % told in 7 days",
        ),
    ]


def _scaling(r: Record) -> list[Row]:
    rows = []
    for k, known in r["learning"].items():
        linear = [p for p in known["points"] if p["family"] == "mahalanobis"]
        largest = max(linear, key=lambda p: p["summaries"])
        seconds = largest["gather_s"] + largest["fit_s"]
        rows.append(
            Row(
                f"learning from {largest['summaries']:,} summaries of {largest['devices']:,} devices, {k} features "
                "([docs/scaling.md](docs/scaling.md))",
                f"{_figure(seconds)} s; {_figure(largest['grown_mb'] / 1e3)} GB",
                f"{_figure(largest['read_s'])} s, {_figure(largest['read_mb'] / 1e3)} GB: reading them",
                f"{_figure(seconds / largest['read_s'])} times",
            )
        )
    return rows


def _serial(r: Record) -> list[Row]:
    sizes, line = r["by_bytes_per_read"], r["line"]
    shares = {int(size): s["floor_over_ours"] for size, s in sizes.items()}
    reads = _list(f"{size // 1024}" for size in shares)
    signal = f"{r['channels']} × {r['rate_hz'] / 1000:g} kHz × int16"
    met = [size for size, share in shares.items() if share >= DECODING_SHARE]
    target = _target(f"at least {DECODING_SHARE}", len(met) == len(shares))
    if met and len(met) < len(shares):
        target += f" below {min(met) // 1024} KB"
    return [
        Row(
            f"framed serial protocol to rows, reads of {reads} KB",
            f"{_list(_figure(s['mb_per_s']) for s in sizes.values())} MB/s; "
            f"{_list(_figure(s['samples_per_s'] / MILLION) for s in sizes.values())} M samples/s",
            f"{_figure(min(s['floor_mb_per_s'] for s in sizes.values()))} MB/s: COBS and CRC alone, frames cut out already",
            f"{_list(map(_figure, shares.values()))} of its speed",
            target,
        ),
        Row(
            f"CPU of a serial line, {signal}, bytes to blocks",
            f"{_figure(100 * line['cpu_share'])} % of a core",
            f"{_figure(100 * line['bare_cpu_share'])} %: a program that reads and forgets",
            f"{_figure(line['cpu_share'] / line['bare_cpu_share'])} times",
            _target(f"below {100 * LINE_SHARE:.0f} %", line["cpu_share"] < LINE_SHARE),
        ),
    ]


def _inference(r: Record) -> list[Row]:
    sizes, over = r["by_rows"], r["worker"]["rss_mb"] / r["bare"]["rss_mb"]

    def times(name: str) -> str:
        return _list(
            " / ".join(_figure(s[name][share]) for share in ("p50_us", "p99_us")) for s in sizes.values()
        )

    def rates(name: str) -> str:
        return _list(_figure(s[name]["windows_per_s"] / 1e3) for s in sizes.values())

    ratios = [s["process_over_in_process"]["windows_per_s"] for s in sizes.values()]
    return [
        Row(
            f"scoring a batch of {_list(sizes)} windows, p50 / p99",
            f"{times('process')} µs, in a process of its own",
            f"{times('in_process')} µs: in the gateway's",
            f"{_list(_figure(s['process_over_in_process']['p50_us']) for s in sizes.values())} times",
        ),
        Row(
            "the same, one batch after the other",
            f"{rates('process')} thousand windows/s",
            f"{rates('in_process')} thousand",
            f"{_list(map(_figure, ratios))} of its speed",
        ),
        Row(
            "memory of that process",
            f"{_figure(r['worker']['rss_mb'])} MB, ready {_figure(r['start_ms']['p50'])} ms after its start",
            f"{_figure(r['bare']['rss_mb'])} MB: bare Python with the TFLite runtime and numpy",
            f"{_figure(over)} times",
        ),
    ]


def _failover(r: Record) -> list[Row]:
    ours, healthy = r["to_cpu_ms"], r["healthy_cpu_ms"]
    return [
        Row(
            f"a TPU hangs / aborts / fails / is killed: its batch scored on the CPU, worst of {ours['hang']['n']} each",
            f"{' / '.join(_figure(ours[how]['max']) for how in ('hang', 'abort', 'invoke', 'kill'))} ms",
            f"{_figure(healthy['p50'])} ms: a batch on a CPU with nothing to take over",
            f"{r['windows_scored']} of {r['windows_owed']} windows scored",
            _target(f"below {FAILOVER_MS / 1e3:g} s", ours["all"]["max"] < FAILOVER_MS),
        )
    ]


def _latency(r: Record) -> list[Row]:
    ours, broker, ratio = (
        " / ".join(_figure(r[key][share]) for share in ("p50", "p99"))
        for key in ("alert_ms", "broker_ms", "alert_over_broker")
    )
    return [
        Row(
            "last sample of a window published to alert received, p50 / p99",
            f"{ours} ms",
            f"{broker} ms: the broker alone, there and back",
            f"{ratio} times as long",
        )
    ]


def _resources(r: Record) -> list[Row]:
    load, idle, over = r["load"], r["idle"], r["gateway_over_bare"]
    cpu = {
        name: [f"{_figure(100 * s[name]['cpu_share'])} %" for s in (load, idle)]
        for name in ("gateway", "bare")
    }
    return [
        Row(
            f"resident memory with {r['devices']} devices",
            f"{_figure(load['gateway']['rss_mb'])} MB",
            f"{_figure(load['bare']['rss_mb'])} MB: bare Python with the TFLite runtime, numpy and paho",
            f"{_figure(over['rss'])} times",
        ),
        Row(
            f"CPU while {r['devices']} devices × 3 axes × 1 kHz arrive",
            f"{cpu['gateway'][0]} of a core",
            f"{cpu['bare'][0]}: bare Python that receives and forgets them",
            f"{_figure(over['load_cpu'])} times",
        ),
        Row("CPU while nothing arrives", f"{cpu['gateway'][1]} of a core", f"{cpu['bare'][1]}: the same", ""),
    ]


def _chaos(r: Record) -> list[tuple[str, str]]:
    faults = ", ".join(f"{what} {n}" for what, n in sorted(r["n_faults"].items()))
    return [
        (
            f"{sum(r['n_faults'].values())} faults in {_figure(r['seconds'] / 60)} minutes ({faults}), {r['n_rows']:,} rows",
            f"conservation held in all {r['n_looks']} looks",
        ),
        (
            "alerts of the devices at QoS 1",
            f"expected {r['n_expected']}, delivered {r['n_delivered']} ({r['n_delayed']} of them delayed), lost {r['n_lost']}; "
            f"{r['n_duplicated']} came more than once, with their id",
        ),
        (
            "alerts of the devices at QoS 0 and on a serial line, outside of every gap",
            f"expected {r['n_expected_lossy']}, lost {r['n_lost_lossy']}",
        ),
    ]


def _failed_over(r: Record) -> list[tuple[str, str]]:
    ours = r["to_cpu_ms"]
    return [
        (
            f"{ours['all']['n']} deaths of an Edge TPU (a stand-in): hangs, aborts, fails at invoke, is killed",
            f"its batch scored on the CPU after {_figure(ours['all']['max'])} ms at worst; {r['windows_scored']} of "
            f"{r['windows_owed']} windows scored",
        )
    ]


def _swaps(r: Record) -> list[tuple[str, str]]:
    return [
        (
            f"{r['n_swaps']} swaps of the model while blocks flow, {r['n_windows']:,} windows of 3 devices",
            f"skipped {r['n_skipped']}, scored twice {r['n_twice']}, dropped {r['n_dropped']}; memory grew by "
            f"{_figure(max(r['grown_bytes'], 0) / 1e6)} MB in the last three quarters",
        )
    ]


def _nonsense(r: Record) -> list[tuple[str, str]]:
    became = ", ".join(
        f"{n} {reason}" for reason, n in sorted(r["refused"].items(), key=lambda item: -item[1])
    )
    return [
        (
            f"{r['n_messages']:,} random and mutated messages on every topic it hears, {_figure(r['n_bytes'] / 1e6)} MB",
            "the daemon ran on, in balance, logged no traceback, and told a fault afterwards",
        ),
        (
            f"{r['n_models']} models whose graph was mutated, signed, {_figure(r['n_model_bytes'] / 1e6)} MB",
            became,
        ),
    ]


def _disk(r: Record) -> list[Row]:
    day = r["bytes_per_day"]
    return [
        Row(
            f"written to disk with {r['devices']} devices × 3 axes × 1 kHz, without the black box",
            f"{_figure(day['load'] / 1e9)} GB a day",
            f"{_figure(day['load'] / 1e9 / r['disk_over_checkpoints'])} GB: what its checkpoints hold",
            f"{_figure(r['disk_over_checkpoints'])} times",
        ),
        Row("written to disk while nothing arrives", f"{_figure(day['rest'] / 1e6)} MB a day", "", ""),
    ]


def _black_box(r: Record) -> list[Row]:
    signals, rest = r["signals"], r["rest_bytes_per_day"]
    noise, counts = signals["noise"], signals["counts"]
    worst = max(signals.values(), key=lambda s: s["loop_cpu_share"] + s["thread_cpu_share"])
    day = [_figure(s["file_bytes_per_day"] / 1e9) for s in (noise, counts)]
    shares = [_figure(s["file_bytes_per_day"] / s["signal_bytes_per_day"]) for s in (noise, counts)]
    return [
        Row(
            f"CPU of the black box with {r['devices']} devices × 3 axes × 1 kHz: in the loop, on its own thread",
            f"{_figure(100 * worst['loop_cpu_share'])} %, {_figure(100 * worst['thread_cpu_share'])} % of a core",
            f"{_figure(100 * worst['record_cpu_share'])} % in the loop: `--record`",
            f"{_figure(worst['loop_cpu_share'] / worst['record_cpu_share'])} times in the loop",
        ),
        Row(
            "the same, files: float32 noise, counts of a 16-bit converter",
            f"{_list(day)} GB a day",
            f"{_figure(noise['signal_bytes_per_day'] / 1e9)} GB of signal",
            f"{_list(shares)} times",
        ),
        Row(
            "files of the black box with 3 sensors that send a row a second, while only the clock ticks",
            f"{_figure(rest['slow'] / 1e6)}, {_figure(rest['ticks'] / 1e6)} MB a day",
            "",
            "",
        ),
    ]


def measured_on(results: Mapping[str, Record]) -> str:
    found = dict.fromkeys(
        f"{e['n_cpus']} cores, {e['processor']}, {e['system'].split()[0]}, Python {e['python']}"
        for e in (r["environment"] for r in results.values())
    )
    days = sorted({r["at"][:10] for r in results.values()})
    when = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    load = max(r["environment"]["load_average"][0] for r in results.values())
    return f"Measured on {'; '.join(found)}; {when}; load average up to {_figure(load)}."


def _target(text: str, met: bool) -> str:
    return text if met else f"{text}: not yet"


def _figure(x: float) -> str:
    """Two significant digits, or all before the point."""
    return f"{x:.0f}" if x >= 9.95 else f"{x:#.2g}" if x >= 0.0095 else f"{x:.2f}"


def _list(items: Any) -> str:
    return ", ".join(items)


if __name__ == "__main__":
    write(README, RESULTS, QUALITY)
