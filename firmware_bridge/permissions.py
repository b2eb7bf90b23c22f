"""Why a port may not be opened, and what to do about it."""

from __future__ import annotations

import grp
import os
import stat

COMMON_GROUP = "dialout"  # that serial ports belong to, on most systems
_GROUP_MAY = stat.S_IRGRP | stat.S_IWGRP


def who_may(path: str) -> str:
    """What follows "not permitted"."""
    try:
        found = os.stat(path)
    except OSError as error:
        return f": who may open it cannot be seen: {error.strerror}"
    mode = f"{stat.S_IMODE(found.st_mode):04o}"
    if found.st_uid == os.geteuid():
        return f": it is this user's, and its mode is {mode}; `chmod u+rw {path}`"
    group = _name_of(found.st_gid)
    if found.st_mode & _GROUP_MAY == _GROUP_MAY:
        return (
            f"; add the user to the group that owns it: `sudo usermod -aG {group} $USER`, then log in again"
        )
    return (
        f": its mode is {mode}, with which its group {group} may not read and write it; "
        f"`sudo chgrp {COMMON_GROUP} {path} && sudo chmod 660 {path}` lets group {COMMON_GROUP}, until the port is made "
        f'anew; for good a udev rule does, with GROUP="{COMMON_GROUP}", MODE="0660"'
    )


def _name_of(group: int) -> str:
    try:
        return grp.getgrgid(group).gr_name
    except KeyError:
        return str(group)
