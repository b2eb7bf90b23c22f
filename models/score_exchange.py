"""What a gateway and a sink say to each other about scores: rows of features there, residuals and p-values back.

Strategy: the residual is the whole of an answer but for how rare it is; the score follows from it here as it did there
(``models.scoring.scores``), so an answer cannot contradict itself. Invariant: what :func:`read_request` and :func:`read_reply`
return is finite and has the shape that was asked for. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from models import scoring
from models.messages import ScoreReply, ScoreRequest, pack_floats, unpack_floats

MAX_ROWS = 1024
MAX_FEATURES = 512
MAX_BYTES = 1 << 20  # of a request's or an answer's payload
_MIN_LOG_P = -690.0  # as of models.calibration: p-values never reach 0
_ROUNDING = 1e-5  # of log p as float32, relative

_request = msgspec.json.Decoder(ScoreRequest)
_reply = msgspec.json.Decoder(ScoreReply)


class Unreadable(ValueError):
    """A message that is no request, or no answer to what was asked; the text says what is wrong with it."""


@dataclass(frozen=True, slots=True, eq=False)
class Answered:
    """Of w rows: ``residual`` float32[w, k] in units of the answering model's healthy spread, ``p`` float64[w] in (0, 1]."""

    residual: NDArray[np.float32]
    p: NDArray[np.float64]


def fits(n: int, k: int) -> bool:
    """Whether ``n`` rows of ``k`` features, and their answer, may be sent at all."""
    room = MAX_BYTES - 4096  # for all beside the arrays
    return 0 < n <= MAX_ROWS and 0 < k <= MAX_FEATURES and (n * k + n) * 4 * 4 / 3 <= room


def read_request(payload: bytes) -> tuple[ScoreRequest, NDArray[np.float32]]:
    """A request, and its rows float32[n, k]. Raises Unreadable."""
    if len(payload) > MAX_BYTES:
        raise Unreadable(f"{len(payload)} bytes, at most {MAX_BYTES} are read")
    try:
        request = _request.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no request: {error}") from error
    if not 0 < request.n <= MAX_ROWS or not 0.0 < request.deadline_ms < 1e7:
        raise Unreadable(f"{request.n} rows within {request.deadline_ms:g} ms")
    return request, _floats("features", request.features, (request.n, -1))


def reply(
    request: ScoreRequest,
    residual: NDArray[np.float32],
    p: NDArray[np.float64],
    *,
    model_id: str,
    model_version: int,
    backend: str,
    latency_ms: float,
) -> ScoreReply:
    """The answer to ``request``: ``residual`` float32[n, k] and ``p`` float64[n]."""
    return ScoreReply(
        transaction=request.transaction,
        site=request.site,
        gateway=request.gateway,
        reason=None,
        text="",
        model_id=model_id,
        model_version=model_version,
        backend=backend,
        latency_ms=latency_ms,
        residual=pack_floats(residual),
        log_p=pack_floats(np.log(p)),
    )


def read_reply(payload: bytes) -> ScoreReply:
    """An answer, whose arrays nobody has looked at yet. Raises Unreadable."""
    if len(payload) > MAX_BYTES:
        raise Unreadable(f"{len(payload)} bytes, at most {MAX_BYTES} are read")
    try:
        return _reply.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unreadable(f"no answer: {error}") from error


def read_scores(answer: ScoreReply, n: int, k: int) -> Answered:
    """The arrays of an answer that was not refused, to ``n`` rows of ``k`` features. Raises Unreadable also where a row that
    scores more is said to be less rare."""
    if answer.residual is None or answer.log_p is None:
        raise Unreadable("it has no scores, and no reason why")
    residual = _floats("residual", answer.residual, (n, k))
    log_p = _floats("log_p", answer.log_p, (n,)).astype(np.float64)
    if log_p.max() > 0.0 or log_p.min() < _MIN_LOG_P * (1 + _ROUNDING):
        raise Unreadable(f"log_p from {log_p.min():g} to {log_p.max():g} is of no p-value")
    with np.errstate(over="ignore"):
        score = scoring.scores(residual)
    if not np.isfinite(score).all():
        raise Unreadable("residual is too large for a score")
    by_score = log_p[np.argsort(score, kind="stable")]
    if (np.diff(by_score) > _ROUNDING * np.abs(by_score[1:])).any():
        raise Unreadable("log_p does not fall where scores rise")
    return Answered(residual, np.exp(np.maximum(log_p, _MIN_LOG_P)))


def _floats(name: str, text: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    try:
        values = unpack_floats(text, shape)
    except ValueError as error:
        raise Unreadable(f"{name} {error}") from error
    if not 0 < values.shape[-1] <= max(MAX_FEATURES, MAX_ROWS):
        raise Unreadable(f"{name} has {values.shape[-1]} columns")
    if not np.isfinite(values).all():
        raise Unreadable(f"{name} holds numbers that are not finite")
    return values
