"""Whose models a gateway trusts, as the configuration says it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_node.assembly import assemble
from edge_node.config import ConfigError, load_config
from models.keys import public_text
from tests.edge_node.daemons import config as write_config
from tests.edge_node.versions import KEY, PUBLIC, STRANGER, good, signed, written


def configured(folder: Path, models: str, *, key: object = KEY) -> Path:
    version = good(1) if key is None else signed(good(1), key)  # type: ignore[arg-type]
    bundle = folder / "bundle"
    if not bundle.exists():
        written(bundle, version)
    return write_config(folder, 1883, bundle=bundle, gateway=f"[models]\n{models}")


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        assemble(load_config(path), on_notice=lambda _: None)
    return str(caught.value)


def test_keys_are_text_or_files(tmp_path: Path) -> None:
    (tmp_path / "plant.pub").write_text(f"# ours\n{PUBLIC}\n")
    stranger = public_text(STRANGER.public_key())
    config = load_config(configured(tmp_path, f'trusted_keys = ["plant.pub", "{stranger}"]'))
    assert config.trusted_keys == (KEY.public_key(), STRANGER.public_key())
    assert [m.version for m in assemble(config, on_notice=lambda _: None).models] == [1]


def test_without_keys_nothing_need_be_signed(tmp_path: Path) -> None:
    config = load_config(configured(tmp_path, "", key=None))
    assert (config.trusted_keys, config.models.trusted_keys) == ((), ())
    assemble(config, on_notice=lambda _: None)


@pytest.mark.parametrize(
    ("key", "text"),
    [(None, "is not signed. Sign it with a key that this gateway trusts"), (STRANGER, "is not trusted here")],
)
def test_with_keys_what_a_device_names_must_be_signed_too(tmp_path: Path, key: object, text: str) -> None:
    path = configured(tmp_path, f'trusted_keys = ["{PUBLIC}"]', key=key)
    said = refusal(path)
    assert text in said
    number = next(i for i, line in enumerate(path.read_text().splitlines(), 1) if line.startswith("model ="))
    assert said.startswith(f'{path}:{number}: [[device]] "pump-1": model = "bundle": ')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ('["none.pub"]', "none.pub cannot be read: No such file"),
        ('["gateway.toml"]', "is no public key"),
        ('["AAAA"]', "AAAA cannot be read: No such file"),
        ("[1]", "expected a string"),
        ('"plant.pub"', "expected a list"),
    ],
)
def test_what_is_no_key_is_named_by_its_line(tmp_path: Path, value: str, text: str) -> None:
    path = configured(tmp_path, f"trusted_keys = {value}")
    number = next(i for i, line in enumerate(path.read_text().splitlines(), 1) if "trusted_keys" in line)
    said = refusal(path)
    assert said.startswith(f"{path}:{number}: [models]: trusted_keys")
    assert text in said


def test_one_mistake_hides_no_other(tmp_path: Path) -> None:
    path = configured(tmp_path, 'trusted_keys = ["none.pub"]\nshadow_window = 5\nmax_latency_ms = 0')
    said = refusal(path)
    assert 'shadow_window = 5: unknown key; did you mean "shadow_windows"?' in said
    assert "max_latency_ms = 0" in said
    assert "none.pub" in said


def test_a_site_may_not_be_where_models_are(tmp_path: Path) -> None:
    path = configured(tmp_path, "")
    path.write_text(path.read_text().replace('site = "s1"', 'site = "models"'))
    assert '[gateway]: site = "models": models are published there' in refusal(path)


def test_keys_and_limits_are_part_of_what_is_configured(tmp_path: Path) -> None:
    hashes = {
        load_config(configured(tmp_path, text)).config_hash
        for text in ("", f'trusted_keys = ["{PUBLIC}"]', "shadow_windows = 10")
    }
    assert len(hashes) == 3
