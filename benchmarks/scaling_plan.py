"""What a plant of many gateways asks of brokers, sinks, store, database and learning: arithmetic on measured figures. Pure.

Invariant: no result falls when there are more gateways, more devices, shorter summaries, or longer keeping; what cannot be had at
any number of sinks is infinite. Gateways are divided among brokers, each with its own sinks, which hear nothing of the others;
database and store are one. Names end in their units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

WEEK_S, DAY_S, HOUR_S = 604_800.0, 86_400.0, 3_600.0
ROLLOUT_DAYS = 2.0  # of a class: at least so much is counted each time that a rollout of it is judged
COMMIT_S = 0.5  # [store] commit_s: at most so often a sink writes files
LEARNER_GB = 64.0
FAMILIES = ("mahalanobis", "linear-ae", "ae")

Figures = Mapping[str, Any]
Tables = dict[str, dict[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plant:
    """What is planned for. ``features``: those of a device, of which there are figures; ``busy``: the part of a core that may be
    busy in the mean: the rest is for what comes back after an outage. The defaults of ``summary_s``, ``status_s``,
    ``retention_days`` and ``learn_days`` are the programs'."""

    n_gateways: int
    devices_per_gateway: int = 20
    features: int = 40
    summary_s: float = 300.0
    status_s: float = 30.0
    alerts_per_device_week: float = 1.0
    messages_per_alert: float = 3.0
    gateways_per_broker: int = 5_000
    classes: int = 20
    retention_days: float = 400.0
    learn_days: float = 30.0
    learners: int = 1
    busy: float = 0.5

    @property
    def n_devices(self) -> int:
        return self.n_gateways * self.devices_per_gateway


@dataclass(frozen=True, slots=True)
class Cell:
    """One broker, and the sinks that it needs: of ``gateways``. Rates are messages a second."""

    gateways: int
    summaries: float
    alerts: float
    states: float
    statuses: float
    sinks: float
    broker_busy: float  # of one core

    @property
    def shared(self) -> float:
        return self.summaries + self.alerts

    @property
    def to_every_sink(self) -> float:
        return self.states + self.statuses


def cell(figures: Figures, plant: Plant, gateways: int) -> Cell:
    """A broker of ``gateways``."""
    devices = gateways * plant.devices_per_gateway
    raised = devices * plant.alerts_per_device_week / WEEK_S
    summaries, alerts = devices / plant.summary_s, raised * plant.messages_per_alert
    states, statuses = 2.0 * raised, gateways / plant.status_s  # a device is anomalous, and then normal
    sink = figures["sink"]
    shared_s = (
        summaries / sink["summary"][str(plant.features)]["per_cpu_s"] + alerts / sink["alert"]["per_cpu_s"]
    )
    room = plant.busy - (statuses + states) / sink["status"]["per_cpu_s"]
    sinks = math.inf if room <= 0.0 else max(1.0, math.ceil(shared_s / room))
    sizes = figures["broker"]["by_size"]
    large, small = sizes[f"summary-{plant.features}"], sizes["status"]
    if math.isinf(sinks):
        busy = math.inf
    else:
        busy = 1e-6 * (
            summaries * (large["in_us"] + large["out_us"])
            + alerts * (small["in_us"] + small["out_us"])
            + (states + statuses) * (small["in_us"] + sinks * small["out_us"])
        )
    return Cell(gateways, summaries, alerts, states, statuses, sinks, busy)


def plan(figures: Figures, plant: Plant) -> Tables:
    """Tables of ``plant``: broker, sinks, store, database, learning. Each by name, with its unit."""
    n_full, rest = divmod(plant.n_gateways, plant.gateways_per_broker)
    cells = [
        (n, cell(figures, plant, size))
        for n, size in ((n_full, plant.gateways_per_broker), (1, rest))
        if n and size
    ]
    largest = cells[0][1]
    alone = cell(figures, plant, plant.n_gateways)
    return {
        "broker": _broker(figures, plant, cells, largest, alone),
        "sinks": _sinks(figures, plant, cells, largest, alone),
        "store": _store(figures, plant, cells),
        "database": _database(figures, plant, cells),
        "learning": _learning(figures, plant),
    }


def _total(cells: list[tuple[int, Cell]], of: str) -> float:
    return float(sum(n * getattr(one, of) for n, one in cells))


def _broker(
    figures: Figures, plant: Plant, cells: list[tuple[int, Cell]], largest: Cell, alone: Cell
) -> dict[str, float]:
    wire, held = figures["wire"], figures["broker"]
    k = str(plant.features)
    sizes = {
        "summaries": wire["summary"][k]["packet_bytes"],
        "alerts": wire["alert"][k]["packet_bytes"],
        "states": wire["state"]["packet_bytes"],
        "statuses": wire["status"]["packet_bytes"],
    }
    rates = {name: _total(cells, name) for name in sizes}
    came = sum(rates[name] * size for name, size in sizes.items())
    went = sum(
        n
        * (
            one.summaries * sizes["summaries"]
            + one.alerts * sizes["alerts"]
            + one.sinks * (one.states * sizes["states"] + one.statuses * sizes["statuses"])
        )
        for n, one in cells
    )
    retained = largest.gateways * (plant.devices_per_gateway + 2)  # states, a status, and a model's state
    return {
        "connections": float(plant.n_gateways),
        "messages_in_per_s": sum(rates.values()),
        "messages_out_per_s": sum(n * (one.shared + one.sinks * one.to_every_sink) for n, one in cells),
        "in_mbit_per_s": came * 8 / 1e6,
        "out_mbit_per_s": went * 8 / 1e6,
        "one_broker_busy_cores": alone.broker_busy,
        "brokers": float(sum(n for n, _ in cells)),
        "gateways_per_broker": float(largest.gateways),
        "broker_busy_cores": largest.broker_busy,
        "retained_per_broker": float(retained),
        "broker_memory_mb": (retained * held["retained_kb"] + largest.gateways * held["connection_kb"]) / 1e3,
        "reconnect_s": largest.gateways / held["connects_per_s"],
        "kept_per_outage_hour_gb": HOUR_S * largest.summaries * sizes["summaries"] / 1e9,
    }


