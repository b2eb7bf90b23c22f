"""Rules on ``model``: a device that names a model which is not there, or that asks to learn one, is told how to get it."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Collection, Iterator, Mapping
from itertools import chain, islice
from pathlib import Path

from edge_node.config_devices import LEARN, NO_MODEL, in_samples, listed, rate_of
from edge_node.config_schema import DeviceSection
from models.config_partial import known
from models.config_validation import Problem, nearest, show

VIBRATION_FROM_HZ = 100
MAX_MODELS = 1000  # that are looked at for one that is meant
_TRAINED_BY = ("id", "features", "mode", "rate_hz", "interval_s", "window", "window_s", "hop", "hop_s")
_ODD = re.compile(r"[^A-Za-z0-9._-]+")  # what the name of a model may not hold


def check_models(
    sections: Mapping[int, DeviceSection], inheriting: Collection[int], config: Path
) -> Iterator[Problem]:
    """All that is wrong with the models of ``sections``, by index in the file ``config``, of which parts may be UNKNOWN;
    those in ``inheriting`` have theirs from [defaults], of which is said once what would be the same for all of them."""
    sections = {i: section for i, section in sections.items() if known(section) and known(section.model)}
    learning = [i for i, section in sections.items() if section.model == LEARN and _says_how(section)]
    shared = [i for i in learning if i in inheriting]
    for i in learning:
        if i not in shared:
            yield _cannot_learn(i, [sections[i]], config)
    if shared:
        yield _cannot_learn(shared[0], [sections[i] for i in shared], config)
    base = config.absolute().parent
    for i, section in sections.items():
        name = section.model
        if name is None or name in (NO_MODEL, LEARN) or (manifest := base / name / "manifest.json").is_file():
            continue
        hint = nearest(name, _models_beside(name, base)) or "; cloud-sink train makes one"
        yield Problem(
            ("device", i, "model"), f"there is no model here ({manifest} does not exist){hint}", name, True
        )


def _says_how(section: DeviceSection) -> bool:
    return known(*(getattr(section, key) for key in _TRAINED_BY))


def _cannot_learn(i: int, sections: list[DeviceSection], config: Path) -> Problem:
    first, others = sections[0], [show(section.id) for section in sections[1:]]
    folder = config.parent / "models" / (_ODD.sub("-", first.id).strip("._-") or "model")
    train = [
        "cloud-sink",
        "train",
        "healthy.parquet",
        "--device",
        first.id,
        *_as_configured(first),
        "-o",
        str(folder),
    ]
    record = ["edge-node", "record", "-c", str(config), "-o", "healthy.parquet"]
    likewise = f" (and likewise for {listed(others)})" if others else ""
    text = (
        f"a gateway cannot learn by itself yet; make a model with: {shlex.join(record)}; then: {shlex.join(train)}"
        f"{likewise}; then set model = {show(f'models/{folder.name}')}{' there' if others else ''}"
    )
    return Problem(("device", i, "model"), text, LEARN, True)


def _as_configured(section: DeviceSection) -> Iterator[str]:
    """Options of the training for what the section decides."""
    rate_hz = rate_of(section)
    vibration = rate_hz is not None and rate_hz >= VIBRATION_FROM_HZ
    yield from ("--features", section.features or ("vibration" if vibration else "slow"))
    if rate_hz is None:
        return
    for key in ("window", "hop"):
        with contextlib.suppress(ValueError):  # check_device says what is wrong with it
            n = in_samples(getattr(section, key), getattr(section, f"{key}_s"), rate_hz)
            if n is not None:
                yield from (f"--{key}", str(n))


def _models_beside(name: str, base: Path) -> list[str]:
    """Models in the folder that ``name`` is in, or in folders of ``base``, spelt as ``name`` would spell them."""
    folder = Path(name).parent
    near = (folder / found.parent.name for found in (base / folder).glob("*/manifest.json"))
    far = (found.parent.relative_to(base) for found in base.glob("*/*/manifest.json"))
    return [str(path) for path in islice(chain(near, far), MAX_MODELS)]
