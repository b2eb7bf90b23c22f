"""Looking through the stored summaries of models for drift.

They are read a day at a time: memory holds a day of them, and what :class:`cloud_sink.drift.Watch` keeps of a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cloud_sink import retraining_store
from cloud_sink.bundle import read_manifest
from cloud_sink.config import Config
from cloud_sink.drift import Watch
from cloud_sink.events import opened
from cloud_sink.features_store import DAY_NS, FeatureStore
from cloud_sink.findings import Drift, Look
from cloud_sink.summaries import concatenated
from models.manifest import ModelManifest

BASELINE_DAYS = 10  # to be adopted in, and then twice as many as features need


def look(
    features: FeatureStore,
    served: ModelManifest,
    class_: str,
    *,
    days: float,
    since_ns: int,
    per_point: int,
    now_ns: int,
) -> Look:
    """What has drifted since devices took ``served`` on, as the last ``days`` show it. Raises StoreError.

    The first days of the version are read, too, however long ago: what machines are compared with is not to follow them.
    """
    from_ns = now_ns - round(days * DAY_NS)
    first_until_ns = served.created_ns + BASELINE_DAYS * DAY_NS
    watch: Watch | None = None
    names: tuple[str, ...] = ()
    n_windows = 0
    for partition in features.partitions(class_, served.schema_id):
        begins_ns, ends_ns = partition.day * DAY_NS, (partition.day + 1) * DAY_NS
        if ends_ns <= from_ns and not (ends_ns > served.created_ns and begins_ns < first_until_ns):
            continue
        tables = [t for t, _ in features.read_partition(partition)]
        names = names or tables[0].feature_names
        tables = [t for t in tables if t.feature_names == names]
        if not tables:
            continue
        table = concatenated(tables).distinct()
        watch = watch or Watch(served.model_id, names, per_point=per_point)
        watch.add(table)
        new = (table.start_ns >= since_ns) & (table.model_id == served.model_id)
        n_windows += int(table.n[new].sum())
    return Look(
        model_id=served.model_id,
        class_=class_,
        version=served.version,
        served_ns=served.created_ns,
        since_ns=since_ns,
        n_windows=n_windows,
        drift=Drift((), 0, 0, None) if watch is None else watch.drift(),
    )


def looks(config: Config, models: Sequence[tuple[Path, str | None, float]], now_ns: int) -> list[Look]:
    """Of bundles (path, class or the model's, days). Raises BundleError, EventsUnavailable and StoreError."""
    features = FeatureStore(config.store.features, config.sink.name)
    found = []
    with opened(config.store.events) as events:
        for like, class_, days in models:
            served = retraining_store.in_service(events, read_manifest(like))
            began = [a.began_ns for a in retraining_store.attempts(events, served.model_id)]
            found.append(
                look(
                    features,
                    served,
                    served.class_ if class_ is None else class_,
                    days=days,
                    since_ns=max([served.created_ns, *began]),
                    per_point=config.retrain.summaries_per_point,
                    now_ns=now_ns,
                )
            )
    return found
