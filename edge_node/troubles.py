"""What can be wrong with the gateway itself, as it stands now: the input of ``gateway_alerts``."""

from __future__ import annotations

import math
from collections.abc import Mapping

from edge_node.assembly import Core
from edge_node.gateway_alerts import Trouble
from edge_node.parts import Parts
from edge_node.workers import CPU
from models.requests import Refusal
from models.signal import DropReason

HOLD_S = 60.0
UNHEARD = 3  # a clone publishes its status, or connects, as often as we do: after so many that did not come it is gone


def troubles(parts: Parts, outages: Mapping[str, str], blind: Mapping[str, str]) -> list[Trouble]:
    """Every trouble that there is or could be, but for those of models; ``outages``: sources that are in trouble, and what to
    say of it; ``blind``: devices of which nothing is seen, and why. A black box that cannot be written to fails again with
    every attempt."""
    found = _of_scoring(parts.core)
    n_full = sum(
        counters.sample_drops[DropReason.QUEUE_FULL] for counters in parts.sources.counters().values()
    )
    full = "samples are dropped, the gateway cannot keep up with its sources"
    found.append(Trouble("queue_full", full, n_full, HOLD_S, "critical"))
    found += [Trouble(f"source/{name}", text, 1, math.inf) for name, text in outages.items()]
    found += [Trouble(f"blind/{device_id}", text, 1, math.inf) for device_id, text in blind.items()]
    if (error := parts.recording_error) is not None:
        found.append(Trouble("recording", f"the recording has ended: {error}", 1, math.inf))
    if (error := parts.front.error) is not None:
        found.append(Trouble("http", error, 1, math.inf))
    if (forgets := parts.continuity.problem) is not None:
        found.append(Trouble("outbox", forgets, 1, math.inf, "critical"))
    requests = parts.desk.counters()
    n_many = requests.refused[Refusal.RATE_LIMITED] + requests.refused[Refusal.QUEUE_FULL]
    many = "requests are refused, more come than [gateway] max_requests_per_minute lets in"
    found.append(Trouble("requests", many, n_many, HOLD_S))
    black_box = parts.black_box
    if black_box is not None and (done := black_box.done) is not None:
        failure = f"raw signal is not kept, the black box cannot be written: {black_box.error}"
        found.append(Trouble("black_box", failure, done.n_failures, HOLD_S))
        slow = "raw signal is not kept, the disk is too slow for the black box"
        found.append(Trouble("black_box_slow", slow, black_box.n_pauses, HOLD_S))
    features = parts.feature_log
    if features is not None and (done := features.done) is not None:
        failure = f"features are not kept, the feature log cannot be written: {features.error}"
        found.append(Trouble("feature_log", failure, done.n_failures, HOLD_S))
        slow = "features are not kept, the disk is too slow for the feature log"
        found.append(Trouble("feature_log_slow", slow, features.n_pauses, HOLD_S))
    return found + _of_clones(parts)


def _of_clones(parts: Parts) -> list[Trouble]:
    uplink = parts.uplink
    if uplink is None:
        return []
    who = (
        f"publishes under this name (boot id {', '.join(uplink.conflicts)})"
        if uplink.conflicts
        else "connects with this gateway's client_id"
    )
    hold_s = UNHEARD * max(parts.config.gateway.status_s, uplink.reconnect_max_s)
    return [
        Trouble(
            "clone",
            f"another computer {who}: was an SD card cloned? Give one of them another [gateway] name",
            uplink.n_foreign,
            hold_s,
        )
    ]


def _of_scoring(core: Core) -> list[Trouble]:
    notices = dict.fromkeys(engine.notices[-1] for engine in core.engines.values() if engine.notices)
    found = [Trouble(f"backend/{notice}", notice, 1, math.inf) for notice in notices]  # one for all models
    if core.workers is not None:
        workers = core.workers.figures()
        n_ends = sum(n for (worker, _), n in workers.ends.items() if worker == CPU)
        ended = f"the process that scores was started again: {workers.last}"
        found.append(Trouble("worker", ended, n_ends, HOLD_S))
    if core.scorer.waiting is not None:
        waits = f"windows wait to be scored: {core.scorer.waiting}"
        found.append(Trouble("waiting", waits, 1, math.inf, "critical"))
    if away := core.scorer.away:
        models = ", ".join(
            sorted({p.model.model_id for p in core.plans if p.model is not None and p.engine in away})
        )
        asked = f"the edge is too slow for, or cannot run, model {models}: features of its windows go to a sink to be scored"
        found.append(Trouble("cloud", asked, 1, math.inf))
    failure = f"windows are not scored, inference fails: {core.last_failure}"
    found.append(Trouble("inference", failure, core.n_inference_failures, HOLD_S, "critical"))
    return found
