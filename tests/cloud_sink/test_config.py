"""sink.toml: the example is whole, and every mistake is named with its line."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from cloud_sink.config import Config, Document, load_config
from cloud_sink.retrain_options import RetrainModel
from models.config_text import ConfigError

EXAMPLE = Path(__file__).parents[2] / "examples" / "sink.toml"
GOOD = '[sink]\nname = "sink-1"\n[broker]\nhost = "b"\n'


def load(folder: Path, text: str) -> Config:
    path = folder / "sink.toml"
    path.write_text(text)
    return load_config(path)


def errors(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(folder, text)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_the_example_says_everything_with_its_default(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    (tmp_path / "ca.pem").write_text("")
    documented: dict[str, dict[str, str]] = {}
    table = ""
    for line in text.splitlines():
        if found := re.match(r"\[(\w+)\]", line):
            table = found[1]
            documented[table] = {}
        elif found := re.match(r"#?(\w+) = (.*?)(?:  +#.*)?$", line):
            documented[table][found[1]] = found[2]
    for field in msgspec.structs.fields(Document):
        options = {f.name: f for f in msgspec.structs.fields(field.type)}
        assert set(documented[field.name]) == set(options) - {"client_id"}, field.name
        shown = msgspec.toml.decode("\n".join(f"{k} = {v}" for k, v in documented[field.name].items()))
        for name, option in options.items():
            free = option.required or option.default is None or name == "client_id"
            default = list(option.default) if isinstance(option.default, tuple) else option.default
            if option.default_factory is not msgspec.NODEFAULT:
                default = option.default_factory()
            assert free or shown[name] == default, f"{field.name}.{name}"
    assert load(tmp_path, text).sink.name == "sink-1"


def test_the_example_of_a_model_that_is_trained_again_says_all_of_its_options() -> None:
    lines = EXAMPLE.read_text().partition("#[[retrain.model]]\n")[2].splitlines()
    shown = msgspec.toml.decode("\n".join(line.removeprefix("#") for line in lines if line.startswith("#  ")))
    options = {f.encode_name: f for f in msgspec.structs.fields(RetrainModel)}
    assert set(shown) == set(options)
    for name, option in options.items():
        assert option.required or option.default is None or shown[name] == option.default, name


def test_places_are_relative_to_the_file(tmp_path: Path) -> None:
    store = load(tmp_path, GOOD).store
    assert store.events == f"sqlite:///{tmp_path / 'events.sqlite'}"
    assert store.features == str(tmp_path / "features")
    far = '[store]\nevents = "postgresql://u@h/d"\nfeatures = "s3://b/f"\n'
    store = load(tmp_path, GOOD + far).store
    assert (store.events, store.features) == ("postgresql+psycopg://u@h/d", "s3://b/f")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[sink]\n", ["sink.toml:1: [sink]: name is missing"]),
        (
            GOOD + "shard = true\n",
            ['sink.toml:5: [broker]: shard = true: unknown key; did you mean "shared"?'],
        ),
        (
            GOOD + '[store]\nevents = "mysql://h/d"\n',
            ['sink.toml:6: [store]: events = "mysql://h/d": expected sqlite or postgresql'],
        ),
        (
            GOOD + '[store]\nevents = "events"\n',
            ['sink.toml:6: [store]: events = "events": expected a URL such as'],
        ),
        (
            GOOD + '[store]\nevents = "postgresql://u:secret@h/d"\n',
            ["sink.toml:6: [store]: events: a password does not belong in this file"],
        ),
        (
            GOOD.replace("sink-1", "a/b"),
            ["sink.toml:2: [sink]: name = \"a/b\": name 'a/b' cannot be part of an MQTT topic"],
        ),
        (GOOD + 'group = "a/b"\n', ['sink.toml:5: [broker]: group = "a/b": group']),
        (
            GOOD + 'client_id = "x"\n',
            ['sink.toml:5: [broker]: client_id = "x": the client id of a sink follows from its name'],
        ),
        (GOOD + 'prefix = "a/#"\n', ['sink.toml:5: [broker]: prefix = "a/#": a level of the prefix']),
        (GOOD + 'password_file = "none"\n', ["sink.toml:3: [broker]: username is missing"]),
        (
            GOOD.replace('name = "sink-1"', 'name = "s"\nmetrics_host = "0.0.0.0"'),
            ['sink.toml:3: [sink]: metrics_host = "0.0.0.0": others than this computer could read'],
        ),
        (
            GOOD + "[limits]\nmax_future_s = -1\n",
            ["sink.toml:6: [limits]: max_future_s = -1: expected a number at least 0"],
        ),
    ],
)
def test_mistakes(tmp_path: Path, text: str, expected: list[str]) -> None:
    found = errors(tmp_path, text)
    for wanted in expected:
        assert any(line.startswith(wanted) for line in found), found
    assert "secret" not in " ".join(found)


def test_what_is_missing_altogether(tmp_path: Path) -> None:
    assert errors(tmp_path, "") == ["sink.toml: the file is empty: expected [sink] and [broker]"]
    found = errors(tmp_path, "[store]\n")
    assert any("[sink]" in line and "missing" in line for line in found)
    assert any("[broker]" in line and "missing" in line for line in found)


def test_bundles_that_score_are_relative_to_the_file_and_must_be_there(tmp_path: Path) -> None:
    text = GOOD + '[scoring]\nmodels = { press = "large" }\n'
    (found,) = errors(tmp_path, text)
    assert "there is no model here" in found
    assert "large/manifest.json does not exist" in found
    (tmp_path / "large").mkdir()
    (tmp_path / "large" / "manifest.json").write_text("{}")
    assert load(tmp_path, text).scoring.models == {"press": tmp_path / "large"}
