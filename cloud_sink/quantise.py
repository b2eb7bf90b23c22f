"""Ranges of a full-int8 model, found by a sweep over what an anomaly looks like.

An anomaly lies outside the training range by definition, so ranges are multiples of the training spread, not
its extremes: too narrow and every fault saturates to one score, too wide and healthy windows drown in
quantisation noise. Each candidate is built, run in the real runtime on the training windows and on probes
(training windows with offsets of 3 to 100 sigma on one feature, one channel or all), and kept only where
every probe that the float model puts above all training windows is put there by the int8 model too. Among
those kept, the one whose scores rank most like the float model's wins. Of features that are judged by their ranges only
probes are ranked, since rows within their ranges are all alike, and the finest ranges win that rank them well enough.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cloud_sink.train import Fitted, residual_scale
from models.export import Range, int8_model
from models.runtime import Graph, dequantise, quantise
from models.scoring import residuals, scores

INPUT_SIGMAS = (6.0, 10.0, 15.0, 20.0, 30.0, 50.0)
WHITENED_SIGMAS = (15.0, 30.0, 60.0, 120.0)
OFFSETS = (3.0, 5.0, 10.0, 20.0, 50.0, 100.0)
MIN_CORRELATION = 0.9  # rank correlation with the float scores below which an int8 model is not published
MARGIN = 1.25  # a probe counts as above all training windows when the float model puts it this much above
MAX_SWEEP_ROWS = 2_000
MAX_PROBES = 4_000
MAX_ROWS = 4_096  # of one invoke


@dataclass(frozen=True, slots=True)
class Sigmas:
    """A candidate: how many training sigmas the input, and every other tensor, may reach before it
    saturates."""

    inputs: float
    others: float


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """The outcome. ``sigmas`` is the best candidate; ``publish`` says whether it is good enough, else
    ``why_not``.

    ``healthy_correlation`` and ``probe_correlation`` are Spearman's, of int8 with float scores; ``n_missed``
    counts probes that only the float model puts above all training windows, of ``n_probes`` that it does; the
    shares are of rows with a value at the end of the int8 range.
    """

    sigmas: Sigmas
    healthy_correlation: float
    probe_correlation: float
    n_missed: int
    n_probes: int
    saturated_healthy: float
    saturated_probes: float
    publish: bool
    why_not: str | None


class FloatGraph:
    """A float32 model: inputs in, (output, saturated: never) out."""

    step = 0.0

    def __init__(self, model: bytes) -> None:
        self._graph = Graph(model)

    def run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(output float32[w, k], saturated bool[w])."""
        output = _in_parts(self._graph, np.ascontiguousarray(inputs))
        return output, np.zeros(inputs.shape[0], np.bool_)


