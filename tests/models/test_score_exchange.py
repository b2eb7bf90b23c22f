"""A request and its answer survive the way; what could not be true does not."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import scoring
from models.messages import ScoreReply, ScoreRequest, encode, pack_floats
from models.score_exchange import (
    MAX_BYTES,
    MAX_ROWS,
    Unreadable,
    fits,
    read_reply,
    read_request,
    read_scores,
    reply,
)

RNG = np.random.default_rng(3)
ROWS = RNG.normal(size=(5, 4)).astype(np.float32)


def request(**more: Any) -> ScoreRequest:
    fields: dict[str, Any] = {
        "transaction": "t", "site": "s", "gateway": "g", "model_id": "m", "model_version": 1, "schema_id": "x",
        "deadline_ms": 100.0, "n": len(ROWS), "features": pack_floats(ROWS),
    }  # fmt: skip
    return ScoreRequest(**{**fields, **more})


def answer(residual: np.ndarray[Any, Any] = ROWS, p: np.ndarray[Any, Any] | None = None) -> ScoreReply:
    if p is None:
        p = np.exp(-scoring.scores(residual).astype(np.float64))
    return reply(request(), residual, p, model_id="large", model_version=3, backend="cpu", latency_ms=1.0)


def test_both_ways() -> None:
    asked, rows = read_request(encode(request()))
    assert asked == request()
    assert rows.tobytes() == ROWS.tobytes()
    got = read_scores(read_reply(encode(answer())), 5, 4)
    assert got.residual.tobytes() == ROWS.tobytes()
    assert got.p == pytest.approx(np.exp(-scoring.scores(ROWS)), rel=1e-6)


def test_the_largest_that_fits_is_within_the_bytes() -> None:
    k = 512
    n = max(n for n in range(1, MAX_ROWS + 1) if fits(n, k))
    rows = RNG.normal(size=(n, k)).astype(np.float32)
    long = "x" * 128
    sent = encode(request(n=n, features=pack_floats(rows), site=long, gateway=long, model_id=long))
    assert MAX_BYTES * 0.98 < len(sent) <= MAX_BYTES
    assert len(encode(answer(rows))) <= MAX_BYTES
    assert not fits(MAX_ROWS, k)
    assert not fits(0, 4)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"n": 4}, "20 numbers"),
        ({"n": 0}, "0 rows"),
        ({"n": MAX_ROWS + 1}, "rows"),
        ({"deadline_ms": 0.0}, "within 0 ms"),
        ({"features": "AAA"}, "base64"),
        ({"n": 1, "features": pack_floats(np.array([np.inf, 1.0]))}, "not finite"),
    ],
)
def test_requests_that_are_none(more: dict[str, Any], text: str) -> None:
    if more == {"n": 4}:
        more = {"n": 3}
    with pytest.raises(Unreadable, match=text):
        read_request(encode(request(**more)))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"residual": None}, "no scores"),
        ({"residual": pack_floats(ROWS[:4])}, "16 numbers"),
        ({"residual": pack_floats(ROWS * np.float32(np.nan))}, "not finite"),
        ({"log_p": pack_floats(np.zeros(4))}, "4 numbers"),
        ({"log_p": pack_floats(np.full(5, 0.1))}, "of no p-value"),
        ({"log_p": pack_floats(np.full(5, -800.0))}, "of no p-value"),
        ({"log_p": pack_floats(scoring.scores(ROWS) - 10.0)}, "does not fall"),
    ],
)
def test_answers_that_cannot_be_true(more: dict[str, Any], text: str) -> None:
    with pytest.raises(Unreadable, match=text):
        read_scores(msgspec.structs.replace(answer(), **more), 5, 4)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(payload: bytes) -> None:
    for read in (read_request, read_reply):
        try:
            read(payload)
        except Unreadable:
            continue
