"""How a configuration says where an MQTT broker is and how to be let in; and types that its numbers have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec

MqttVersion = Literal["3.1.1", "5"]
LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["auto", "human", "json"]

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
PortOrOff = Annotated[int, msgspec.Meta(ge=0, le=65535)]
Name = Annotated[str, msgspec.Meta(min_length=1)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
NotNegative = Annotated[float, msgspec.Meta(ge=0)]
Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=1)]
CountOrZero = Annotated[int, msgspec.Meta(ge=0)]
Bytes = Annotated[int, msgspec.Meta(ge=1_000_000)]


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tls = {…}`` of a broker; an empty table is TLS with the system's certificate authorities."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    verify_host: bool = True


class Broker(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to reach an MQTT broker. The password itself is read when connecting."""

    host: Name
    port: Port | None = None
    version: MqttVersion = "5"
    client_id: Name | None = None
    username: Name | None = None
    password_file: Path | None = None
    password_env: Name | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 30
    reconnect_min_s: Positive = 1.0
    reconnect_max_s: Positive = 60.0

    @property
    def address(self) -> tuple[str, int]:
        """Host and port; the port is 1883, or 8883 with TLS, unless given."""
        return self.host, self.port or (8883 if self.tls is not None else 1883)
