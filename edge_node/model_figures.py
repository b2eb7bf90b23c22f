"""What is counted of models that come over the uplink. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from models.metrics import Family
from models.refusals import RefusalReason

Counts = Mapping[tuple[str, RefusalReason], int]


def families(
    adoptions: Mapping[str, int],
    refusals: Counts,
    rollbacks: Counts,
    serving: Mapping[str, int],
    trials: Mapping[str, int],
) -> list[Family]:
    """The metrics; all mappings are by model."""
    return [
        Family("model_version", "The version that scores.", "gauge", ("model",), _by_model(serving)),
        Family(
            "model_trial_windows",
            "Windows that the version on trial has seen; 0: none is.",
            "gauge",
            ("model",),
            _by_model(trials),
        ),
        Family(
            "model_adoptions",
            "Versions that went into service while running.",
            "counter",
            ("model",),
            _by_model(adoptions),
        ),
        Family(
            "model_refusals",
            "Offers of a version that were refused.",
            "counter",
            ("model", "reason"),
            _by_reason(refusals),
        ),
        Family(
            "model_rollbacks",
            "Versions that were taken out of service again.",
            "counter",
            ("model", "reason"),
            _by_reason(rollbacks),
        ),
    ]


def _by_model(values: Mapping[str, int]) -> dict[tuple[str, ...], float]:
    return {(model,): float(n) for model, n in values.items()}


def _by_reason(counts: Counts) -> dict[tuple[str, ...], float]:
    return {(model, reason.value): float(n) for (model, reason), n in counts.items()}
