"""What a gateway answers to a ``backtest``: counts, quantiles and ids, never signal. Pure.

Invariant: a :class:`Backtest` is bounded, whatever was replayed: ids are cut at ``MAX_IDS`` and counted in full.
"""

from __future__ import annotations

import math

import msgspec

MAX_IDS = 32  # of each list
MAX_NOTES = 8
QUANTILES = (0.001, 0.01, 0.1, 0.5)
_MAX_TEXT = 300


class Side(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two models made of the signal: windows that it scored, machine and drift alerts that it raised,
    quantiles of its p-values ("q0.01": ...), how long a window takes it (0: nothing was scored), batches that failed, and
    the device that it raises most of them for."""

    n_windows: int
    n_alerts: int
    n_failed: int = 0
    p_quantiles: dict[str, float] = {}
    invoke_us: float = 0.0
    most_alerts_device: str | None = None
    most_alerts: int = 0


class Backtest(msgspec.Struct, frozen=True, kw_only=True):
    """A candidate beside the model in service, on the same recorded signal.

    ``sha256``: of the candidate's signed manifest, as it was published. ``start_ns`` and ``end_ns`` of the signal, by
    arrival; ``device_hours``: that the model in service has scored, over all of ``n_devices``. An alert of one side is *kept*
    where the other has one of its kind and device at the time, else *gained* (the candidate's) or *lost*. What operators said
    of those in service: ``lost_true``, ``n_kept_true``, ``n_lost_false``. ``notes``: what whoever asked should know.
    ``windows_per_s``: of both, replayed. ``n_from_features``: windows that the model in service judged from logged features, of
    its ``n_windows``; the others from raw signal."""

    model_id: str
    version: int
    against: int
    sha256: str
    start_ns: int
    end_ns: int
    n_devices: int
    device_hours: float
    served: Side
    candidate: Side
    n_kept: int
    n_gained: int
    n_lost: int
    gained: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    n_lost_true: int = 0
    lost_true: tuple[str, ...] = ()
    n_lost_false: int = 0
    n_kept_true: int = 0
    windows_per_s: float = 0.0
    n_from_features: int = 0
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """It in a sentence."""
        days = (self.end_ns - self.start_ns) / 86_400e9
        span = f"{days:.1f} days" if days >= 1 else f"{days * 24:.1f} hours"
        lost = f", {self.n_lost_true} of these called true alarms" if self.n_lost_true else ""
        features = f", {self.n_from_features} of them from features" if self.n_from_features else ""
        return (
            f"version {self.version} against {self.against} on the last {span}: +{self.n_gained} -{self.n_lost} alerts{lost}, "
            f"{self.n_kept} in both; {self.candidate.n_windows} windows of {self.n_devices} devices{features}"
        )


def noted(texts: list[str]) -> tuple[str, ...]:
    """``texts`` for ``notes``: each once, bounded."""
    unique = list(dict.fromkeys(text[:_MAX_TEXT] for text in texts))
    if len(unique) > MAX_NOTES:
        unique[MAX_NOTES - 1 :] = [f"and {len(unique) - MAX_NOTES + 1} more like these"]
    return tuple(unique)


def flaw(found: Backtest) -> str | None:
    """What cannot be in ``found``, of which nothing is believed; None where all can."""
    for name, side in (("served", found.served), ("candidate", found.candidate)):
        counts = (side.n_windows, side.n_alerts, side.n_failed, side.most_alerts)
        if min(counts) < 0 or side.n_alerts > side.n_windows or side.most_alerts > side.n_alerts:
            return f"{name}: its counts cannot be"
        if not (math.isfinite(side.invoke_us) and side.invoke_us >= 0.0):
            return f"{name}: a window takes {side.invoke_us} us"
        values = list(side.p_quantiles.values())
        if len(values) > len(QUANTILES) or not all(0.0 <= p <= 1.0 for p in values):
            return f"{name}: its p-values are not from 0 to 1"
    if not (math.isfinite(found.device_hours) and found.device_hours >= 0.0 and found.n_devices >= 0):
        return f"{found.device_hours} hours of {found.n_devices} devices"
    if not 0 <= found.n_from_features <= found.served.n_windows:
        return f"{found.n_from_features} of {found.served.n_windows} windows come from features"
    if found.end_ns < found.start_ns:
        return "it ends before it begins"
    changed = (
        found.n_kept,
        found.n_gained,
        found.n_lost,
        found.n_lost_true,
        found.n_lost_false,
        found.n_kept_true,
    )
    if min(changed) < 0 or found.n_lost_true + found.n_lost_false > found.n_lost:
        return "its counts of changed alerts cannot be"
    if found.n_gained > found.candidate.n_alerts or found.n_lost + found.n_kept != found.served.n_alerts:
        return "its changed alerts are not those of its sides"
    if any(len(ids) > MAX_IDS for ids in (found.gained, found.lost, found.lost_true)):
        return f"it names more than {MAX_IDS} alerts"
    if len(found.notes) > MAX_NOTES or any(len(note) > _MAX_TEXT for note in found.notes):
        return "it has too much to say"
    return None
