"""What the gateway counts, gathered from all who count it: for ``/metrics`` and for the status message."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from edge_node.assembly import Core
from edge_node.black_box import BlackBox
from edge_node.counters import Counters
from edge_node.feature_log import FeatureLog
from edge_node.outbox import Outbox
from edge_node.parts import Parts
from edge_node.recording import Recording
from edge_node.requests import RequestCounters
from edge_node.router import Place
from edge_node.sources import Reach
from models.messages import ConnectionStatus
from models.metrics import Family
from models.signal import DropReason


def families(parts: Parts) -> list[Family]:
    """Every metric of the gateway's own parts but for those of models and of its supervision; between two turns, so that what
    was taken from the queue is in the pipeline, and whatever is lost between the two shows."""
    core, continuity, uplink = parts.core, parts.continuity, parts.uplink
    sources, reach = parts.sources.counters(), parts.sources.reach()
    latency_s = parts.latencies.totals()
    counters, by_device = core.pipeline.counters(), core.pipeline.counters_by_device()
    up, n_queued, n_queued_bytes = continuity.departures.figures()
    down = continuity.downtime
    checkpoints = continuity.checkpoints
    conditions = core.pipeline.conditions()
    connected: dict[tuple[str, ...], float] = {
        (f"source {name}",): float(r.connected) for name, r in reach.items()
    }
    if uplink is not None:
        connected[("uplink",)] = float(uplink.connected)
    refused = _sum(s.sample_drops for s in sources.values()) + Counter({DropReason.DOWN: down.n_samples})
    n_accepted, n_queued_samples = parts.queue.figures()
    samples_in = continuity.n_samples_before + n_accepted + sum(refused.values())
    return [
        _counter("samples_in", "Values (one channel at one time) that sources delivered.", samples_in),
        _counter("samples_windowed", "Values that went into windows.", counters.n_windowed),
        _gauge("samples_queued", "Values that wait for the pipeline.", n_queued_samples),
        _by_reason(
            "samples_dropped", "Values that went no further.", refused + Counter(counters.sample_drops)
        ),
        *_recorded(parts.recording),
        *_asked(parts.desk.counters()),
        *_kept(parts.black_box),
        *_features_kept(parts.feature_log),
        *windows(counters),
        *_inference(core),
        *parts.cloud.families(),
        Family(
            "source_messages",
            "Messages that a source received.",
            "counter",
            ("source",),
            {(name,): s.n_messages for name, s in sources.items()},
        ),
        Family(
            "source_samples",
            "Values that a source delivered (what is brought again after a crash: again), or knows to be lost on the way to it.",
            "counter",
            ("source",),
            {(name,): s.n_samples + sum(s.sample_drops.values()) for name, s in sources.items()},
        ),
        Family(
            "source_bytes",
            "Payload bytes that a source received.",
            "counter",
            ("source",),
            {(name,): s.n_bytes for name, s in sources.items()},
        ),
        Family(
            "source_messages_dropped",
            "Messages, or lines of them, that a source refused.",
            "counter",
            ("source", "reason"),
            {(name, r.value): n for name, s in sources.items() for r, n in s.message_drops.items()},
        ),
        Family(
            "source_frames_unsent",
            "Frames of the gateway's that a board did not take.",
            "counter",
            ("source",),
            {(name,): s.n_unsent for name, s in sources.items()},
        ),
        Family(
            "connected",
            "Whether a source or the uplink is connected.",
            "gauge",
            ("connection",),
            connected,
        ),
        Family(
            "source_connects",
            "Times that a source reached where its samples come from.",
            "counter",
            ("source",),
            {(name,): r.n_connects for name, r in reach.items()},
        ),
        Family(
            "source_failures",
            "Attempts of a source to reach it that failed, and connections that were lost.",
            "counter",
            ("source",),
            {(name,): r.n_failures for name, r in reach.items()},
        ),
        _by_type("events_published", "Messages given to the uplink.", up.n_published),
        _by_type("events_republished", "Retained messages given again after a reconnect.", up.n_republished),
        _by_type("events_superseded", "Retained messages replaced before they were sent.", up.n_superseded),
        _by_type("events_delivered", "Messages that the broker acknowledged.", up.n_delivered),
        Family(
            "events_dropped",
            "Messages that were given up.",
            "counter",
            ("type", "reason"),
            {(kind, reason.value): n for (kind, reason), n in up.drops.items()},
        ),
        _gauge(
            "events_queued",
            "Messages that the broker has not acknowledged.",
            n_queued,
        ),
        _gauge("events_queued_bytes", "Bytes of them.", n_queued_bytes),
        _counter(
            "checkpoints",
            "Times that what must survive a restart was written to disk.",
            checkpoints.n_written,
        ),
        _counter("checkpoint_bytes", "Bytes of state and messages in them, compressed.", checkpoints.n_bytes),
        _counter("checkpoint_failures", "Times that it could not be.", checkpoints.n_failures),
        _counter("checkpoint_seconds", "Seconds in which the disk was waited for.", checkpoints.total_s),
        _gauge(
            "checkpoint_failed",
            "1 while what must survive a restart is in memory only.",
            checkpoints.problem is not None or not continuity.outbox.durable,
        ),
        *_disk(continuity.outbox),
        _counter("run_seconds", "Seconds for which the gateway has run, over restarts.", continuity.ran_s),
        _counter("down_seconds", "Seconds between its runs.", down.total_s),
        Family(
            "device_gaps",
            "Times in which what a device sent was lost, since nobody received it.",
            "counter",
            ("device", "reason"),
            {(name, DropReason.DOWN.value): n for name, n in down.n_gaps.items()},
        ),
        _by_type("egress_bytes", "Bytes sent upstream: payload and topic.", up.n_bytes),
        Family(
            "device_samples_dropped",
            "Values of a device that went no further than its windows.",
            "counter",
            ("device", "reason"),
            {(name, r.value): n for name, c in by_device.items() for r, n in c.sample_drops.items()},
        ),
        Family(
            "device_windows_dropped",
            "Windows of a device that were not scored.",
            "counter",
            ("device", "reason"),
            {(name, r.value): n for name, c in by_device.items() for r, n in c.window_drops.items()},
        ),
        Family(
            "device_windows_scored",
            "Windows of a device that were scored.",
            "counter",
            ("device",),
            {(name,): c.n_windows_scored for name, c in by_device.items()},
        ),
        Family(
            "device_state",
            "1 for the state that a device is in.",
            "gauge",
            ("device", "state"),
            dict.fromkeys(conditions.items(), 1.0),
        ),
        Family(
            "device_learned_ratio",
            "How far a device is that learns its model by itself, 0 to 1.",
            "gauge",
            ("device",),
            {(name,): progress for name, (progress, _) in core.pipeline.learning().items()},
        ),
        Family(
            "alert_latency_seconds",
            "From the arrival of the last sample of a window to its alert.",
            "summary",
            ("kind",),
            {(kind,): total for kind, (_, total) in latency_s.items()},
            {(kind,): n for kind, (n, _) in latency_s.items()},
        ),
    ]


def windows(counters: Counters) -> list[Family]:
    """What became of the windows."""
    return [
        _counter("windows_closed", "Windows that came into being.", counters.n_windows_closed),
        _counter("windows_scored", "Windows that were scored.", counters.n_windows_scored),
        _gauge("windows_pending", "Windows that wait for a score.", counters.n_windows_pending),
        _by_reason("windows_dropped", "Windows that were not scored.", counters.window_drops),
        _counter("saturated_outputs", "Values at an end of an int8 range.", counters.n_saturated),
    ]


def connections(reach: Mapping[str, Reach]) -> dict[str, ConnectionStatus]:
    """The sources' for the status message, named as in the metric ``connected``. Not the uplink's own: while it is
    down no status comes through."""
    return {
        f"source {name}": ConnectionStatus(connected=source.connected, error=source.last_error)
        for name, source in reach.items()
    }


def flat(metrics: Iterable[Family]) -> dict[str, int]:
    """Counters and gauges for the status message: ``name`` or ``name.label.label`` -> whole number."""
    skipped = ("alert_latency_seconds", "inference_seconds", "cloud_seconds", "model_backend", "connected")
    return {
        ".".join((family.name, *labels)): int(value)
        for family in metrics
        if family.name not in skipped
        and "device" not in family.labels  # a status does not grow with the devices
        for labels, value in sorted(family.values.items())
    }


def _inference(core: Core) -> list[Family]:
    scorer = core.scorer
    backends: dict[tuple[str, ...], float] = {(m.model_id, m.backend): 1.0 for m in core.models}
    found = [
        Family(
            "inference_failures",
            "Batches that were dropped because they could not be scored.",
            "counter",
            ("kind",),
            {(kind,): n for kind, n in scorer.failures.items()},
        ),
        Family(
            "inference_seconds",
            "Time that the batches took which were scored, by what scored them.",
            "summary",
            ("target",),
            {(target,): ns / 1e9 for target, ns in scorer.invoked_ns.items()},
            {(target,): n for target, n in scorer.n_invoked.items()},
        ),
        Family(
            "windows_scored_at",
            "Windows that were scored since the start, by where.",
            "counter",
            ("place",),
            {(place.value,): scorer.n_windows[place] for place in Place},
        ),
        Family(
            "windows_scored_at",
            "Windows that were scored since the start, by where: at the edge or in the cloud.",
            "counter",
            ("place",),
            {(place.value,): scorer.n_windows[place] for place in Place},
        ),
        Family(
            "model_backend", "1 for what scores for a model now.", "gauge", ("model", "backend"), backends
        ),
    ]
    if core.workers is None:
        return found
    workers = core.workers.figures()
    return [
        *found,
        Family(
            "worker_restarts",
            "Processes that score which were given up or ended, by reason; another is started each time.",
            "counter",
            ("worker", "reason"),
            {(worker, str(reason)): n for (worker, reason), n in workers.ends.items()},
        ),
        Family(
            "worker_up",
            "Whether the process that scores has its models and takes batches.",
            "gauge",
            ("worker",),
            {(worker,): float(up) for worker, up in workers.up.items()},
        ),
        _counter("backend_fallbacks", "Times that scoring fell back to the CPU.", workers.n_fallbacks),
    ]


def _recorded(recording: Recording | None) -> list[Family]:
    if recording is None:
        return []
    unrecorded = "Values that came after the recording had ended."
    return [
        _counter("samples_recorded", "Values that went into the recording.", recording.n_recorded),
        _counter("samples_unrecorded", unrecorded, recording.n_unrecorded),
        _gauge(
            "recording_failed", "1 when the recording could not be written on.", recording.error is not None
        ),
    ]


def _asked(requests: RequestCounters) -> list[Family]:
    return [
        Family(
            "requests",
            "Requests by what they ask for.",
            "counter",
            ("request",),
            {(name,): n for name, n in requests.heard.items()},
        ),
        Family(
            "requests_refused",
            "Requests that had no effect.",
            "counter",
            ("reason",),
            {(reason.value,): n for reason, n in requests.refused.items()},
        ),
        _counter("requests_repeated", "Requests that came again.", requests.n_repeated),
        _counter("requests_untold", "Refusals that were not answered.", requests.n_untold),
    ]


def _disk(outbox: Outbox) -> list[Family]:
    if outbox.free_bytes is None:
        return []
    return [
        _gauge(
            "disk_free_bytes", "Free where the gateway keeps its state, at the last write.", outbox.free_bytes
        )
    ]


def _kept(black_box: BlackBox | None) -> list[Family]:
    if black_box is None or (done := black_box.done) is None:
        return []
    there, parts = done.holding, ("part",)
    return [
        _gauge("black_box_failed", "1 while the black box cannot be written.", black_box.error is not None),
        _counter("black_box_failures", "Times that it could not be written.", done.n_failures),
        _counter("black_box_pauses", "Times that the disk was too slow for it.", black_box.n_pauses),
        _counter("black_box_samples_recorded", "Values that are, or were, in it.", done.n_recorded),
        _gauge("black_box_samples_queued", "Values that wait for its disk.", done.n_queued),
        _by_reason("black_box_samples_dropped", "Values that did not get into it.", black_box.dropped(done)),
        _counter("black_box_written_bytes", "Bytes written to its files.", done.n_written_bytes),
        Family(
            "black_box_bytes",
            "Size of its files: of the last hours, and what older ones are kept for alerts.",
            "gauge",
            parts,
            {("ring",): there.ring_bytes, ("alerts",): there.kept_bytes},
        ),
        Family(
            "black_box_files",
            "Its files.",
            "gauge",
            parts,
            {("ring",): there.n_ring, ("alerts",): there.n_kept},
        ),
        Family(
            "black_box_files_removed",
            "Files that had to go.",
            "counter",
            ("reason",),
            {(reason.value,): n for reason, n in done.removed.items()},
        ),
        _gauge(
            "black_box_oldest_seconds", "Unix time of the oldest that is in it.", (there.oldest_ns or 0) / 1e9
        ),
    ]


def _features_kept(log: FeatureLog | None) -> list[Family]:
    if log is None or (done := log.done) is None:
        return []
    there = done.holding
    return [
        _gauge("feature_log_failed", "1 while the feature log cannot be written.", log.error is not None),
        _counter("feature_log_failures", "Times that it could not be written.", done.n_failures),
        _counter("feature_log_pauses", "Times that the disk was too slow for it.", log.n_pauses),
        _counter("feature_log_values_recorded", "Values that are, or were, in it.", done.n_recorded),
        _gauge("feature_log_values_queued", "Values that wait for its disk.", done.n_queued),
        _by_reason("feature_log_values_dropped", "Values that did not get into it.", log.dropped(done)),
        _counter("feature_log_written_bytes", "Bytes written to its files.", done.n_written_bytes),
        _gauge("feature_log_bytes", "Size of its files.", there.ring_bytes),
        _gauge("feature_log_files", "Its files.", there.n_ring),
        Family(
            "feature_log_files_removed",
            "Files that had to go.",
            "counter",
            ("reason",),
            {(reason.value,): n for reason, n in done.removed.items()},
        ),
        _gauge(
            "feature_log_oldest_seconds",
            "Unix time of the oldest that is in it.",
            (there.oldest_ns or 0) / 1e9,
        ),
    ]


def _sum(counters: Iterable[Counter[DropReason]]) -> Counter[DropReason]:
    total: Counter[DropReason] = Counter()
    for counter in counters:
        total.update(counter)
    return total


def _counter(name: str, text: str, value: float) -> Family:
    return Family(name, text, "counter", (), {(): value})


def _gauge(name: str, text: str, value: float) -> Family:
    return Family(name, text, "gauge", (), {(): value})


def _by_reason(name: str, text: str, values: Mapping[DropReason, int]) -> Family:
    return Family(name, text, "counter", ("reason",), {(reason.value,): n for reason, n in values.items()})


def _by_type(name: str, text: str, values: Mapping[str, int]) -> Family:
    return Family(name, text, "counter", ("type",), {(kind,): n for kind, n in values.items()})
