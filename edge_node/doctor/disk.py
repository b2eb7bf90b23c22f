"""The disk that the state is kept on: room, kind, how it is mounted, and how much is written to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_node.cli_plan import span
from edge_node.config import Config
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host
from edge_node.planning import Plan
from edge_node.state_dir import state_dir_of
from models.wording import size

_VOLATILE = ("tmpfs", "ramfs")
_REMOTE = ("nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs")
_NO_JOURNAL = ("vfat", "exfat", "msdos", "ext2")
_CARD_DAY_BYTES = 2_000_000_000  # a card of 32 GB is written over once in two weeks
_LEAST_FREE = 200_000_000  # the system wants some as well


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo."""

    place: Path
    kind: str
    source: str
    options: frozenset[str]


def mount_of(host: Host, place: Path) -> Mount | None:
    """The mount that ``place`` is on."""
    best: Mount | None = None
    for line in (host.text("/proc/self/mountinfo") or "").splitlines():
        left, _, right = line.partition(" - ")
        fields, tail = left.split(), right.split()
        if len(fields) < 6 or len(tail) < 3:
            continue
        at = Path(re.sub(r"\\([0-7]{3})", lambda m: chr(int(m[1], 8)), fields[4]))
        if place.is_relative_to(at) and (best is None or len(at.parts) >= len(best.place.parts)):
            options = frozenset((*fields[5].split(","), *tail[2].split(",")))
            best = Mount(at, tail[0], tail[1], options)
    return best


def disk(host: Host, config: Config, plan: Plan | None) -> Iterator[Finding]:
    """``plan``: what the configuration takes (None: its models do not load, so nobody knows)."""
    place = state_dir_of(config)
    while host.stat(place) is None and place != place.parent:
        place = place.parent
    place = host.real(place)
    yield from _room(host, place, plan)
    mount = mount_of(host, place)
    if mount is None:
        return
    what = f"{mount.kind} on {mount.place}"
    if mount.kind in _VOLATILE:
        yield fail("disk", f"{what} is memory: the state is lost when the power is", _ELSEWHERE)
    elif mount.kind in _REMOTE:
        yield warn("disk", f"{what} is another computer's: its outbox cannot be relied on there", _ELSEWHERE)
    elif mount.kind in _NO_JOURNAL:
        yield warn("disk", f"{what} has no journal: a power cut can damage it", "use ext4, or " + _ELSEWHERE)
    elif mount.kind == "overlay":
        yield warn("disk", f"{what}: what is written may be gone after a restart", _ELSEWHERE)
    elif "ro" in mount.options:
        yield fail(
            "disk",
            f"{what} is mounted read-only",
            "a damaged file system? see dmesg; then: mount -o remount,rw",
        )
    else:
        yield from _durable(host, mount, what, plan)


def _room(host: Host, place: Path, plan: Plan | None) -> Iterator[Finding]:
    try:
        found = os.statvfs(host.path(place))
    except OSError as error:
        yield fail("disk", f"{place}: {error.strerror}", _ELSEWHERE)
        return
    free = found.f_bavail * found.f_frsize
    needed = _LEAST_FREE + (0 if plan is None else plan.outbox_bytes)
    text = f"{size(free)} free at {place}"
    if plan is not None:
        text += f"; {span(plan.offline_s)} without the broker take {size(plan.outbox_bytes)}"
        if plan.black_box_bytes:
            text += f", the black box up to {size(plan.black_box_bytes)}"
        if plan.feature_log_bytes:
            text += f", the feature log up to {size(plan.feature_log_bytes)}"
    if free < needed:
        yield fail("disk", text, f"make room: {size(needed)} with what the system wants")
    else:
        yield ok("disk", text)


def _durable(host: Host, mount: Mount, what: str, plan: Plan | None) -> Iterator[Finding]:
    card = _card(host, mount.source)
    day = 0 if plan is None else plan.day_bytes
    on = "" if card is None else f", the SD card {card}"
    if mount.options.isdisjoint(("noatime", "relatime")):
        yield warn(
            "disk",
            f"{what}{on} writes the time of every read",
            f"add noatime to the options of {mount.place} in /etc/fstab",
        )
    elif card is not None and day > _CARD_DAY_BYTES:
        yield warn(
            "disk",
            f"{what}{on}: up to {size(day)} a day are written, which wears a card out",
            "use an SSD, an eMMC, or a card of the endurance kind; or write less: [gateway] checkpoint_s",
        )
    else:
        atime = "noatime" if "noatime" in mount.options else "relatime"
        yield ok("disk", f"{what}{on}, {atime}" + (f"; up to {size(day)} a day are written" if day else ""))


def _card(host: Host, source: str) -> str | None:
    """The name of the SD card that block device ``source`` is on."""
    name = host.real(source).name if source.startswith("/") else ""
    found = re.match(r"mmcblk\d+", name)
    if found is None or host.text(f"/sys/block/{found[0]}/device/type") != "SD":
        return None
    return host.text(f"/sys/block/{found[0]}/device/name") or found[0]


_ELSEWHERE = "set [gateway] state_dir to a directory on a disk of this computer"
