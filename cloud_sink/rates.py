"""At which rate a table of bursts is read where nobody said it."""

from __future__ import annotations

import dataclasses

import msgspec

from cloud_sink.cutting import Request
from models.log_rates import are_coarse
from models.recording import inspect_log, is_block_log, log_files, read_log
from models.signal import Mode, SampleBlock


def as_served(request: Request) -> Request:
    """``request`` with the rate found, where a table holds bursts of one device, its times are coarser than the sampling
    and no rate was given: read with it, rows are the uniform samples that a gateway gets."""
    options, file = request.options, log_files(request.logs)[0]
    if options.rate_hz is not None or is_block_log(file):
        return request
    info = inspect_log(file, options, device=request.device)
    if info.mode is not Mode.BURST or request.mode not in (None, Mode.BURST) or len(info.device_ids) != 1:
        return request
    first = next(
        (item for item in read_log(file, options, warn=lambda _: None) if isinstance(item, SampleBlock)), None
    )
    if first is None or not are_coarse(first.times()):
        return request
    options = msgspec.structs.replace(options, rate_hz=info.rate_hz)
    return dataclasses.replace(request, options=options, mode=info.mode)
