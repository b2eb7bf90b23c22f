"""The user, the directory of the gateway's state, and the files that hold secrets."""

from __future__ import annotations

import dataclasses
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
from cryptography import x509

from edge_node.config import Config
from edge_node.doctor.findings import Finding, fail, ok, warn
from edge_node.doctor.host import Host
from edge_node.state_dir import LOCK_NAME, state_dir_of

_CERTIFICATES = ("cert_file", "ca_file")
_SOON_DAYS = 30
_RENEW = "renew it: docs/operations.md, Keys; it is read at the next connection, without a restart"
_SECRETS = ("password_file", "key_file", "token_file", "secret_file")


def user(host: Host, config: Path) -> Iterator[Finding]:
    """Who we are: what follows is judged for that user. ``config``: the configuration file."""
    name = _name(host.uid)
    if host.uid == 0:
        yield warn(
            "user",
            "root, who may open everything: what the gateway's own user may is not seen",
            f"run it as that user: sudo -u linewatch edge-node doctor -c {config}",
        )
        return
    yield ok("user", f"{name}, whom the following is judged for")


def state(host: Host, config: Config) -> Iterator[Finding]:
    """Whether what must survive a restart can be kept."""
    place = state_dir_of(config)
    found = host.stat(place)
    if found is None:
        parent = _nearest(host, place)
        if host.may(parent, os.W_OK | os.X_OK):
            yield ok("state", f"{place}: will be made")
        else:
            yield fail(
                "state",
                f"{place} is not there, and {parent} may not be written to by this user",
                f"sudo install -d -o {_name(host.uid)} -m 0700 {place}; as a service StateDirectory=linewatch makes it",
            )
    elif not stat.S_ISDIR(found.st_mode):
        yield fail("state", f"{place} is not a directory", "name another as [gateway] state_dir")
    elif not host.may(place, os.R_OK | os.W_OK | os.X_OK):
        yield fail("state", f"{place} may not be written to by this user", _opened(host, place, found))
    elif found.st_mode & 0o077:
        yield warn("state", f"{place} can be looked into by other users", f"chmod 700 {place}")
    else:
        running = "; a gateway runs with it" if gateway_runs(host, config) else ""
        yield ok("state", f"{place}: this user's alone{running}")


def set_aside(host: Host, config: Config) -> Iterator[Finding]:
    """What a gateway could not go on from, and has left for somebody to look at."""
    for file in host.glob(f"{state_dir_of(config).absolute()}/*.set-aside"):
        if (found := host.stat(file)) is not None:
            yield warn(
                "state",
                f"{file} ({found.st_size / 1e6:.1f} MB) could not be read by an earlier run, which began without it",
                "look at the disk (dmesg, smartctl); then delete it, or keep it for who can mend it",
            )


def _opened(host: Host, place: Path, found: os.stat_result) -> str:
    """The command by which this user may write to ``place``."""
    if found.st_uid == host.uid:
        return f"chmod u+rwx {place}"
    return f"sudo chown -R {_name(host.uid)} {place}"


def gateway_runs(host: Host, config: Config) -> bool:
    """Whether a process holds the lock of the state; nobody is kept from it by asking."""
    found = host.stat(state_dir_of(config) / LOCK_NAME)
    if found is None:
        return False
    device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(device in line.split() for line in (host.text("/proc/locks") or "").splitlines())


def secrets(host: Host, config: Config) -> Iterator[Finding]:
    """Whether keys and passwords can be read by this user, and by no other."""
    files = dict(files_of(config, _SECRETS))
    fine = 0
    for file, option in files.items():
        found = host.stat(file)
        if found is None:
            yield fail("keys", f"{option}: {file} is not there", "put it there, or correct the option")
        elif not host.may(file, os.R_OK):
            text = f"{option}: {file} may not be read by this user"
            yield fail("keys", text, f"sudo chown {_name(host.uid)} {file}")
        elif found.st_mode & 0o007:
            text = f"{option}: {file} can be read by every user (mode {stat.S_IMODE(found.st_mode):04o})"
            yield fail(
                "keys", text, f"chmod 600 {file}, and change what it holds if others have accounts here"
            )
        elif found.st_mode & 0o070:
            text = f"{option}: {file} can be read by its group (mode {stat.S_IMODE(found.st_mode):04o})"
            yield warn("keys", text, f"chmod 600 {file}, owned by the gateway's user")
        else:
            fine += 1
    if fine:
        yield ok("keys", f"{fine} file{'s' * (fine != 1)}, each its owner's alone")


def certificates(host: Host, config: Config) -> Iterator[Finding]:
    """How long those are good that the configuration names."""
    days = []
    for file, option in files_of(config, _CERTIFICATES):
        try:
            found = x509.load_pem_x509_certificates(host.path(file).read_bytes())
        except (OSError, ValueError):
            continue  # a configuration whose files cannot be read does not load
        left = min(c.not_valid_after_utc.timestamp() for c in found) - host.now_s()
        days.append(left / 86_400)
        text = f"{option}: {file} is good for {days[-1]:.0f} days"
        if left < 0:
            yield fail("certificates", f"{option}: {file} has expired", _RENEW)
        elif days[-1] < _SOON_DAYS:
            yield warn("certificates", text, _RENEW)
    if days and min(days) >= _SOON_DAYS:
        yield ok("certificates", f"{len(days)}, good for {min(days):.0f} days at least")


def files_of(config: Config, endings: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """(file, option) of every one that the configuration names by an option of such an ending."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for table in value if isinstance(value, tuple) else (value,):
            name = f"source {table.name}" if field.name == "sources" else field.name
            yield from _named(table, name, endings)


def _named(table: object, name: str, endings: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    if not isinstance(table, msgspec.Struct):
        return
    for key in table.__struct_fields__:
        value = getattr(table, key)
        if isinstance(value, Path) and key.endswith(endings):
            yield value, f"[{name}] {key}"
        else:
            yield from _named(value, f"{name}.{key}", endings)


def _nearest(host: Host, place: Path) -> Path:
    """The nearest directory above ``place`` that is there."""
    while place != place.parent and host.stat(place) is None:
        place = place.parent
    return place


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
