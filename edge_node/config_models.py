"""Rules on ``model`` and ``fleet_model``: a device whose model is not there, cannot be learned or could never be taken over is
told what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

from edge_node.config_devices import (
    LEARN,
    NO_MODEL,
    ODD,
    channels_of,
    in_samples,
    learned_features,
    mode_of,
    rate_of,
)
from edge_node.config_schema import DeviceSection
from models.commissioning import USUAL_WINDOWS
from models.config_partial import known
from models.config_validation import Problem, nearest
from models.features import VERSIONS, FeatureSpec, describe
from models.runtime import can_write_graphs
from models.signal import Channel, Mode

MAX_MODELS = 1000  # that are looked at for one that is meant
_LEARNED_BY = (
    "features",
    "mode",
    "rate_hz",
    "interval_s",
    "window",
    "window_s",
    "channels",
    "backend",
    "precision",
)


def check_models(
    sections: Mapping[int, DeviceSection], inheriting: Collection[int], config: Path, *, lacks: str | None
) -> Iterator[Problem]:
    """All that is wrong with the models of ``sections``, by index in the file ``config``, of which parts may be UNKNOWN;
    those in ``inheriting`` have their ``fleet_model`` from [defaults]. ``lacks``: what keeps models that are published from
    being taken."""
    sections = {i: section for i, section in sections.items() if known(section) and known(section.model)}
    for i, section in sections.items():
        if section.model == LEARN and known(*(getattr(section, key) for key in _LEARNED_BY)):
            yield from (replace(p, path=("device", i, *p.path)) for p in _check_learning(section))
    for i, section in sections.items():
        if section.fleet_model is not None and known(section.fleet_model):
            for text in _check_fleet(section, i in inheriting, lacks):
                yield Problem(("device", i, "fleet_model"), text, section.fleet_model, True)
    base = config.absolute().parent
    for i, section in sections.items():
        name = section.model
        if name is None or name in (NO_MODEL, LEARN) or (manifest := base / name / "manifest.json").is_file():
            continue
        hint = nearest(name, [*_models_beside(name, base), LEARN, NO_MODEL]) or "; cloud-sink train makes one"
        yield Problem(
            ("device", i, "model"), f"there is no model here ({manifest} does not exist){hint}", name, True
        )


def _check_learning(section: DeviceSection) -> Iterator[Problem]:
    """What keeps a device from learning its model by itself."""
    if not can_write_graphs():
        text = (
            "learning on the gateway needs ai-edge-litert, which is not installed: pip install 'linewatch[edge]', or name "
            "a model"
        )
        yield Problem(("model",), text, LEARN, True)
    if section.backend == "edgetpu":
        text = (
            'what a gateway learns by itself runs on the CPU alone: set "auto" or "cpu", or name a model made by '
            "cloud-sink train"
        )
        yield Problem(("backend",), text, section.backend, True)
    if section.precision == "int8":
        text = "what a gateway learns by itself is float32: leave this out, or name a model made by cloud-sink train"
        yield Problem(("precision",), text, section.precision, True)
    rate_hz = rate_of(section)
    if rate_hz is None:  # check_device says what is wrong with it
        return
    feature_set = learned_features(section)
    if mode_of(section) is Mode.BURST and section.window is None and section.window_s is None:
        text = 'window is missing: model = "learn" with mode = "burst" needs the number of samples in a burst'
        yield Problem((), text)
        return
    with contextlib.suppress(ValueError):  # check_device says what is wrong with it
        n = in_samples(section.window, section.window_s, rate_hz) or USUAL_WINDOWS[feature_set][0]
        channels = tuple(Channel(name=channel.name) for channel in channels_of(section))
        try:
            describe(FeatureSpec(set=feature_set, version=VERSIONS[feature_set][-1]), channels, rate_hz, n)
        except ValueError as error:
            key = "window" if section.window_s is None else "window_s"
            yield Problem(
                (key,),
                f"{feature_set} features cannot be learned with it: {error}",
                getattr(section, key),
                True,
            )


def _check_fleet(section: DeviceSection, inherits: bool, lacks: str | None) -> Iterator[str]:
    """What keeps a fleet's model from taking over."""
    if section.model != LEARN:
        if not inherits:
            yield (
                'it takes the place of what a device learns by itself: set model = "learn", or leave it out (a model that is '
                "named is replaced by versions of its own id)"
            )
    elif ODD.search(section.fleet_model or ""):
        yield "no model can be published under this name: use letters, digits, '.', '_' and '-'"
    elif lacks is not None:
        yield f"no model that is published is ever taken here: {lacks}"


def lacks_to_take_models(raw: Mapping[str, Any]) -> str | None:
    """What the file lacks for models to be taken over MQTT, as what to do; None: nothing."""
    if "uplink" not in raw:
        return "add an [uplink]"
    models = raw.get("models", {})
    if isinstance(models, dict) and not models.get("trusted_keys"):
        return "name the public key that it is signed with in [models] trusted_keys (cloud-sink keygen makes one)"
    return None


def _models_beside(name: str, base: Path) -> list[str]:
    """Models in the folder that ``name`` is in, or in folders of ``base``, spelt as ``name`` would spell them."""
    folder = Path(name).parent
    near = (folder / found.parent.name for found in (base / folder).glob("*/manifest.json"))
    far = (found.parent.relative_to(base) for found in base.glob("*/*/manifest.json"))
    return [str(path) for path in islice(chain(near, far), MAX_MODELS)]