def _sinks(
    figures: Figures, plant: Plant, cells: list[tuple[int, Cell]], largest: Cell, alone: Cell
) -> dict[str, float]:
    status = figures["sink"]["status"]
    retained = largest.gateways * (plant.devices_per_gateway + 2)
    return {
        "one_broker_statuses_busy_cores": alone.to_every_sink / status["per_cpu_s"],
        "one_broker_sinks": alone.sinks,
        "statuses_busy_cores": largest.to_every_sink / status["per_cpu_s"],
        "sinks_per_broker": largest.sinks,
        "sinks": _total(cells, "sinks"),
        "start_s": retained / status["per_cpu_s"],
    }


def _store(figures: Figures, plant: Plant, cells: list[tuple[int, Cell]]) -> dict[str, float]:
    known = figures["features"][str(plant.features)]
    per_day = _total(cells, "summaries") * DAY_S
    day_gb = per_day * known["bytes"] / 1e9
    sinks = _total(cells, "sinks")
    return {
        "summaries_per_day": per_day,
        "day_gb": day_gb,
        "month_gb": 30.0 * day_gb,
        "retention_tb": plant.retention_days * day_gb / 1e3,
        "files_per_hour": min(per_day / 24.0, sinks * plant.classes * HOUR_S / COMMIT_S),
        "compaction_memory_gb": per_day / plant.classes * known["compact_bytes_a_summary"] / 1e9,
        "rollout_count_s": ROLLOUT_DAYS * per_day / plant.classes / known["counted_per_s"],
    }


def _database(figures: Figures, plant: Plant, cells: list[tuple[int, Cell]]) -> dict[str, float]:
    events = figures["events"]
    kind = "postgresql" if "postgresql" in events else "sqlite"
    bytes_of, sqlite = events[kind], events["sqlite"]
    alerts_a_year = plant.n_devices * plant.alerts_per_device_week * 365.0 * DAY_S / WEEK_S
    statuses = sum(n * one.sinks * one.to_every_sink for n, one in cells)  # each sink writes what it hears
    summaries, alerts = _total(cells, "summaries"), _total(cells, "alerts")

    def busy(rates: Mapping[str, float]) -> float:
        return (
            statuses / rates["status_again_per_s"]
            + summaries / rates["device_again_per_s"]
            + alerts / rates["alert_per_s"]
        )

    rows = 2.0 * plant.n_gateways + plant.n_devices
    return {
        "rows": rows,
        "rows_gb": (
            plant.n_gateways * 2.0 * bytes_of["status_bytes"] + plant.n_devices * bytes_of["device_bytes"]
        )
        / 1e9,
        "alert_rows_per_year": alerts_a_year,
        "alerts_per_year_gb": alerts_a_year * bytes_of["alert_bytes"] / 1e9,
        "row_writes_per_s": statuses + summaries + alerts,
        "sqlite_busy_writers": busy(sqlite),
        "busy_connections": busy(bytes_of),
    }


def _learning(figures: Figures, plant: Plant) -> dict[str, float]:
    known = figures["learning"][str(plant.features)]
    devices = plant.n_devices / plant.classes
    a_day = DAY_S / plant.summary_s
    m = devices * plant.learn_days * a_day
    gather_s = (
        known["s"]
        + m * known["s_a_summary"]
        + devices * known["s_a_device"]
        + m * devices * known["s_a_device_summary"]
    )
    rounds = math.ceil(plant.classes / plant.learners)
    found = {
        "devices_per_class": devices,
        "summaries_per_class": m,
        "class_memory_gb": (known["mb"] + m * known["mb_a_summary"] + devices * known["mb_a_device"]) / 1e3,
        "class_gather_s": gather_s,
    }
    for family in FAMILIES:
        if family in known["fit"]:
            fit = known["fit"][family]
            found[f"all_{family}_h"] = rounds * (gather_s + fit["s"] + devices * fit["s_a_device"]) / HOUR_S
    room_mb = max(0.0, LEARNER_GB * 1e3 - known["mb"] - devices * known["mb_a_device"])
    per_day_mb = devices * a_day * known["mb_a_summary"]
    found["days_in_memory_d"] = math.inf if per_day_mb == 0.0 else room_mb / per_day_mb
    return found


MOST_GATEWAYS = 10_000_000


def largest(figures: Figures, plant: Plant, kind: str, name: str, bound: float) -> int:
    """The most gateways, all at one broker, with which figure ``name`` of table ``kind`` is at most ``bound``; up to
    MOST_GATEWAYS, 0 where one is too many."""
    low, high = 0, MOST_GATEWAYS + 1
    while high - low > 1:
        middle = (low + high) // 2
        one = replace(plant, n_gateways=middle, gateways_per_broker=middle)
        if plan(figures, one)[kind][name] <= bound:
            low = middle
        else:
            high = middle
    return low
