"""What a gateway remembers of the versions of one model, and which of them it may go to.

Invariant: a version never goes back except by a signed order that names the version which it takes back, and each order
is carried out once; a version that was rolled back here, or taken back, is never served again. Pure.
"""

from __future__ import annotations

import msgspec

from models.manifest import ModelManifest
from models.refusals import RefusalReason

MAX_STARTS = 5  # in a row, of a gateway that does not live for long with a version that is still watched


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A version that is on the shelf. ``digest``: of its manifest."""

    version: int
    digest: str
    canary: bool = False


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """``current``: the version that was adopted; ``before``: the one that it took the place of (None: what the
    configuration names). ``floor``: the highest version adopted from stable, or taken back; ``highest_canary`` likewise of
    canaries. ``banned``: versions that are never served again, and why. ``rollback_ns``: when the last order to go back was
    issued. ``adopted_ns`` and ``n_starts`` (since it last lived for long) are of the current version."""

    format: int = 1
    current: Kept | None = None
    before: Kept | None = None
    floor: int = 0
    highest_canary: int = 0
    banned: dict[int, RefusalReason] = {}
    rollback_ns: int = 0
    adopted_ns: int = 0
    n_starts: int = 0


class NotAdmitted(Exception):
    """A version that may not be gone to: ``reason`` and a text."""

    def __init__(self, reason: RefusalReason, text: str) -> None:
        super().__init__(text)
        self.reason = reason


def check_version(record: Record, manifest: ModelManifest, serving: int, *, canary: bool) -> None:
    """Raises NotAdmitted unless this gateway may go from version ``serving`` of the same track to ``manifest``."""
    version = manifest.version
    if (why := record.banned.get(version)) is not None:
        raise NotAdmitted(
            RefusalReason.MISBEHAVED,
            f"version {version} was rolled back here before ({why}): publish another version",
        )
    floor = max(record.floor, serving, record.highest_canary if canary else 0)
    if version > floor:
        return
    rollback = manifest.rollback
    if rollback is msgspec.UNSET:
        raise NotAdmitted(
            RefusalReason.NOT_NEWER,
            f"version {version} is not above {floor}, and no order to go back (cloud-sink sign --takes-back)",
        )
    if rollback.takes_back != serving:
        raise NotAdmitted(
            RefusalReason.NOT_NEWER,
            f"it takes back version {rollback.takes_back}, and {serving} is served here",
        )
    if rollback.issued_ns <= record.rollback_ns:
        raise NotAdmitted(RefusalReason.NOT_NEWER, "it is an order to go back that was carried out before")


def adopted(record: Record, manifest: ModelManifest, digest: str, now_ns: int, *, canary: bool) -> Record:
    """``record`` once ``manifest`` serves."""
    floor, banned, rollback_ns = record.floor, dict(record.banned), record.rollback_ns
    if not canary:
        floor = max(floor, manifest.version)
    if (rollback := manifest.rollback) is not msgspec.UNSET:
        banned[rollback.takes_back] = RefusalReason.TAKEN_BACK
        floor = max(floor, rollback.takes_back)
        rollback_ns = max(rollback_ns, rollback.issued_ns)
    before = record.current
    if before is not None and (before.canary or before.version in banned):
        before = record.before  # what was on trial, or is banned, is nothing to go back to
    return msgspec.structs.replace(
        record,
        current=Kept(version=manifest.version, digest=digest, canary=canary),
        before=before,
        floor=floor,
        highest_canary=max(record.highest_canary, manifest.version) if canary else record.highest_canary,
        banned=banned,
        rollback_ns=rollback_ns,
        adopted_ns=now_ns,
        n_starts=0,
    )


def gone_back(record: Record, reason: RefusalReason, now_ns: int, *, ban: bool) -> Record:
    """``record`` once the version before serves again, because of ``reason``."""
    assert record.current is not None
    banned = {**record.banned, record.current.version: reason} if ban else record.banned
    return msgspec.structs.replace(
        record, current=record.before, before=None, banned=banned, adopted_ns=now_ns, n_starts=0
    )


def promoted(record: Record) -> Record:
    """``record`` once the canary that serves is what every gateway is told to serve."""
    assert record.current is not None
    current = msgspec.structs.replace(record.current, canary=False)
    return msgspec.structs.replace(record, current=current, floor=max(record.floor, current.version))


def serves(record: Record, configured: int) -> bool:
    """Whether the adopted version goes before the ``configured`` one."""
    current = record.current
    return current is not None and (current.version > configured or configured in record.banned)
