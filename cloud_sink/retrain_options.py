"""``[retrain]`` of sink.toml."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from cloud_sink.bundle import BundleError, read_manifest
from models.broker_options import Count, Name, Positive
from models.config_partial import as_far_as_known, given, sure
from models.config_validation import Problem
from models.keys import KeyUnusable, read_private_key
from models.toml_positions import KeyPath
from models.topics import check_level


class RetrainModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[[retrain.model]]``: a model that is trained again. ``like``: its bundle in service; a newer version that was promoted
    takes its place by itself."""

    like: Path
    key_file: Path
    canaries: tuple[Name, ...]
    class_: Name | None = msgspec.field(name="class", default=None)
    on_drift: bool = True
    every_days: Positive | None = None
    new_windows: Count | None = None
    rest_hours: Positive = 24.0
    days: Positive = 30.0
    backtest_hours: Positive = 24.0
    min_gateways: Count = 3
    min_windows: Count = 1000
    wait_s: Positive = 900.0
    hours: Positive = 24.0
    windows: Count = 1000
    alerts_per_week: Positive = 1.0


class Retrain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[retrain]``: when models are trained again without anybody asking; without a model, never."""

    look_s: Annotated[float, msgspec.Meta(ge=0.1, le=86_400)] = 3600.0
    folder: Name = "retraining"
    minutes: Positive = 60.0
    memory_mb: Annotated[int, msgspec.Meta(ge=256, le=1_000_000)] = 4096
    summaries_per_point: Count = 12
    model: tuple[RetrainModel, ...] = ()


def check_retrain(retrain: Retrain, *, files: bool) -> Iterator[Problem]:
    """What is wrong with the gateways and reasons that it names, and with bundles and keys where ``files`` are to be looked at:
    who asks what there is to see may have no right to the keys."""
    seen: set[str] = set()
    for i, model in enumerate(sure(retrain.model)):
        at: KeyPath = ("retrain", "model", i)
        checks = [_check_canaries(model, at), _check_reasons(model, at)]
        if files:
            checks += [_check_like(model, at, seen), _check_key(model, at)]
        yield from as_far_as_known(*checks)


def _check_like(model: RetrainModel, at: KeyPath, seen: set[str]) -> Iterator[Problem]:
    here = (*at, "like")
    try:
        manifest = read_manifest(sure(model.like))
    except BundleError as error:
        yield Problem(here, str(error), str(model.like), True)
        return
    if manifest.model_id in seen:
        yield Problem(
            here, f"model {manifest.model_id} has a [[retrain.model]] already", str(model.like), True
        )
    seen.add(manifest.model_id)
    if not given(model.class_) and not manifest.class_:
        text = f"the bundle says no class of machines: set class to that of the devices that run {manifest.model_id}"
        yield Problem(here, text, str(model.like), True)


def _check_key(model: RetrainModel, at: KeyPath) -> Iterator[Problem]:
    try:
        read_private_key(sure(model.key_file))
    except KeyUnusable as error:
        yield Problem((*at, "key_file"), str(error), str(model.key_file), True)


def _check_canaries(model: RetrainModel, at: KeyPath) -> Iterator[Problem]:
    if not sure(model.canaries):
        yield Problem((*at, "canaries"), "name a gateway or more: a candidate goes to them first")
    for j, gateway in enumerate(model.canaries):
        site, slash, name = sure(gateway).rpartition("/")
        try:
            check_level(name, "the name of a gateway")
            if slash:
                check_level(site, "the name of a site")
        except ValueError as error:
            yield Problem((*at, "canaries", j), str(error), gateway, True)


def _check_reasons(model: RetrainModel, at: KeyPath) -> Iterator[Problem]:
    if not (sure(model.on_drift) or given(model.every_days) or given(model.new_windows)):
        yield Problem(at, "there is no reason to train it: set every_days or new_windows, or on_drift = true")
