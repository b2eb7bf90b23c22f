"""What a large plant says, made up at any size: summaries, statuses and alerts as gateways send them, and their model."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cache

import msgspec
import numpy as np
from numpy.typing import NDArray

from benchmarks import plant
from cloud_sink.dataset import Dataset
from cloud_sink.fit import FitOptions, fit_dataset
from cloud_sink.summaries import QUANTILES, SummaryTable
from edge_node.summary import Summariser
from models.features import FeatureSpec, describe, extract, learn_floors, min_scales
from models.manifest import ModelManifest
from models.messages import (
    Alert,
    Contribution,
    Delivery,
    Status,
    Summary,
    encode,
    episode_id,
    pack_floats,
    rfc3339,
)
from models.sensor_checks import learn_baselines
from models.signal import NS_PER_S, Channel, Device, Mode, WindowBatch
from models.time_policy import TimeTreatment, default_policy

N_RESERVOIR, ALERT_ROWS = 16, 8
SUMMARY_S = 300
_CHANNELS, _SHAPES = 2, 4
_WINDOWS = SUMMARY_S * NS_PER_S // int(plant.WINDOW.hop * NS_PER_S / plant.RATE_HZ)
_POOL = 512  # summaries; more of them are these again, a little wider or narrower
_SITE, _CLASS = "ulm", "press"


@cache
def template(k: int) -> ModelManifest:
    """The model of a vibration board with two axes, of ``k`` features: even, from 10 on."""
    signal = plant.vibration(120 * int(plant.RATE_HZ), plant.SEED)[:, :_CHANNELS]
    starts = np.arange(0, len(signal) - plant.WINDOW.n + 1, plant.WINDOW.hop)
    values = np.stack([signal[s : s + plant.WINDOW.n] for s in starts])
    valid = np.ones(values.shape, np.bool_)
    start_ns = plant.START_NS + starts * (NS_PER_S // int(plant.RATE_HZ))
    end_ns = start_ns + plant.WINDOW.window_ns
    channels = tuple(Channel(name=axis, unit=plant.UNIT) for axis in plant.AXES[:_CHANNELS])
    device = Device(
        device_id="board", machine="board", mode=Mode.CONTINUOUS, rate_hz=plant.RATE_HZ, channels=channels
    )
    spec = FeatureSpec(set="vibration", n_bands=k // _CHANNELS - _SHAPES, floors=learn_floors(values, valid))
    data = Dataset(
        device=device,
        window=plant.WINDOW,
        time=TimeTreatment.of(default_policy(plant.WINDOW)),
        spec=spec,
        infos=describe(spec, channels, plant.RATE_HZ, plant.WINDOW.n),
        min_scale=min_scales(spec, _CHANNELS, plant.WINDOW.n),
        baselines=learn_baselines([WindowBatch("board", start_ns, end_ns, values, valid)], plant.WINDOW),
        examples=values[:: max(1, len(values) // 16)],
        start_ns=start_ns,
        end_ns=end_ns,
        features=extract(spec, values, valid, plant.RATE_HZ),
        used=np.ones(len(values), np.bool_),
        anomalous=None,
        set_aside={},
        sample_drops={},
    )
    options = FitOptions(
        family="mahalanobis", model_id="boards", version=1, created_ns=plant.START_NS, seed=plant.SEED
    )
    manifest = fit_dataset(data, options).manifest
    assert len(manifest.normalisation.centre) == k
    return msgspec.structs.replace(manifest, class_=_CLASS)


def names_of(manifest: ModelManifest) -> tuple[str, ...]:
    """Of its features, as a gateway says them."""
    infos = describe(
        manifest.features,
        tuple(c.as_channel() for c in manifest.channels),
        manifest.window.rate_hz,
        manifest.window.n,
    )
    return tuple(info.name for info in infos)


@dataclass(frozen=True, slots=True, eq=False)
class _Pool:
    mean: NDArray[np.float64]
    comoment: NDArray[np.float64]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    quantiles: NDArray[np.float64]
    reservoir: NDArray[np.float32]  # [m, r, k]


@cache
def _pool(k: int) -> _Pool:
    """Summaries that the gateway's own code makes of windows whose features hang together."""
    known = template(k).normalisation
    centre, scale = np.array(known.centre), np.array(known.scale)
    rng = np.random.default_rng(k)
    mix = rng.normal(size=(k, k)) / np.sqrt(k)
    found = []
    for i in range(_POOL):
        rows = (centre + scale * (rng.normal(size=(_WINDOWS, k)) @ mix)).astype(np.float32)
        end_ns = np.arange(1, _WINDOWS + 1, dtype=np.int64) * (SUMMARY_S * NS_PER_S // _WINDOWS)
        summariser = Summariser(k, SUMMARY_S * NS_PER_S, N_RESERVOIR, str(i))
        score = (rows.astype(np.float64) @ rng.normal(size=k)).astype(np.float32)
        summariser.add(end_ns - plant.WINDOW.window_ns, end_ns, rows, score, None)
        totals = summariser.close()
        assert totals is not None
        found.append(totals)
    return _Pool(
        np.array([t.mean for t in found]),
        np.array([t.comoment for t in found]),
        np.array([t.minimum for t in found], np.float64),
        np.array([t.maximum for t in found], np.float64),
        np.array([[t.score_quantiles[q] for q in QUANTILES] for t in found]),
        np.array([t.reservoir for t in found], np.float32),
    )


def table(
    k: int, n_devices: int, n_each: int, *, per_gateway: int = 20, reservoir: bool = True, first: int = 0
) -> SummaryTable:
    """``n_each`` summaries, one after the other until an hour ago, of each of ``n_devices`` from number ``first`` on."""
    manifest, pool = template(k), _pool(k)
    m = n_devices * n_each
    device = np.repeat(np.arange(first, first + n_devices), n_each)
    last_ns = (time.time_ns() // (3600 * NS_PER_S) - 1) * 3600 * NS_PER_S
    step = np.tile(np.arange(n_each), n_devices)
    start_ns = last_ns - (n_each - step) * SUMMARY_S * NS_PER_S
    which = (device * 7 + step * 13) % _POOL
    gateway = np.char.mod("hall-%05d", device // per_gateway)
    names = np.char.mod("press-%07d", device)
    tags = np.char.mod("%016x", np.arange(m) + first * n_each)
    r = N_RESERVOIR if reservoir else 0
    of = np.repeat(np.arange(m), r)
    wide = np.random.default_rng(first).uniform(0.9, 1.1, m)[:, None]  # no two have the same digits
    mean = pool.mean[which]

    def spread(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return mean + wide * (values - mean)

    known = np.array(manifest.normalisation.centre)
    return SummaryTable(
        class_=_CLASS,
        schema_id=manifest.schema_id,
        feature_names=names_of(manifest),
        message_id=tags,
        site=np.full(m, _SITE),
        gateway=gateway,
        machine=names,
        device=names,
        model_id=np.full(m, manifest.model_id),
        model_version=np.full(m, manifest.version),
        start_ns=start_ns,
        end_ns=start_ns + SUMMARY_S * NS_PER_S,
        n=np.full(m, _WINDOWS),
        n_excluded=np.zeros(m, np.int64),
        mean=mean,
        comoment=pool.comoment[which] * wide**2,
        centre=np.broadcast_to(known, (m, k)).copy(),
        minimum=spread(pool.minimum[which]),
        maximum=spread(pool.maximum[which]),
        score_quantiles=pool.quantiles[which] * wide,
        reservoir=(mean[of] + wide[of] * (pool.reservoir[which, :r].reshape(-1, k) - mean[of])).astype(
            np.float32
        ),
        reservoir_of=of,
    )


def messages(of: SummaryTable) -> list[tuple[str, bytes]]:
    """The summaries ``of`` a table as gateways publish them: topic and payload."""
    rows = np.split(of.reservoir, np.flatnonzero(np.diff(of.reservoir_of)) + 1) if len(of.reservoir) else None
    found = []
    for i in range(len(of)):
        start_ns, end_ns = int(of.start_ns[i]), int(of.end_ns[i])
        gateway, device = str(of.gateway[i]), str(of.device[i])
        summary = Summary(
            message_id=str(of.message_id[i]),
            site=_SITE,
            gateway=gateway,
            machine=str(of.machine[i]),
            class_=of.class_,
            device=device,
            start_ns=start_ns,
            end_ns=end_ns,
            start_at=rfc3339(start_ns),
            end_at=rfc3339(end_ns),
            n=int(of.n[i]),
            mean=of.mean[i].tolist(),
            comoment=of.comoment[i].tolist(),
            centre=of.centre[i].tolist(),
            minimum=of.minimum[i].tolist(),
            maximum=of.maximum[i].tolist(),
            excluded={},
            score_quantiles=dict(zip(QUANTILES, of.score_quantiles[i].tolist(), strict=True)),
            reservoir=None if rows is None else pack_floats(rows[i]),
            feature_names=of.feature_names,
            schema_id=of.schema_id,
            model_id=str(of.model_id[i]),
            model_version=int(of.model_version[i]),
        )
        found.append((f"linewatch/{_SITE}/{gateway}/summary/{device}", encode(summary)))
    return found


def statuses(n: int, n_gateways: int, like: Status) -> list[Status]:
    """``n`` of ``n_gateways`` in turn, each ``like`` one that a gateway has sent."""
    at = rfc3339(time.time_ns())
    return [
        msgspec.structs.replace(like, site=_SITE, gateway=f"hall-{i % n_gateways:05d}", updated_at=at)
        for i in range(n)
    ]


def as_published(said: list[Status]) -> list[tuple[str, bytes]]:
    """Topic and payload of each."""
    return [(f"linewatch/{s.site}/{s.gateway}/status", encode(s)) for s in said]


def alerts(n: int, k: int, *, per_gateway: int = 20) -> list[Alert]:
    """One of each of ``n`` devices, as a machine's is, with the feature rows that ``privacy = "features"`` sends."""
    manifest = template(k)
    features = pack_floats(_pool(k).reservoir[0, :ALERT_ROWS])
    rng = np.random.default_rng(3)
    infos = names_of(manifest)[:3]
    found = []
    for i in range(n):
        start_ns = time.time_ns() - 3600 * NS_PER_S + i
        gateway, device = f"hall-{i // per_gateway:05d}", f"press-{i:07d}"
        score = float(rng.uniform(5, 50))
        one = episode_id(gateway, device, "machine", start_ns)
        found.append(
            Alert(
                alert_id=one,
                seq=1,
                message_id=f"{one}-1",
                site=_SITE,
                gateway=gateway,
                machine=device,
                class_=_CLASS,
                device=device,
                state="raised",
                kind="machine",
                severity="warning",
                message=f"{device}: x vibration 4.2 times normal at 312-375 Hz for 12 s",
                start_ns=start_ns,
                end_ns=start_ns + 12 * NS_PER_S,
                start_at=rfc3339(start_ns),
                end_at=rfc3339(start_ns + 12 * NS_PER_S),
                score=score,
                p_value=float(rng.uniform(0, 1e-6)),
                threshold=4.321098765432101,
                contributions=tuple(
                    Contribution(
                        channel="x",
                        feature=name,
                        share=float(rng.uniform()),
                        observed=float(rng.normal()),
                        expected_low=float(rng.normal()),
                        expected_high=float(rng.normal()),
                        unit=plant.UNIT,
                    )
                    for name in infos
                ),
                features=features,
                model_id=manifest.model_id,
                model_version=1,
                clock="ntp",
                evidence="9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
                delivery=Delivery(
                    emitted_ns=start_ns,
                    emitted_at=rfc3339(start_ns),
                    latency_ms=9.25,
                    backend="cpu-float32",
                    scoring_ms=0.07,
                ),
            )
        )
    return found
