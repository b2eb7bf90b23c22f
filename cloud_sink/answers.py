"""Answers to backtests: which of them to believe. Pure."""

from __future__ import annotations

import msgspec

from cloud_sink.gate import Answer
from models.backtest import flaw
from models.messages import Response
from models.requests import BacktestRequest, Refusal

MAX_BYTES = 1 << 16
_PASSING = ("no_blob", "overloaded", "no_runtime")  # of the gateway or the way to it, not of the candidate


class Unbelievable(Exception):
    """An answer that cannot be: ``reason``, one word to count it by, and a text."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


class TryAgain(Exception):
    """The gateway is busy: ask again later."""


def read(payload: bytes, site: str, gateway: str, asked: BacktestRequest, version: int) -> Answer | None:
    """What ``gateway`` answered to ``asked`` about ``version``, on its topic; None where it answers somebody else. Raises
    Unbelievable and TryAgain."""
    if len(payload) > MAX_BYTES:
        raise Unbelievable("too_large", f"its answer has {len(payload)} bytes, at most {MAX_BYTES} may be")
    try:
        said = _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Unbelievable("unreadable", f"its answer cannot be read ({error})") from error
    if (said.site, said.gateway) != (site, gateway):
        raise Unbelievable("other_name", f"it answers as {said.site}/{said.gateway}"[:300])
    if said.transaction != asked.transaction or said.request != "backtest":
        return None
    name = f"{site}/{gateway}"
    if not said.ok:
        if said.reason is Refusal.BUSY:
            raise TryAgain
        return Answer(
            gateway=name,
            why_not=f"{said.reason}: {said.text}"[:500],
            against=said.reason is Refusal.CANDIDATE_REFUSED and said.text.partition(":")[0] not in _PASSING,
        )
    found = said.backtest
    if found is None:
        raise Unbelievable("inconsistent", "it says that it is done, and not what came of it")
    if (found.model_id, found.version, found.sha256) != (asked.model_id, version, asked.sha256):
        raise Unbelievable("other_model", f"it answers for {found.model_id} version {found.version}"[:300])
    if (text := flaw(found)) is not None:
        raise Unbelievable("inconsistent", text[:300])
    return Answer(gateway=name, backtest=found)


_decoder = msgspec.json.Decoder(Response)
