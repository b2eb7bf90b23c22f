"""Computers as files below a folder, for the checks of ``edge-node doctor``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edge_node.config import Config, load_config
from edge_node.doctor.findings import Finding
from edge_node.doctor.host import Discipline, Host

RIGHT = Discipline(True, 0.02)
NOW_S = 1_795_680_000.0  # in November 2026


class Computer:
    """A computer whose files a test lays down, and its :class:`Host`."""

    def __init__(self, root: Path, *, uid: int = 1000, groups: Iterable[int] = (1000,), **more: Any) -> None:
        self.root = root
        (root / "proc/self").mkdir(parents=True)
        fields = {"now_s": lambda: NOW_S, "discipline": lambda: RIGHT, "output": lambda command: None, **more}
        self.host = Host(root=root, uid=uid, groups=frozenset(groups), **fields)

    def file(self, path: str, text: str = "", mode: int = 0o644) -> Path:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(mode)
        return place

    def link(self, path: str, to: str) -> None:
        """Absolute paths both; made relative, as sysfs has them."""
        place, target = self.root / path.lstrip("/"), self.root / to.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target.resolve() if target.exists() else target)

    def usb(
        self, place: str, vid_pid: str, node_mode: int = 0o660, node_number: int = 7, **facts: str
    ) -> None:
        """A USB device at ``place``; ``facts``: files of it."""
        vid, pid = vid_pid.split(":")
        own = {"idVendor": vid, "idProduct": pid, "busnum": "1", "devnum": str(node_number)}
        for name, text in {**own, **facts}.items():
            self.file(f"/sys/bus/usb/devices/{place}/{name}", f"{text}\n")
        self.file(f"/dev/bus/usb/001/{node_number:03}", mode=node_mode)

    def tty(self, name: str, usb: str | None = None, mode: int = 0o660) -> None:
        """A serial port, of the USB device at ``usb``; else one that is built in."""
        where = f"/sys/devices/platform/{name}"
        if usb is not None:
            where = f"/sys/bus/usb/devices/{usb}/{usb}:1.0/{name}"
        self.file(f"{where}/kind")
        self.link(f"/sys/class/tty/{name}/device", where)
        self.file(f"/dev/{name}", mode=mode)

    def mounts(self, *lines: str) -> None:
        """Each "device place type options"."""
        text = ""
        for i, line in enumerate(lines):
            source, place, kind, options = line.split()
            text += f"{30 + i} 1 8:{i} / {place} {options} shared:{i} - {kind} {source} {options}\n"
        self.file("/proc/self/mountinfo", text)


def configured(folder: Path, *tables: str, gateway: str = "") -> Config:
    """A configuration of one device without a model, with ``tables`` in addition."""
    path = folder / "gateway.toml"
    device = '[[device]]\nid = "d"\nrate_hz = 10\nchannels = ["x"]\n'
    path.write_text(f'[gateway]\nname = "g"\n{gateway}\n{device}' + "\n".join(tables))
    return load_config(path)


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]
