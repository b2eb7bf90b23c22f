"""How often drift is told where there is none, and after how long where there is: simulated fleets of summaries, 5 minutes each.

Log scores and features of a summary follow AR(1) processes of coefficient .9, of one deviation each: hours hang together, as
those of a real machine do. Everything that judges is the product's own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cloud_sink.drift import Watch
from cloud_sink.summaries import QUANTILES, SummaryTable
from models.signal import NS_PER_S

AR, K, DAYS, SPAN_S = 0.9, 16, 28, 300
A_DAY = 86_400 // SPAN_S
AT = 14 * A_DAY  # where it changes
N_WINDOWS = 30
CHECKS_A_DAY = 4
SCORE_SPREAD = 0.15  # of log scores
NAMES = tuple(f"f{i}" for i in range(K))


def measure(*, quick: bool) -> dict[str, object]:
    """The share of devices with a false alarm in four weeks, and of fleets; the delay in hours (None: of those told none) of
    steps and of a ramp of three days, in deviations of a summary, with the share of devices that were told of within a week."""
    n, fleet = (4, 4) if quick else (100, 10)
    still = {
        "stationary": _false_alarms(n, fleet, 0.0, reservoir=True),
        "stationary, moments alone": _false_alarms(n, fleet, 0.0, reservoir=False),
        "a daily cycle of one deviation": _false_alarms(n, fleet, 1.0, reservoir=True),
    }
    m = 2 if quick else 20
    changes = {}
    for what in ("scores", "features"):
        for size in (2.0, 4.0):
            for over_days in (0, 3):
                changes[f"{what} {size:g} over {over_days}"] = _delay(m, what, size, over_days * A_DAY)
    return {
        "ar": AR,
        "features": K,
        "days": DAYS,
        "summary_s": SPAN_S,
        "devices": n,
        "fleet_devices": fleet,
        "false_alarms": still,
        "changed_devices": m,
        "changes": changes,
    }


def summaries(
    n_devices: int,
    n_spans: int,
    *,
    seed: int,
    score: NDArray[np.float64] | float = 0.0,
    feature: NDArray[np.float64] | float = 0.0,
    reservoir: bool = True,
) -> SummaryTable:
    """``n_spans`` of each device, in the order of time; ``score`` and ``feature`` float64[n_spans] are added to the log score
    and to half of the features, in deviations."""
    rng = np.random.default_rng(seed)
    m = n_devices * n_spans
    logs = SCORE_SPREAD * (_ar(rng, n_spans, n_devices) + np.reshape(score, (-1, 1)))
    shift = np.zeros((n_spans, 1, K))
    shift[:, 0, : K // 2] = np.broadcast_to(np.reshape(feature, (-1, 1)), (n_spans, 1))
    mean = (_ar(rng, n_spans, n_devices * K).reshape(n_spans, n_devices, K) + shift).reshape(m, K)
    within = 0.5 * rng.normal(size=(m, K))
    rows, columns = np.triu_indices(K)
    comoment = np.where(rows == columns, N_WINDOWS * 0.25, 0.0)
    device = np.tile([f"d{i}" for i in range(n_devices)], n_spans)
    start_ns = np.repeat(np.arange(n_spans) * SPAN_S * NS_PER_S, n_devices)
    return SummaryTable(
        class_="c",
        schema_id="s",
        feature_names=NAMES,
        message_id=np.array([f"{d}-{t}" for d, t in zip(device, start_ns, strict=True)]),
        site=np.full(m, "s"),
        gateway=np.full(m, "g"),
        machine=device,
        device=device,
        model_id=np.full(m, "m"),
        model_version=np.ones(m, np.int64),
        start_ns=start_ns,
        end_ns=start_ns + SPAN_S * NS_PER_S,
        n=np.full(m, N_WINDOWS),
        n_excluded=np.zeros(m, np.int64),
        mean=mean,
        comoment=np.broadcast_to(comoment, (m, comoment.size)),
        centre=np.zeros((m, K)),
        minimum=mean,
        maximum=mean,
        score_quantiles=np.exp(logs).reshape(m, 1) * np.ones((1, len(QUANTILES))),
        reservoir=(mean + within if reservoir else np.zeros((0, K))).astype(np.float32),
        reservoir_of=np.arange(m if reservoir else 0),
    )


def _ar(rng: np.random.Generator, n: int, series: int) -> NDArray[np.float64]:
    """float64[n, series] of one deviation."""
    found = rng.normal(size=(n, series))
    for i in range(1, n):
        found[i] = AR * found[i - 1] + np.sqrt(1 - AR**2) * found[i]
    return found


def _false_alarms(n: int, fleet: int, cycle: float, *, reservoir: bool) -> dict[str, float]:
    n_spans = DAYS * A_DAY
    day = cycle * np.sqrt(2) * np.sin(np.arange(n_spans) * 2 * np.pi / A_DAY)
    told: dict[str, set[str]] = {"scores": set(), "features": set()}
    fleets = 0
    for seed in range(0, n, fleet):
        table = summaries(fleet, n_spans, seed=seed, score=day, feature=day, reservoir=reservoir)
        watch, of_fleet = Watch("m", NAMES), False
        step = A_DAY // CHECKS_A_DAY * fleet
        for i in range(0, len(table), step):
            watch.add(table.take(np.arange(i, i + step)))
            drift = watch.drift()
            for f in drift.findings:
                told[f.what].add(f"{seed} {f.device}")
            of_fleet |= drift.fleet is not None
        fleets += of_fleet
    found = {f"devices_by_{what}": len(devices) / n for what, devices in told.items()}
    return {**found, "fleets": fleets / (n / fleet)}


def _delay(n: int, what: str, size: float, over: int) -> dict[str, float | None]:
    n_spans = AT + over + 7 * A_DAY
    change = size * np.clip((np.arange(n_spans) - AT) / max(over, 1), 0.0, 1.0)
    table = summaries(n, n_spans, seed=1000, **{"score" if what == "scores" else "feature": change})
    watch = Watch("m", NAMES)
    hours: dict[str, float] = {}
    step = 12 * n
    for i in range(0, len(table), step):
        watch.add(table.take(np.arange(i, i + step)))
        if i < AT * n:
            continue
        for f in watch.drift().findings:
            if f.what == what:
                hours.setdefault(f.device, (f.end_ns - AT * SPAN_S * NS_PER_S) / 3.6e12)
    return {"told": len(hours) / n, "median_h": float(np.median(list(hours.values()))) if hours else None}
