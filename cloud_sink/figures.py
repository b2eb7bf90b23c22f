"""What the sink counts, for ``/metrics``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from cloud_sink.features_store import FeatureStore
from cloud_sink.influx_queue import PointQueue, QueueError
from cloud_sink.influx_writer import Writer
from cloud_sink.intake import Intake
from models.metrics import Family


def families(intakes: Sequence[Intake], features: FeatureStore) -> list[Family]:
    """Every metric of the sink but the process's own; of all its sessions together."""
    counters = [intake.counters() for intake in intakes]
    heard: Counter[str] = sum((c.heard for c in counters), Counter())
    stored: Counter[str] = sum((c.stored for c in counters), Counter())
    refused = sum((c.refused for c in counters), Counter())
    return [
        _by("messages_heard", "Messages that were readable.", "type", heard),
        _by("messages_stored", "Messages that are in the stores; doubles count.", "type", stored),
        _by(
            "messages_refused",
            "Messages that were not taken.",
            "reason",
            Counter({reason.value: n for reason, n in refused.items()}),
        ),
        _counter("received_bytes", "Bytes of messages that came.", sum(c.n_bytes for c in counters)),
        _counter("commits", "Times that what came was stored.", sum(c.n_commits for c in counters)),
        _counter("commit_seconds", "Seconds that took.", sum(c.commit_s for c in counters)),
        _counter("commit_failures", "Times that it could not be.", sum(c.n_failures for c in counters)),
        _gauge("messages_waiting", "Messages that wait to be stored.", sum(c.n_waiting for c in counters)),
        _gauge("connected", "Sessions that are connected.", sum(i.connection.connected for i in intakes)),
        _counter(
            "connects", "Times that the broker accepted one.", sum(i.connection.n_connects for i in intakes)
        ),
        _counter("feature_files", "Files of summaries that were written.", features.n_files_written),
        _counter("feature_bytes", "Bytes in them.", features.n_bytes_written),
    ]


def of_points(queue: PointQueue | None, writer: Writer | None) -> list[Family]:
    """Of what is written for dashboards; nothing where nothing is."""
    if queue is None or writer is None:
        return []
    try:
        counts = queue.counts()
    except QueueError:
        return []  # what is wrong is in the log, and at /healthz
    return [
        _counter("points_written", "Points that the database has taken.", counts["written"]),
        _counter(
            "points_dropped", "Points that had to go, since it was away for too long.", counts["dropped"]
        ),
        _counter(
            "points_rejected",
            "Points that it refuses; the last of them are kept in the queue's file.",
            counts["rejected"],
        ),
        _gauge("points_waiting", "Points that wait for it.", counts["waiting"]),
        _gauge("points_waiting_bytes", "What they take on disk.", counts["waiting_bytes"]),
        _counter("point_failures", "Times that it could not be written to.", writer.n_failures),
    ]


def of_retention(removed: Counter[tuple[str, str]]) -> list[Family]:
    """What has left the event database again."""
    text = "Rows of the event database that were too old, or too many of one gateway."
    return [
        Family(
            "sink_rows_removed",
            text,
            "counter",
            ("table", "reason"),
            {(*key,): n for key, n in removed.items()},
        )
    ]


def of_retraining(drifts: Counter[str], results: Counter[str], n_looks_failed: int) -> list[Family]:
    """What this sink has seen drift, and had trained again."""
    return [
        _by("drift_events", "Drift that was told, of a device or of a fleet.", "of", Counter(drifts)),
        _by("retrainings", "Attempts to train a model again that have ended.", "result", Counter(results)),
        _counter("drift_looks_failed", "Times that drift could not be looked for.", n_looks_failed),
    ]


def _by(name: str, text: str, label: str, values: Counter[str]) -> Family:
    return Family(f"sink_{name}", text, "counter", (label,), {(key,): n for key, n in values.items()})


def _counter(name: str, text: str, value: float) -> Family:
    return Family(f"sink_{name}", text, "counter", (), {(): value})


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(f"sink_{name}", text, "gauge", (), {(): value})
