"""``[influx]`` of sink.toml."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from models.broker_options import Bytes, Name, Positive


class Influx(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[influx]``: where points for dashboards are written; without ``url`` nowhere."""

    url: Name | None = None
    version: Literal["1", "2"] = "2"
    org: str = ""
    bucket: Name = "linewatch"
    retention_policy: Name | None = None
    username: Name | None = None
    token_file: Path | None = None
    token_env: Name | None = None
    ca_file: Path | None = None
    timeout_s: Positive = 10.0
    queue: Name = "influx-queue.sqlite"
    queue_bytes: Bytes = 256 << 20
