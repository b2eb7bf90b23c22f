"""``model``: one that is not there, and one that the gateway learns by itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge_node.config import ConfigError, load_config
from edge_node.config_models import MAX_MODELS

GATEWAY = '[gateway]\nname = "g1"\nmetrics_port = 0\n'


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


@pytest.mark.parametrize(
    ("extra", "rate_hz", "features", "n", "hop"),
    [
        ("", 1000, "vibration", 1024, 512),
        ("", 1, "slow", 60, 1),
        ('features = "slow"\nwindow_s = 0.5', 100, "slow", 50, 1),
        ("window = 64\nhop = 16", 1000, "vibration", 64, 16),
        ("window = 256", 1000, "vibration", 256, 256),
    ],
)
def test_what_a_device_learns_with_suits_its_signal(
    tmp_path: Path, extra: str, rate_hz: int, features: str, n: int, hop: int
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GATEWAY + device("press 4", f'model = "learn"\n{extra}', rate_hz=rate_hz))
    config = load_config(path)
    (found,) = config.devices
    assert found.learn is not None
    assert found.learn.feature_set == features
    assert re.fullmatch(r"learned-press-4-[0-9a-f]{8}", found.learn.model_id)  # "press-4" is another device
    window = config.settle(found, None).window
    assert (window.n, window.hop, window.n_fast) == (n, hop, 10 if features == "slow" else 0)
    assert found.model is None


def test_all_devices_may_learn_and_share_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    cap = "max_alerts_per_week = 1\n"
    path.write_text(
        GATEWAY
        + cap
        + '[defaults]\nmodel = "learn"\n'
        + device("a")
        + device("b", 'model = "none"')
        + device("c")
    )
    devices = load_config(path).devices
    assert [d.learn is not None for d in devices] == [True, False, True]
    assert [d.alerts_per_week for d in devices if d.learn] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('precision = "int8"', 'precision = "int8": what a gateway learns by itself is float32: '),
        (
            'backend = "edgetpu"',
            'backend = "edgetpu": what a gateway learns by itself runs on the CPU alone: ',
        ),
        (
            'mode = "burst"\ninterval_s = 60',
            'window is missing: model = "learn" with mode = "burst" needs the number of samples in a burst',
        ),
        (
            "window = 12",
            "window = 12: vibration features cannot be learned with it: 8 bands need a window of at least 17 ",
        ),
    ],
)
def test_what_cannot_be_learned_is_named_with_its_line(tmp_path: Path, extra: str, said: str) -> None:
    (line,) = errors(tmp_path / "gateway.toml", GATEWAY + device("press-4", f'model = "learn"\n{extra}'))
    where, _, text = line.partition(': [[device]] "press-4": ')
    assert text.startswith(said)
    assert where == ("gateway.toml:4" if "missing" in said else "gateway.toml:9")


def test_a_gateway_that_cannot_write_a_graph_says_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_node.config_models.can_write_graphs", lambda: False)
    (line,) = errors(tmp_path / "gateway.toml", GATEWAY + device("press-4", 'model = "learn"'))
    assert line == (
        'gateway.toml:8: [[device]] "press-4": model = "learn": learning on the gateway needs ai-edge-litert, which is not '
        "installed: pip install 'linewatch[edge]', or name a model"
    )
