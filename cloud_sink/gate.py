"""Whether a candidate may be rolled out: by what gateways answered to backtests, and by what the sink measured itself. Pure.

Invariants: nothing is accepted for want of evidence: with too few answers it is refused, which says how many there are; a
decision has every reason against, not only the first, and the figures that it was made on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import msgspec

from models.backtest import Backtest

HOURS_A_WEEK = 168.0
OVER_BUDGET = 2.0
SPARE_ALERTS = 2  # beyond the budget, of which chance may be the cause
RARE_P = 0.01
RARER = 10.0  # than to the model in service
SLOWER = 2.0
FAST_US = 1000.0  # a window that takes no longer is fast enough, whatever the one in service takes

Verdict = Literal["accept", "refuse"]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for. ``min_gateways``: that answered, each with ``min_windows``; ``alerts_per_week``: that a device is
    allowed; ``min_auc``: leaving one device out, in the mean, by labels where those are of ``min_labelled`` devices or more: one
    mistaken operator is too much of fewer; AUC that int8 may lose, in the mean and at worst."""

    min_gateways: int = 3
    min_windows: int = 1000
    alerts_per_week: float = 1.0
    min_auc: float = 0.8
    min_labelled: int = 5
    max_int8_loss: float = 0.005
    max_int8_worst: float = 0.02


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What one gateway (site/name) said: a backtest that is believed, else why there is none. ``against``: it refuses the
    candidate."""

    gateway: str
    backtest: Backtest | None = None
    why_not: str = ""
    against: bool = False


class HeldOut(msgspec.Struct, frozen=True, kw_only=True):
    """ROC AUC of a model like the candidate for devices that it was not fitted on: mean and worst over ``n_devices``, of which
    the anomalies are ``n_rows`` rows: of alerts that operators called true ("labels"), or offsets ("probes")."""

    anomalies: Literal["labels", "probes"]
    mean: float
    worst: float
    n_devices: int
    n_rows: int


class Int8(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate's int8 graph against its float one, by device: AUC that is lost, in the mean and at worst, and the share of
    the float graph's AUC that remains."""

    mean_loss: float
    worst_loss: float
    mean_share: float
    worst_share: float
    worst_device: str
    n_devices: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What is decided on. ``unbelieved``: answers that could not be, by reason. ``runtime``: in which the graphs were run.
    ``int8`` None: there is no int8 graph."""

    answers: tuple[Answer, ...]
    held_out: tuple[HeldOut, ...] = ()
    int8: Int8 | None = None
    has_int8: bool = True
    unbelieved: dict[str, int] = {}
    runtime: str = ""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """``reasons``: all that speak against, or what speaks for it. ``figures`` and ``limits``: what it was made on."""

    verdict: Verdict
    reasons: tuple[str, ...]
    figures: Figures
    limits: Limits


def judge(figures: Figures, limits: Limits) -> Decision:
    """The decision."""
    enough = [
        a.backtest
        for a in figures.answers
        if a.backtest is not None
        and min(a.backtest.served.n_windows, a.backtest.candidate.n_windows) >= limits.min_windows
    ]
    against: list[str] = []
    if len(enough) < limits.min_gateways:
        against.append(_too_few(figures.answers, len(enough), limits))
    against += [f"{a.gateway} refuses it: {a.why_not}" for a in figures.answers if a.against]
    for answer in figures.answers:
        if answer.backtest is not None:
            against += [
                f"{answer.gateway}: {text}" for text in _against(answer.backtest, limits.alerts_per_week)
            ]
    against += _held_out(figures.held_out, limits)
    against += _int8(figures, limits)
    if against:
        return Decision(verdict="refuse", reasons=tuple(against), figures=figures, limits=limits)
    return Decision(verdict="accept", reasons=_for(enough, figures, limits), figures=figures, limits=limits)


def _too_few(answers: Sequence[Answer], n: int, limits: Limits) -> str:
    short = [
        f"{a.gateway} has {min(a.backtest.served.n_windows, a.backtest.candidate.n_windows)} windows"
        for a in answers
        if a.backtest is not None
        and min(a.backtest.served.n_windows, a.backtest.candidate.n_windows) < limits.min_windows
    ]
    none = [
        f"{a.gateway}: {a.why_not or 'no answer'}" for a in answers if a.backtest is None and not a.against
    ]
    why = "; ".join((short + none)[:5])
    text = f"{n} of {limits.min_gateways} answers with {limits.min_windows} windows or more"
    return text + (f" ({why})" if why else "")


def _against(found: Backtest, alerts_per_week: float) -> list[str]:
    served, candidate = found.served, found.candidate
    texts = []
    if found.n_lost_true:
        ids = ", ".join(found.lost_true[:3])
        texts.append(f"it does not see {found.n_lost_true} alerts that operators called true ({ids})")
    n = max(0, candidate.n_alerts - found.n_kept_true)
    allowed = OVER_BUDGET * alerts_per_week * found.device_hours / HOURS_A_WEEK + SPARE_ALERTS
    if n > allowed:
        where = (
            f", {candidate.most_alerts} of {candidate.most_alerts_device}"
            if candidate.most_alerts_device
            else ""
        )
        texts.append(
            f"{n} alerts in {found.device_hours:.3g} hours of {found.n_devices} devices (+{found.n_gained} "
            f"-{found.n_lost}{where}), and the budget allows {allowed:.1f}"
        )
    ours, theirs = served.p_quantiles.get("q0.1", 1.0), candidate.p_quantiles.get("q0.1", 1.0)
    if theirs <= RARE_P and theirs * RARER <= ours:
        texts.append(
            f"what is normal to the model in service is rare to it: p <= {theirs:.2g} in a tenth of the windows, where that has "
            f"{ours:.2g}"
        )
    if candidate.n_windows < served.n_windows:
        texts.append(f"{served.n_windows - candidate.n_windows} of {served.n_windows} windows have no score")
    if candidate.n_failed > served.n_failed:
        texts.append(f"inference failed in {candidate.n_failed} batches")
    if candidate.invoke_us > max(SLOWER * served.invoke_us, FAST_US):
        texts.append(
            f"a window takes it {candidate.invoke_us:.3g} us, and the model in service {served.invoke_us:.3g} us"
        )
    return texts


def _held_out(found: Sequence[HeldOut], limits: Limits) -> list[str]:
    if all(_is_few(h, limits) for h in found):
        return ["nothing is known of devices that it has not seen: there are no feature rows of two devices"]
    return [
        f"leaving one device out, AUC is {h.mean:.4f} in the mean of {h.n_devices} devices by {h.anomalies} (worst "
        f"{h.worst:.4f}), and {limits.min_auc:g} are asked for"
        for h in found
        if not h.mean >= limits.min_auc and not _is_few(h, limits)
    ]


def _is_few(found: HeldOut, limits: Limits) -> bool:
    return found.anomalies == "labels" and found.n_devices < limits.min_labelled and math.isfinite(found.mean)


def _int8(figures: Figures, limits: Limits) -> list[str]:
    found = figures.int8
    if found is None:
        return (
            ["int8 could not be compared with float: there are no feature rows"] if figures.has_int8 else []
        )
    texts = []
    if not found.mean_loss <= limits.max_int8_loss:
        texts.append(
            f"int8 loses {found.mean_loss:.4f} AUC in the mean, at most {limits.max_int8_loss:g} may be"
        )
    if not found.worst_loss <= limits.max_int8_worst:
        texts.append(
            f"int8 loses {found.worst_loss:.4f} AUC on {found.worst_device}, at most {limits.max_int8_worst:g} may be"
        )
    return texts


def _for(enough: Sequence[Backtest], figures: Figures, limits: Limits) -> tuple[str, ...]:
    gained, lost = sum(b.n_gained for b in enough), sum(b.n_lost for b in enough)
    windows = sum(b.candidate.n_windows for b in enough)
    texts = [f"+{gained} -{lost} alerts in {windows} windows of {len(enough)} gateways"]
    texts += [
        f"AUC {h.mean:.4f} leaving one device out, by {h.anomalies} (worst of {h.n_devices}: {h.worst:.4f})"
        + (f": labels of {h.n_devices} devices are too few to decide by" if _is_few(h, limits) else "")
        for h in figures.held_out
    ]
    if figures.int8 is not None:
        i = figures.int8
        texts.append(
            f"int8 loses {i.mean_loss:.4f} AUC in the mean, {i.worst_loss:.4f} at worst: {i.mean_share:.1%} of the float "
            f"model's, {i.worst_share:.1%} at worst"
        )
    return tuple(texts)
