"""``model``: one that is not there, and one that is to be learned."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_node.config import ConfigError, load_config
from edge_node.config_models import MAX_MODELS

GATEWAY = '[gateway]\nname = "g1"\nmetrics_port = 0\n'
CANNOT = 'model = "learn": a gateway cannot learn by itself yet; make a model with: '


def device(name: str, extra: str = "", rate_hz: int = 1000) -> str:
    return f'[[device]]\nid = "{name}"\nrate_hz = {rate_hz}\nchannels = ["x", "y"]\n{extra}\n'


def errors(path: Path, text: str) -> list[str]:
    """The lines of the ConfigError for ``text``, without the folder."""
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


def model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")


def test_a_model_that_is_not_there_is_what_training_makes(tmp_path: Path) -> None:
    assert errors(tmp_path / "gateway.toml", GATEWAY + device("press-4", 'model = "models/press"')) == [
        'gateway.toml:8: [[device]] "press-4": model = "models/press": there is no model here '
        "(models/press/manifest.json does not exist); cloud-sink train makes one"
    ]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("m/valve1-99", "m/valve1-9"),
        ("m/valv1-0", "m/valve1-0"),
        ("./m/valv1-0", "m/valve1-0"),
        ("models/valve1-9", "m/valve1-9"),
        ("{abs}/m/valve1-90", "{abs}/m/valve1-9"),
        ("m/press", None),
        ("m/scratch9", None),
    ],
)
def test_a_model_that_may_be_meant_is_named(tmp_path: Path, given: str, meant: str | None) -> None:
    for name in ("valve1-0", "valve1-2", "valve1-9"):
        model(tmp_path / "m" / name)
    (tmp_path / "m" / "scratch").mkdir()  # is no model
    path = tmp_path / "gateway.toml"
    (line,) = errors(path, GATEWAY + device("pump", f'model = "{given.format(abs=tmp_path)}"'))
    hint = "cloud-sink train makes one" if meant is None else f'did you mean "{meant}"?'
    assert line.endswith(f" does not exist); {hint.format(abs=tmp_path).replace(f'{tmp_path}/', '')}")


def test_models_that_are_looked_at_are_bounded(tmp_path: Path) -> None:
    for i in range(MAX_MODELS + 2):
        model(tmp_path / "m" / f"a{i}")
    (line,) = errors(tmp_path / "gateway.toml", GATEWAY + device("pump", 'model = "m/a77x"'))
    assert "did you mean" in line


def test_learning_is_refused_with_commands_that_name_file_and_device(tmp_path: Path) -> None:
    path = tmp_path / "hall 3.toml"
    text = GATEWAY + device("press-4", 'window_s = 0.064\nhop = 32\nmodel = "learn"')
    record = f"edge-node record -c '{path}' -o healthy.parquet"
    train = (
        "cloud-sink train healthy.parquet --device press-4 --features vibration --window 64 --hop 32 "
        f"-o {tmp_path}/models/press-4"
    )
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(caught.value) == (
        f'{path}:10: [[device]] "press-4": {CANNOT}{record}; then: {train}; then set model = "models/press-4"'
    )


def test_what_the_defaults_would_learn_is_said_once(tmp_path: Path) -> None:
    devices = "".join(device(name, rate_hz=1) for name in ("a b", "meter", "c", "d", "e", "f", "g"))
    own = device("press-4", 'model = "learn"')
    text = GATEWAY + '[defaults]\nmodel = "learn"\n' + devices + own
    first, second = errors(tmp_path / "gateway.toml", text)
    assert first == (
        f"gateway.toml:5: [defaults]: {CANNOT}edge-node record -c gateway.toml -o healthy.parquet; then: cloud-sink "
        'train healthy.parquet --device \'a b\' --features slow -o models/a-b (and likewise for "meter", "c", '
        '"d", "e", "f" and 1 more); then set model = "models/a-b" there'
    )
    assert second.startswith(f'gateway.toml:45: [[device]] "press-4": {CANNOT}')


def test_the_commands_do_what_they_say(tmp_path: Path) -> None:
    values = np.round(np.random.default_rng(1).normal(size=(1500, 2)), 3)
    lines = [f"{1_700_000_000 + i},{x},{y}" for i, (x, y) in enumerate(values.tolist())]
    (tmp_path / "sensors.csv").write_text("\n".join(["time,x,y", *lines]) + "\n")
    source = '[[source]]\ntype = "replay"\npaths = ["sensors.csv"]\nspeed = "max"\ndevice_id = "meter"\n'
    path = tmp_path / "hall.toml"
    devices = device("meter", "window = 30\nhop = 2", rate_hz=1)
    path.write_text(GATEWAY + source + devices + 'model = "learn"\n' + device("other"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    found = re.search(r"make a model with: (.*); then: (.*); then set (model = .*)$", str(caught.value))
    assert found is not None
    for command in found.groups()[:2]:
        program, *arguments = shlex.split(command)
        module = {"edge-node": "edge_node.cli", "cloud-sink": "cloud_sink.cli"}[program]
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    path.write_text(GATEWAY + source + devices + f"{found[3]}\n" + device("other"))
    config = load_config(path)
    assert json.loads((config.device("meter").model / "manifest.json").read_text())["window"]["n"] == 30