class Int8Graph:
    """A full-int8 model run on float inputs, as the gateway runs it: quantise, invoke, dequantise."""

    def __init__(self, model: bytes) -> None:
        self._graph = Graph(model)
        self.step = self._graph.output.scale  # of the output, in real values

    def run(self, inputs: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(output float32[w, k], saturated bool[w]: whether a value of the row met an end of a range)."""
        quantised, clipped = quantise(inputs, self._graph.input)
        raw = _in_parts(self._graph, quantised)
        at_end = (raw == -128) | (raw == 127)
        return dequantise(raw, self._graph.output), clipped.any(axis=1) | at_end.any(axis=1)


def _in_parts(graph: Graph, inputs: NDArray[Any]) -> NDArray[Any]:
    # The interpreter's memory grows with the rows of one invoke.
    parts = [graph.run(inputs[i : i + MAX_ROWS]) for i in range(0, inputs.shape[0], MAX_ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, graph.output.shape[1]), graph.output.dtype)


def ranges(fitted: Fitted, inputs: NDArray[np.float32], sigmas: Sigmas) -> list[Range]:
    """(low, high) per tensor of the graph, input first, from the activations of training ``inputs``
    float32[w, k].

    The input and a whitened output are around 0 with spread 1; another tensor reaches ``sigmas.others`` of
    its own spread beyond each unit's mean, not below 0 after a ReLU.
    """
    tensors = fitted.activations(inputs)
    found: list[Range] = [(-sigmas.inputs, sigmas.inputs)]
    for layer, values in zip(fitted.layers, tensors[1:], strict=True):
        mean, spread = values.mean(axis=0), np.maximum(values.std(axis=0), 1e-3)
        low, high = float((mean - sigmas.others * spread).min()), float((mean + sigmas.others * spread).max())
        found.append((0.0 if layer.activation == "relu" else low, high))
    if fitted.output_kind == "whitened":
        found[-1] = (-sigmas.others, sigmas.others)
    return found


def probes(inputs: NDArray[np.float32], groups: Sequence[NDArray[np.intp]], seed: int) -> NDArray[np.float32]:
    """Synthetic anomalies float32[p, k]: training rows with each of OFFSETS added to the features of a group,
    with signs drawn by ``seed``. ``groups`` are index arrays: every feature alone, every channel's, all."""
    generator = np.random.default_rng(seed)
    n_rows, n_features = inputs.shape
    wanted = [(group, offset) for group in groups for offset in OFFSETS]
    n_each = max(1, min(4, MAX_PROBES // max(1, len(wanted))))
    rows = []
    for group, offset in wanted:
        chosen = inputs[generator.integers(0, n_rows, size=n_each)].copy()
        signs = generator.choice(np.array([-1.0, 1.0], dtype=np.float32), size=(n_each, group.size))
        chosen[:, group] += signs * np.float32(offset)
        rows.append(chosen)
    return np.concatenate(rows) if rows else np.empty((0, n_features), np.float32)


def feature_groups(channels: Sequence[str]) -> list[NDArray[np.intp]]:
    """Every feature alone, then those of each channel, then all; ``channels`` names the channel of each
    feature."""
    names = np.asarray(channels)
    groups = [np.array([j], dtype=np.intp) for j in range(names.size)]
    groups += [np.flatnonzero(names == name) for name in dict.fromkeys(channels)]
    return [*groups, np.arange(names.size, dtype=np.intp)]


def sweep(
    fitted: Fitted,
    inputs: NDArray[np.float32],
    channels: Sequence[str],
    *,
    seed: int = 0,
    ranged: bool = False,
    tick: Callable[[], None] = lambda: None,
) -> Sweep:
    """Tries every candidate on training ``inputs`` float32[w, k]; ``tick`` is called after each. ``ranged``: the features are
    judged by their ranges."""
    stride = max(1, -(-inputs.shape[0] // MAX_SWEEP_ROWS))
    healthy = np.ascontiguousarray(inputs[::stride])
    probing = probes(healthy, feature_groups(channels), seed)
    float_healthy, float_probes = fitted.scores(healthy), fitted.scores(probing)
    flagged = float_probes > float_healthy.max() * MARGIN
    best: Sweep | None = None
    for sigmas in candidates(fitted):
        graph = Int8Graph(int8_model(fitted.layers, ranges(fitted, inputs, sigmas)))
        output, at_end = graph.run(healthy)
        scale = residual_scale(healthy, output, fitted.output_kind)
        int8_healthy = scores(residuals(healthy, output, fitted.output_kind, scale))
        output, at_end_probes = graph.run(probing)
        int8_probes = scores(residuals(probing, output, fitted.output_kind, scale))
        outcome = _judge(
            sigmas,
            rank_correlation(float_healthy, int8_healthy),
            rank_correlation(float_probes, int8_probes),
            int(np.count_nonzero(int8_probes[flagged] <= int8_healthy.max())),
            int(np.count_nonzero(flagged)),
            float(at_end.mean()),
            float(at_end_probes.mean()),
            ranged,
        )
        if best is None or _merit(outcome, ranged) > _merit(best, ranged):
            best = outcome
        tick()
    assert best is not None
    return best


def candidates(fitted: Fitted) -> list[Sigmas]:
    """What is tried. A whitened output spreads further than its input; in an autoencoder all tensors share
    one multiple."""
    if fitted.output_kind == "whitened":
        return [Sigmas(a, b) for a in INPUT_SIGMAS for b in WHITENED_SIGMAS]
    return [Sigmas(a, a) for a in INPUT_SIGMAS]


def _judge(
    sigmas: Sigmas,
    healthy: float,
    probing: float,
    n_missed: int,
    n_probes: int,
    saturated: float,
    saturated_probes: float,
    ranged: bool = False,
) -> Sweep:
    why_not = None
    least = probing if ranged else min(healthy, probing)
    if n_missed:
        why_not = (
            f"{n_missed} of {n_probes} offsets of up to {OFFSETS[-1]:g} sigma score no higher "
            "than a training window"
        )
    elif least < MIN_CORRELATION:
        why_not = (
            "its scores rank too little like the float model's (rank correlation "
            f"{math.floor(least * 1e4) / 1e4:.4f}, at least {MIN_CORRELATION} needed)"
        )
    return Sweep(
        sigmas,
        healthy,
        probing,
        n_missed,
        n_probes,
        saturated,
        saturated_probes,
        publish=why_not is None,
        why_not=why_not,
    )


def _merit(outcome: Sweep, ranged: bool = False) -> tuple[float, ...]:
    probing = outcome.probe_correlation
    if ranged:  # of those that rank well enough the finest: what counts is what is hardly beyond a range
        sigmas = outcome.sigmas
        return -outcome.n_missed, min(probing, MIN_CORRELATION), -sigmas.others, -sigmas.inputs
    return -outcome.n_missed, min(outcome.healthy_correlation, probing)


def rank_correlation(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Spearman's rank correlation; 0 where one of them does not vary."""
    if a.size < 2 or np.ptp(a) == 0.0 or np.ptp(b) == 0.0:
        return 0.0
    return float(spearmanr(a, b).statistic)
