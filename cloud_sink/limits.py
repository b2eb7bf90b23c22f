"""What a sink believes of a gateway: numbers of sink.toml. Pure."""

from __future__ import annotations

from typing import Annotated

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: what is believed of a gateway."""

    max_message_bytes: Annotated[int, msgspec.Meta(ge=1024, le=268_435_455)] = 1 << 20
    max_future_s: Annotated[float, msgspec.Meta(ge=0)] = 300.0
    max_age_days: Annotated[float, msgspec.Meta(gt=0)] = 90.0
    max_devices_per_gateway: Annotated[int, msgspec.Meta(ge=1)] = 2_000
    max_features: Annotated[int, msgspec.Meta(ge=1)] = 512
    max_reservoir: Annotated[int, msgspec.Meta(ge=1)] = 1_024
