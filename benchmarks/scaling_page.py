"""``python -m benchmarks.scaling_page``: the figures and the plans as they stand in docs/scaling.md, between its markers.

A test holds the page to what this renders of ``results/scaling.json``; ``python -m benchmarks.run scaling`` calls it.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from benchmarks import table
from benchmarks.scaling_plan import FAMILIES, LEARNER_GB, MOST_GATEWAYS, Figures, Plant, largest, plan

PAGE = Path(__file__).parents[1] / "docs" / "scaling.md"
NAME = "scaling"
PLANTS = (
    Plant(n_gateways=5_000, classes=20),
    Plant(n_gateways=5_000, classes=20, summary_s=3_600.0),
    Plant(n_gateways=50_000, classes=50),
    Plant(n_gateways=50_000, classes=50, summary_s=3_600.0),
)
NEVER = "not to be had"
LABELS = {
    "broker": {
        "connections": "connections of gateways",
        "messages_in_per_s": "messages in, a second",
        "messages_out_per_s": "messages out to sinks, a second",
        "in_mbit_per_s": "in, Mbit/s",
        "out_mbit_per_s": "out, Mbit/s",
        "one_broker_busy_cores": "one broker for all: cores that it would need (it has one thread)",
        "brokers": "brokers, each with its own sinks",
        "gateways_per_broker": "gateways of the fullest",
        "broker_busy_cores": "its part of a core",
        "retained_per_broker": "retained messages that it keeps",
        "broker_memory_mb": "memory for these and its connections, MB",
        "reconnect_s": "all gateways connect again after its restart, without TLS, at least s",
        "kept_per_outage_hour_gb": "summaries that it keeps in memory for an hour without sinks, GB",
    },
    "sinks": {
        "one_broker_statuses_busy_cores": "one broker for all: statuses and states alone, cores of every sink",
        "one_broker_sinks": "one broker for all: sinks",
        "statuses_busy_cores": "brokers as above: statuses and states, cores of every sink",
        "sinks_per_broker": "sinks of the fullest broker",
        "sinks": "sinks in all, a core each",
        "start_s": "CPU seconds with which a sink takes what is retained, at each start",
    },
    "store": {
        "summaries_per_day": "summaries a day",
        "day_gb": "a day, GB",
        "month_gb": "30 days, GB",
        "retention_tb": "400 days, TB",
        "files_per_hour": "files that sinks write in an hour, at most",
        "compaction_memory_gb": "memory to compact one class's day, GB",
        "rollout_count_s": "counting windows in two days of a class, as often as a rollout of it is judged, s",
    },
    "database": {
        "rows": "rows of gateways, models and devices",
        "rows_gb": "these, GB",
        "alert_rows_per_year": "rows of alerts in a year",
        "alerts_per_year_gb": "these, GB",
        "row_writes_per_s": "rows written, a second",
        "sqlite_busy_writers": "busy writers of SQLite, which has one",
        "busy_connections": "busy connections of PostgreSQL",
    },
    "learning": {
        "devices_per_class": "devices of a class",
        "summaries_per_class": "summaries of a class in 30 days",
        "class_memory_gb": "memory to learn it, GB",
        "class_gather_s": "reading and gathering it, s",
        **{f"all_{family}_h": f"all classes one after the other, {family}, h" for family in FAMILIES},
        "days_in_memory_d": f"days of a class that fit {LEARNER_GB:g} GB",
    },
}
# What ends first: what it is, of which table, up to what, and whether all devices are of one class, and then counted.
ENDS = (
    (
        "gateways of 20 devices at one broker: half of its core is busy",
        "broker",
        "one_broker_busy_cores",
        0.5,
        False,
    ),
    (
        "the same: statuses and states keep half a core of every sink busy, and more sinks are no help",
        "sinks",
        "one_broker_statuses_busy_cores",
        0.5,
        False,
    ),
    ("the same: SQLite's one writer is half busy", "database", "sqlite_busy_writers", 0.5, False),
    (
        f"devices of one class: its day is compacted in {LEARNER_GB:g} GB",
        "store",
        "compaction_memory_gb",
        LEARNER_GB,
        True,
    ),
    (
        "the same: its windows of two days are counted in 30 s, in which a rollout is judged",
        "store",
        "rollout_count_s",
        30.0,
        True,
    ),
    (
        f"the same: 30 days of it are learned in {LEARNER_GB:g} GB",
        "learning",
        "class_memory_gb",
        LEARNER_GB,
        True,
    ),
    ("the same: 30 days of it are gathered in an hour", "learning", "class_gather_s", 3_600.0, True),
)
SPANS_S = (300.0, 3_600.0)


def figures(known: Figures) -> str:
    """Markdown: what was measured, by what command, beside what."""
    headers = ("", "measured", "beside it, in the same run", "command")
    rows = [
        *_wire(known),
        *_broker(known),
        *_sink(known),
        *_features(known),
        *_events(known),
        *_learning(known),
    ]
    lines = tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)
    return f"{lines}\n\n{table.measured_on({NAME: known})}\n"


def plans(known: Figures, kind: str) -> str:
    """Markdown: table ``kind`` of all of :data:`PLANTS`."""
    found = [plan(known, plant)[kind] for plant in PLANTS]
    rows = [
        (label, *(said(tables[name]) for tables in found))
        for name, label in LABELS[kind].items()
        if name in found[0]
    ]
    headers = ("", *(f"{p.n_gateways:,} × {p.devices_per_gateway}, {p.summary_s:g} s" for p in PLANTS))
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) + "\n"


def ends(known: Figures) -> str:
    """Markdown: how large a plant may be before each of :data:`ENDS`."""
    rows = []
    for label, kind, name, bound, of_class in ENDS:
        most = []
        for summary_s in SPANS_S:
            plant = Plant(
                n_gateways=1, devices_per_gateway=1 if of_class else 20, summary_s=summary_s, classes=1
            )
            found = largest(known, plant, kind, name, bound)
            most.append(f"above {said(MOST_GATEWAYS)}" if found == MOST_GATEWAYS else said(found))
        rows.append((label, *most))
    headers = ("up to", *(f"`summary_s` = {s:g}" for s in SPANS_S))
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True) + "\n"


def said(value: float) -> str:
    """With two digits that mean something, or whole."""
    if math.isinf(value):
        return NEVER
    if value >= 100 or value == round(value):
        digits = max(0, len(f"{value:.0f}") - 3)
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"


def markers(kind: str) -> tuple[str, str]:
    return (
        f"<!-- {kind}: `python -m benchmarks.scaling_page` writes from here -->",
        f"<!-- {kind}: to here -->",
    )


def rendered(page: str, known: Figures) -> str:
    """``page`` with all tables of ``known``. ValueError where it has no place for one."""
    page = table.rewritten(page, figures(known), *markers("figures"))
    page = table.rewritten(page, ends(known), *markers("ends"))
    for kind in LABELS:
        page = table.rewritten(page, plans(known, kind), *markers(kind))
    return page


def write(page: Path, known: Figures) -> None:
    page.write_text(rendered(page.read_text(), known))


Line = tuple[str, str, str, str]


def _listed(values: Iterable[str]) -> str:
    return " / ".join(values)


def _command(part: str) -> str:
    return f"`python -m benchmarks.scaling {part}`"


def _wire(r: Figures) -> list[Line]:
    wire = r["wire"]
    ks = list(wire["summary"])

    def sizes(name: str, what: str) -> str:
        return _listed(said(wire[name][k][what]) for k in ks)

    return [
        (
            f"bytes of a summary, {_listed(ks)} features, with 16 feature rows",
            sizes("summary", "packet_bytes"),
            f"{_listed(said(r['features'][k]['numbers_bytes']) for k in ks)}: its numbers in binary",
            _command("wire"),
        ),
        (
            "the same without feature rows (`privacy`)",
            sizes("summary_without_reservoir", "packet_bytes"),
            "",
            _command("wire"),
        ),
        (
            f"bytes of an alert, {_listed(ks)} features, with 8 feature rows",
            sizes("alert", "packet_bytes"),
            "",
            _command("wire"),
        ),
        (
            "bytes of a status of a gateway with 20 devices; of a device's state",
            f"{said(wire['status']['packet_bytes'])}; {said(wire['state']['packet_bytes'])}",
            "",
            _command("wire"),
        ),
    ]


def _broker(r: Figures) -> list[Line]:
    broker = r["broker"]
    rows = [
        (
            f"CPU of {broker['broker']} for a message of {said(size['payload_bytes'])} bytes at QoS 1 from one of "
            f"{said(broker['connections'])} connections: in; out to one subscriber, µs",
            f"{said(size['in_us'])}; {said(size['out_us'])}",
            f"{said(size['floor_us'])}: two sends and two receptions of the same bytes, in and out",
            _command("broker"),
        )
        for size in broker["by_size"].values()
    ]
    many, payloads = broker["many"], _listed(said(s["payload_bytes"]) for s in broker["by_size"].values())
    rows.append(
        (
            f"the same, {said(many['payload_bytes'])} bytes from one of {said(many['connections'])} connections",
            f"{said(many['in_us'])}; {said(many['out_us'])}",
            f"{said(many['floor_us'])}: the same",
            _command("broker"),
        )
    )
    rows.append(
        (
            f"messages a second that it passed on meanwhile, of {payloads} bytes; the sender shares its machine",
            _listed(said(s["per_s"]) for s in broker["by_size"].values()),
            "",
            _command("broker"),
        )
    )
    rows.append(
        (
            "its memory for a connection; for a retained status, KB",
            f"{said(broker['connection_kb'])}; {said(broker['retained_kb'])}",
            f"{said(r['wire']['status']['payload_bytes'] / 1e3)}: the status itself",
            _command("broker"),
        )
    )
    rows.append(
        (
            "connections a second, without TLS, one after the other",
            said(broker["connects_per_s"]),
            "",
            _command("broker"),
        )
    )
    return rows


def _sink(r: Figures) -> list[Line]:
    sink = r["sink"]
    ks = list(sink["summary"])
    return [
        (
            f"summaries that a sink stores and acknowledges in a CPU-second, each of another device, {_listed(ks)} features",
            _listed(said(sink["summary"][k]["per_cpu_s"]) for k in ks),
            f"{_listed(said(r['features'][k]['append_per_s']) for k in ks)} a second: into files alone",
            _command("sink"),
        ),
        (
            "alerts; statuses",
            f"{said(sink['alert']['per_cpu_s'])}; {said(sink['status']['per_cpu_s'])}",
            "",
            _command("sink"),
        ),
    ]


def _features(r: Figures) -> list[Line]:
    known = r["features"]
    ks = list(known)

    def of(name: str) -> str:
        return _listed(said(known[k][name]) for k in ks)

    return [
        (
            f"bytes of a stored summary after compaction, {_listed(ks)} features, with feature rows",
            of("bytes"),
            f"{of('numbers_bytes')}: its numbers in binary",
            _command("features"),
        ),
        (
            "summaries read back, a second; only counted by gateway",
            f"{of('read_per_s')}; {of('counted_per_s')}",
            "",
            _command("features"),
        ),
        (
            "memory to read; to compact, bytes a summary",
            f"{of('read_bytes_a_summary')}; {of('compact_bytes_a_summary')}",
            f"{of('numbers_bytes')}: its numbers in binary",
            _command("features"),
        ),
    ]


def _events(r: Figures) -> list[Line]:
    events = r["events"]
    kinds = [kind for kind in ("sqlite", "postgresql") if kind in events]
    names = _listed({"sqlite": "SQLite", "postgresql": "PostgreSQL"}[kind] for kind in kinds)

    def of(*what: str) -> str:
        return _listed("; ".join(said(events[kind][name]) for name in what) for kind in kinds)

    return [
        (
            f"bytes of a row of a gateway; device; alert: {names}",
            of("status_bytes", "device_bytes", "alert_bytes"),
            f"{said(r['wire']['status']['payload_bytes'])} in a gateway's: the status as it came",
            _command("events"),
        ),
        (
            f"rows a second, over what is there, of gateways; devices; new ones of alerts; {events['batch']} in a transaction",
            of("status_again_per_s", "device_again_per_s", "alert_per_s"),
            "",
            _command("events"),
        ),
    ]


def _learning(r: Figures) -> list[Line]:
    rows: list[Line] = []
    for k, known in r["learning"].items():
        for p in known["points"]:
            rows.append(
                (
                    f"learning {p['family']}, {k} features, {said(p['devices'])} devices × {p['each']} summaries: "
                    "gathering; fitting, s; memory, MB",
                    f"{said(p['gather_s'])}; {said(p['fit_s'])}; {said(p['grown_mb'])}",
                    f"{said(p['read_s'])} s, {said(p['read_mb'])} MB: reading the same",
                    _command("learning"),
                )
            )
        worst = known["worst"]
        rows.append(
            (
                f"what follows from these for other sizes misses them by, at worst, {k} features: time; memory",
                f"{worst['seconds']:.0%}; {worst['mb']:.0%}",
                "",
                "",
            )
        )
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    argparse.ArgumentParser(prog="benchmarks.scaling_page", description=__doc__).parse_args(arguments)
    write(PAGE, table.load()[NAME])


if __name__ == "__main__":
    main()
