"""What to say of a replay in which a device was not scored at all: why not, and what would help. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_node.plans import DevicePlan
from models.alerting import duration
from models.signal import DropReason, samples_to_ns


def advice(
    plans: tuple[DevicePlan, ...],
    rows_of: Mapping[str, int],
    scored: Mapping[str, int],
    window_drops: Mapping[DropReason, int],
    *,
    span_ns: int,
    named_by_file: str | None,
) -> Iterator[str]:
    """One sentence per cause. ``rows_of`` and ``scored``: rows and windows by device; ``span_ns``: from the log's
    first row to its last; ``named_by_file``: the device that a log without device names was taken for."""
    known = {plan.device.device_id for plan in plans}
    unknown = sorted(set(rows_of) - known)
    if unknown:
        said = f"rows of {', '.join(unknown)} were left out: the configuration has {', '.join(sorted(known))}"
        if unknown == [named_by_file]:
            said += "; the log names no device, so say whose it is with --device"
        elif len(rows_of) == len(unknown):
            said += f"; rename a device there, or replay with --model BUNDLE --device {unknown[0]}"
        yield said
    for plan in plans:
        device = plan.device.device_id
        if plan.model is None or scored.get(device) or not rows_of.get(device):
            continue
        window, gate = plan.window, plan.gate
        length_ns = samples_to_ns(window.n - 1, window.rate_hz)
        if rows_of[device] < window.n and span_ns < length_ns:
            yield (
                f"{device}: a window needs {window.n} rows ({duration(window.window_ns)}), and the log has "
                f"{rows_of[device]}: replay a longer one"
            )
        elif gate is not None and gate.device_id not in rows_of and window_drops.get(DropReason.INACTIVE):
            yield (
                f"{device}: nothing was scored, for active_when watches {gate.device_id}.{gate.channel}, and the log "
                f"has no row of {gate.device_id}: what is not known counts as not running"
            )
