from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cloud_sink.bundle import read_bundle
from cloud_sink.cli import main
from models import manifest as manifests
from models.keys import read_public_key
from models.manifest import ModelManifest
from tests.cloud_sink.sinks import config as sink_toml
from tests.fixtures.bundle_files import BUNDLE


@pytest.fixture
def key(tmp_path: Path) -> Path:
    assert main(["keygen", str(tmp_path / "plant")]) == 0
    return tmp_path / "plant"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))


def manifest_of(bundle: Path) -> ModelManifest:
    return manifests.decode((bundle / "manifest.json").read_bytes())


def test_keygen_says_what_to_do_with_the_keys(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    key = tmp_path / "plant"
    assert main(["keygen", str(key)]) == 0
    said = capsys.readouterr().out
    line = (tmp_path / "plant.pub").read_text().splitlines()[-1]
    assert f'trusted_keys = ["{line}"]' in said
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert main(["keygen", str(key)]) == 1
    assert "is there already" in capsys.readouterr().err
    assert key.read_bytes() == before


def test_a_bundle_is_signed_and_signed_again(key: Path, bundle: Path) -> None:
    trusted = (read_public_key(key.with_name("plant.pub")),)
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}
    for _ in range(2):
        assert main(["sign", str(bundle), "--key", str(key)]) == 0
        manifests.verify(manifest_of(bundle), trusted)
    after = {path.name: path.read_bytes() for path in bundle.iterdir()}
    assert after.keys() == {*before, "signer.pub"}
    assert [name for name in before if before[name] != after[name]] == ["manifest.json"]


def test_a_bundle_that_was_changed_since_is_not_published(
    key: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A manifest whose signature does not hold would stand on the topic, and no valid one take its place."""
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    read_bundle(bundle)
    file = bundle / "manifest.json"
    text = file.read_text()
    version = f'"version": {manifest_of(bundle).version}' if '"version": ' in text else None
    found = version or f'"version":{manifest_of(bundle).version}'
    assert found in text
    file.write_text(text.replace(found, '"version":99'))
    toml = sink_toml(tmp_path, 1)
    assert main(["publish", "-c", str(toml), str(bundle)]) == 1
    assert "has been changed since it was signed" in capsys.readouterr().err
    (bundle / "signer.pub").unlink()  # then gateways are the first to see it
    assert read_bundle(bundle)[0].version == 99


def test_the_order_to_go_back(key: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", str(bundle), "--key", str(key), "--takes-back", "3"]) == 0
    rollback = manifest_of(bundle).rollback
    assert isinstance(rollback, manifests.Rollback)
    assert (rollback.takes_back, rollback.issued_ns > 0) == (3, True)
    assert main(["sign", str(bundle), "--key", str(key), "--takes-back", "1"]) == 1
    assert "is no newer one" in capsys.readouterr().err
    assert manifest_of(bundle).rollback == rollback
    assert main(["sign", str(bundle), "--key", str(key)]) == 0
    assert not isinstance(manifest_of(bundle).rollback, manifests.Rollback)


def test_what_cannot_be_signed(key: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sign", str(bundle / "no"), "--key", str(key)]) == 1
    assert "No such file" in capsys.readouterr().err
    assert main(["sign", str(bundle), "--key", str(key) + "s"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    (bundle / "manifest.json").write_text("{}")
    assert main(["sign", str(bundle), "--key", str(key)]) == 1
    assert "train the model again" in capsys.readouterr().err


def test_what_is_trained_with_a_key_is_signed(key: Path, tmp_path: Path) -> None:
    rows = "\n".join(
        f"2024-05-01T{i // 3600:02}:{i // 60 % 60:02}:{i % 60:02}Z,{20 + i * 7919 % 101 / 100},{3 + i * 104729 % 97 / 200}"
        for i in range(4000)
    )
    (tmp_path / "log.csv").write_text(f"time,a,b\n{rows}\n")
    command = [
        "train",
        str(tmp_path / "log.csv"),
        "--features",
        "slow",
        "--window",
        "20",
        "--hop",
        "10",
        "-o",
    ]
    assert main([*command, str(tmp_path / "model"), "--key", str(key)]) == 0
    manifests.verify(manifest_of(tmp_path / "model"), (read_public_key(key.with_name("plant.pub")),))


def test_a_key_that_is_not_there_stops_the_training_before_it_begins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log.csv").write_text("time,a\n")
    command = ["train", str(tmp_path / "log.csv"), "--features", "slow", "-o", str(tmp_path / "model")]
    assert main([*command, "--key", str(tmp_path / "none")]) == 1
    assert "none cannot be read: No such file" in capsys.readouterr().err
